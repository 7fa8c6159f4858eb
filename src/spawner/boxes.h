// The boxes of this spawner: made, claimed, ended, each with the proof that it is gone. BoxMachine
// decides the state of a box and the requests that its state allows; this class does the work.
//
// Layer: spawner. One thread. Never blocks.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "spawner/box_machine.h"
#include "spawner/cgroup.h"
#include "spawner/outbox.h"
#include "spawner/poller.h"
#include "spawner/zygotes.h"
#include "wire/spawner.h"
#include "wire/zygote.h"

namespace mayfly::spawner {

struct Box {
  base::BoxId id = 0;
  Zygote* owner = nullptr;
  BoxMachine machine;
  base::Limits limits;
  uint32_t uid_first = 0;
  // Whether the spawner asks for the clone as soon as the init is known, and whether it rehearses.
  enum class Clone : uint8_t { atOnce, whenAsked } clone_comes = Clone::atOnce;
  CloneSource::Rehearse rehearse = CloneSource::Rehearse::no;
  BoxCgroups cgroups;
  base::Fd init, clone;  // pidfds; empty once reaped
  // The source prepares a clone, or failed without one: it may have left processes in the box that
  // nobody has named.
  bool clone_unnamed = false;
  base::Fd init_status;  // our end of the init's socket; its close ends the init
  base::Fd disk;         // root of the box's disk
  base::Fd memory_watch, process_watch;
  base::Fd collector;  // or the process that frees the disk
  base::Fd spool;
  base::Fd go, go_theirs;  // pipe to the clone: a byte of the init's (the box stands), one of
                           // ours (its task may start)
  base::Fd their_fds[4];   // control, stdin, stdout, stderr: the clone's ends
  base::Fd our_fds[4];
  base::Fd doors[wire::kInitDoorFds];  // from the init, for mayflyd; empty if the zygote has none
  uint64_t process_keys[2] = {};       // of init and clone, in the zygote's book
  uint32_t pid_host = 0;
  bool watches_told[2] = {};
  uint32_t collect_ms_max = 0;
  wire::CollectState collect_state = wire::CollectState::none;
  uint64_t answer_due_ns = 0;   // of the maker, the zygote or the init; 0: no answer is awaited
  uint64_t answer_last_ns = 0;  // the same, if it is busy
  uint64_t deadline_ns = 0;     // of the present state, while it ends
  uint64_t next_try_ns = 0;
  uint32_t tries = 0;                           // to remove its cgroups
  uint32_t looks = 0;                           // for a process that nobody has named
  wire::Event result;                           // boxReaped, then boxGone, as it grows
  uint64_t box_ready_ns = 0, restarted_ns = 0;  // the latter of the counters
};

// What a source needs for a box's clone, with the descriptors that live as long as the asking.
struct CloneAsk {
  std::vector<base::Fd> tasks;
  base::Fd cgroup;
  CloneSource::Ask ask;
};

class Boxes : public Zygotes::Client {
 public:
  Boxes(Poller& poller, Outbox& out, const CgroupTree& tree, Zygotes& zygotes)
      : poller_(poller), out_(out), tree_(tree), zygotes_(zygotes) {}
  void setReaper(std::function<void()> reap_strays) { reap_strays_ = std::move(reap_strays); }

  // A request on a box. `unsound` names its fault, or is null.
  void on(const wire::Request& request, base::Received& fds, const char* unsound);
  void endAll();

  Said onInitMade(Zygote& z, const wire::InitMade& made, base::Fd init) override;
  Said onClone(Zygote& z, CloneSource::Answer answer) override;
  void onSpoiled(const Zygote& z, base::BoxId id) override;
  void onAnswersLost(const Zygote& z, const char* who, const std::string& why) override;
  void onRetired(const Zygote& z) override;

  void onEvent(Source source, base::BoxId id);
  uint64_t nextTimer() const;  // monotonic ns; UINT64_MAX: none
  void runTimers();
  bool empty() const { return boxes_.empty(); }
  bool tasksRun() const { return claimed_ != 0; }
  void onTooManyLocks(base::BoxId id);
  bool owns(const std::function<bool(const base::Fd&)>& is) const;

 private:
  Box* find(base::BoxId id) const;
  void tell(const Box& box, wire::Kind kind, const std::string& text = {});

  // --- making (box_making.cc) ---
  void make(const wire::Request& request, const char* unsound);
  base::Status prepare(Box& box);
  base::Status askInit(Box& box);
  base::Status makeChannels(Box& box);
  base::Status adopt(Box& box, base::Fd& place, base::Fd process, uint64_t key, Source source);
  void onInitStatus(Box& box);
  void arrived(Box& box);
  void askCloneOrFail(Box& box);
  base::Status askClone(Box& box);
  void prepareClone(Box& box);
  base::Result<CloneAsk> partsOf(const Box& box) const;
  void tellMade(Box& box);
  void failBox(Box& box, const std::string& step, const base::Error& error);
  void awaitAnswer(Box& box);
  void awaitAnswer(Box& box, uint64_t ms_max);
  void awaitNothing(Box& box);
  void onSilent(Box& box);

  // --- while it lives (boxes.cc) ---
  void giveUp(Box& box, const std::string& why);
  void clone(Box& box, const wire::Request& request);
  void claim(Box& box, const wire::Request& request);
  void end(Box& box, const wire::Request& request, base::Received& fds, const char* unsound);
  void sample(Box& box);
  void terminate(Box& box);
  base::Status changeCaps(Box& box, const base::Limits& limits);
  void restartCounters(Box& box);
  void readDisk(const Box& box, wire::Counters* counters) const;
  void onInitExit(Box& box);
  void onCloneExit(Box& box);
  void onCapEvent(Box& box, wire::Cap cap);
  void chargeSockets(Box& box);
  void tellCap(Box& box, wire::Cap cap);

  // --- ending (box_ending.cc) ---
  void beginEnd(Box& box, BoxEvent why);
  void tryFinishReaping(Box& box);
  void reapUnnamed(const Box& box);
  void afterReaped(Box& box);
  void freeDisk(Box& box);
  void awaitChild(Box& box, base::Fd child, BoxEvent event, uint64_t ms_max);
  void onCollectorExit(Box& box);
  void beginRemove(Box& box);
  void tryRemove(Box& box);
  void onLate(Box& box);
  void reportStuck(Box& box, const std::string& what);
  void drop(Box& box);

  Poller& poller_;
  Outbox& out_;
  const CgroupTree& tree_;
  Zygotes& zygotes_;
  std::function<void()> reap_strays_;
  const uint64_t cores_ = static_cast<uint64_t>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
  std::unordered_map<base::BoxId, std::unique_ptr<Box>> boxes_;
  uint32_t claimed_ = 0;            // of boxes_: those whose task may run
  std::set<base::BoxId> ending_;    // of boxes_: those that timers are for
  std::set<base::BoxId> awaiting_;  // of boxes_: those with an answer_due_ns
};

}  // namespace mayfly::spawner
