// How a zygote's clones are made. Boxes ask for a clone and get a process; no other code knows the
// mechanism behind it.
//
// `fork` and `exec` templates have the same source, a process that forks itself into boxes: a
// `fork` zygote has loaded an interpreter, an `exec` zygote executes a command. The source of
// `restore` templates, mayfly-restorer, has each clone restored from a snapshot.
//
// Layer: spawner. Never blocks.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <unordered_set>

#include "base/fd.h"
#include "base/result.h"
#include "base/task.h"

namespace mayfly::spawner {

class CloneSource {
 public:
  enum class Rehearse : uint8_t { no, yes };
  // The parts of a clone; all descriptors stay the caller's.
  struct Ask {
    base::BoxId box = 0;
    Rehearse rehearse = Rehearse::no;
    base::FdView init;    // pidfd of the box's init, whose namespaces the clone enters
    base::FdView cgroup;  // v2 folder in which it is born
    base::FdView go;  // delivers a byte once the box is complete, and one when the task may start
    std::span<const base::Fd> streams;  // control, stdin, stdout, stderr
    std::span<const base::Fd> tasks;    // v1 `tasks` files that it joins
  };
  struct Answer {
    enum class What : uint8_t {
      none,     // no answer is pending
      ready,    // clones may be requested
      refused,  // it cannot serve: `error`, `text`
      made,     // the clone of `box`
      failed,   // the clone of `box` was not made: `error`, `text`
      spoiled,  // what was prepared in `box` has ended: it can have no clone
      ended,    // the source sends nothing more
      broken,   // it sent a message that no source sends
    };
    What what = What::none;
    base::BoxId box = 0;
    int error = 0;  // errno; 0: `text` is a whole sentence
    std::string text;
    base::Fd clone;      // pidfd
    bool again = false;  // failed, by no fault of the box's: another may get its clone
  };

  virtual ~CloneSource() = default;
  virtual base::Status ask(const Ask& ask) = 0;
  // The box stands and its clone may be asked for later: does what can be done before. No answer
  // comes but `spoiled`. False: this source has nothing to do, or could not be told.
  virtual bool prepare(const Ask& ask) = 0;
  virtual base::FdView answers() const = 0;  // polls readable when an answer is pending
  virtual Answer receive() = 0;
  virtual bool open() const = 0;  // it has not closed its end
  // Whether a clone may be requested while its box's walls are still rising.
  enum class Needs : uint8_t { init, wholeBox };
  virtual Needs needs() const = 0;
  // Within which it answers a request for a clone, unless it hangs.
  virtual uint64_t answerMsMax() const = 0;
  virtual void close() = 0;  // we close it: no further answer comes
};

// A zygote process at the other end of `channel` (wire/zygote.h).
std::unique_ptr<CloneSource> makeForkingSource(base::Fd channel);
// mayfly-restorer, serving. Every restore is made by a process of its own, a child of the
// spawner's like the clone: the source reaps it, and its exit status has to say that it restored.
// `passed`: keys of the processes that were passed before; none of them is one that restored. It
// has to live as long as the source.
std::unique_ptr<CloneSource> makeRestoringSource(base::Fd channel,
                                                 const std::unordered_set<uint64_t>& passed);

}  // namespace mayfly::spawner
