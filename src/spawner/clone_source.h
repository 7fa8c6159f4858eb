// How a zygote's clones come to be. Boxes ask for a clone and get a process; the mechanism
// behind it is nobody else's business.
//
// `fork` and `exec` templates have the same source, a process that forks itself into boxes: the
// one has loaded an interpreter, the other executes a command. A source that restores clones
// from an image of memory implements the same interface.
//
// Layer: spawner. Never blocks.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "base/task.h"

namespace mayfly::spawner {

class CloneSource {
 public:
  enum class Rehearse : uint8_t { no, yes };
  // What a clone is made of; all descriptors stay the caller's.
  struct Ask {
    base::BoxId box = 0;
    Rehearse rehearse = Rehearse::no;
    base::FdView init;    // pidfd of the box's init, whose namespaces the clone enters
    base::FdView cgroup;  // v2 folder that it is born in
    base::FdView go;      // gives a byte once the box stands, and one when the task may start
    std::span<const base::Fd> streams;  // control, stdin, stdout, stderr
    std::span<const base::Fd> tasks;    // v1 `tasks` files that it joins
  };
  struct Answer {
    enum class What : uint8_t {
      none,     // no answer waits
      ready,    // clones may be asked for
      refused,  // it cannot serve: `error`, `text`
      made,     // the clone of `box`
      failed,   // the clone of `box` was not made: `error`, `text`
      ended,    // it says nothing any more
      broken,   // it said what no source says
    };
    What what = What::none;
    base::BoxId box = 0;
    int error = 0;  // errno; 0 where `text` is a whole sentence
    std::string text;
    base::Fd clone;  // pidfd
  };

  virtual ~CloneSource() = default;
  virtual base::Status ask(const Ask& ask) = 0;
  virtual base::FdView answers() const = 0;  // polls when one waits
  virtual Answer receive() = 0;
  virtual bool open() const = 0;  // it has not closed its end
  virtual void close() = 0;       // ours: no answer comes any more
};

// A zygote process at the other end of `channel` (wire/zygote.h).
std::unique_ptr<CloneSource> makeForkingSource(base::Fd channel);

}  // namespace mayfly::spawner
