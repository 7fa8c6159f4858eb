// The clones of one lane that have no task yet, and the tasks that wait for one.
//
//   making -> ready -> claimed        a clone; each arrow once
//
// A task gets the oldest ready clone at once; else the next one that becomes
// ready, in the order of asking. A clone is claimed at most once, and a claimed
// one never comes back.
//
// Where a new zygote takes the old one's place, the old one's parked clones serve on, and
// each ends when a new one is parked. A dead zygote's clones end at once.
//
// Layer: pool. Pure. Core thread.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/task.h"

namespace mayfly::pool {

inline constexpr uint64_t kParkPauseFirst_ns = 100'000'000;  // after a failure; doubles
inline constexpr uint64_t kParkPauseMax_ns = 10'000'000'000;
inline constexpr uint64_t kParkPauseForget_ns = 60'000'000'000;  // without a failure
inline constexpr uint64_t kEarlyDeath_ns =
    1'000'000'000;  // of a parked clone: as one that could not be made

enum class CloneState : uint8_t { making, ready };

// What the pool wants done now. Boxes that are to end are not of the pool any more.
struct Work {
  uint32_t make_for_tasks = 0;  // tasks wait: no rehearsal, it would only cost them time
  uint32_t make_to_park = 0;
  std::vector<base::BoxId> end;
};

class ClonePool {
 public:
  explicit ClonePool(uint32_t making_max) : making_max_(making_max) {}

  // --- tasks ---
  // The clone that is now the task's, or nothing: then it waits.
  std::optional<base::BoxId> claim(base::TaskId task);
  void withdraw(base::TaskId task);  // waits no more; nothing if it does not wait

  // --- boxes ---
  enum class Rehearsed : uint8_t { no, yes };
  // Of the present zygote.
  void asked(base::BoxId box, Rehearsed rehearsed);
  // Its clone is ready: the task that has it now, or 0: it is parked, unless `end` says
  // that nobody wants it.
  struct Handed {
    base::TaskId task = 0;
    bool end = false;
  };
  Handed ready(base::BoxId box, uint64_t now_ns);
  // It will not be, or is not any more. If a task waits and no other box is in the making
  // for it, that task: it has to hear of it; it waits no more then.
  std::optional<base::TaskId> lost(base::BoxId box, uint64_t now_ns);
  bool holds(base::BoxId box) const { return boxes_.count(box) != 0; }

  // --- size ---
  void setTarget(uint32_t parked) { target_ = parked; }
  // --- zygotes ---
  // From here on clones are this one's.
  void setZygote(base::ZygoteId zygote);
  // None of its clones gets a task: the parked ones, to be ended, are the pool's no more; one
  // in the making is ended when it is ready.
  std::vector<base::BoxId> endZygote(base::ZygoteId zygote);
  // `may_make`: whether the template's zygote serves. `park`: whether refill is welcome now.
  Work work(bool may_make, bool park, uint64_t now_ns);
  // When parking goes on after failures, until `work` is asked then; 0: nothing is planned.
  uint64_t due_ns() const { return park_after_ns_; }
  // All that it holds; empty afterwards. Tasks that wait go on waiting.
  std::vector<base::BoxId> drop();

  std::vector<base::TaskId> waitingTasks() const { return {waiting_.begin(), waiting_.end()}; }
  // Whoever waits for the clone after `making()` others; 0: nobody.
  base::TaskId waitingTask(uint32_t at) const { return at < waiting_.size() ? waiting_[at] : 0; }
  uint32_t target() const { return target_; }
  uint32_t making() const { return making_; }
  uint32_t parked() const { return static_cast<uint32_t>(ready_.size()); }
  uint32_t parkedOfPresent() const { return parked() - old_parked_; }
  uint32_t waiting() const { return static_cast<uint32_t>(waiting_.size()); }

 private:
  struct Clone {
    CloneState state = CloneState::making;
    Rehearsed rehearsed = Rehearsed::no;
    base::ZygoteId zygote = 0;
    bool stale = false;
    uint64_t ready_ns = 0;
    std::list<base::BoxId>::iterator at;  // in ready_
  };
  void erase(std::unordered_map<base::BoxId, Clone>::iterator it);

  uint32_t making_max_;
  uint64_t park_after_ns_ = 0;             // 0: parking is not held
  uint64_t pause_ns_ = 0, failed_ns_ = 0;  // the last failure's
  uint32_t target_ = 0;
  uint32_t making_ = 0;
  base::ZygoteId zygote_ = 0;
  uint32_t old_parked_ = 0;  // of ready_, not the present zygote's
  std::unordered_map<base::BoxId, Clone> boxes_;
  std::list<base::BoxId> ready_;  // oldest first
  std::deque<base::TaskId> waiting_;
};

}  // namespace mayfly::pool
