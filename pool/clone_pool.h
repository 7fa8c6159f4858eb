// The clones of one lane that have no task yet, and the tasks that wait for one.
//
//   making -> ready -> claimed        a clone; each arrow once
//
// A task gets the oldest ready clone at once; else the next clone that becomes ready, in the order
// of requests. A clone is claimed at most once, and never returns.
//
// When a new zygote replaces an old one, the old zygote's parked clones still serve; one of them
// ends whenever a new clone is parked. A dead zygote's clones end at once.
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
inline constexpr uint64_t kParkPauseForget_ns =
    60'000'000'000;  // after this time without a failure, the next pause is the first again
// A parked clone that dies within this time counts as one that could not be made.
inline constexpr uint64_t kEarlyDeath_ns = 1'000'000'000;

enum class CloneState : uint8_t { making, ready };

// The actions to take now. Boxes in `end` no longer belong to the pool.
struct Work {
  uint32_t make_for_tasks = 0;  // for waiting tasks: no rehearsal, which would only cost them time
  uint32_t make_to_park = 0;
  std::vector<base::BoxId> end;
};

class ClonePool {
 public:
  explicit ClonePool(uint32_t making_max) : making_max_(making_max) {}

  // --- tasks ---
  // The clone that now belongs to the task, or nothing: then the task waits.
  std::optional<base::BoxId> claim(base::TaskId task);
  void withdraw(base::TaskId task);  // waits no more; no effect if it does not wait

  // --- boxes ---
  enum class Rehearsed : uint8_t { no, yes };
  // A clone of the present zygote is requested.
  void asked(base::BoxId box, Rehearsed rehearsed);
  // The clone is ready: `task` gets it; 0: it is parked, unless `end` says that nobody wants it.
  struct Handed {
    base::TaskId task = 0;
    bool end = false;
  };
  Handed ready(base::BoxId box, uint64_t now_ns);
  // The clone failed or died. Returns the waiting task, if one waits and no other box is being made
  // for it: it must be told, and waits no more.
  std::optional<base::TaskId> lost(base::BoxId box, uint64_t now_ns);
  bool holds(base::BoxId box) const { return boxes_.count(box) != 0; }

  // --- size ---
  void setTarget(uint32_t parked) { target_ = parked; }
  // --- zygotes ---
  // From here on, new clones are this zygote's.
  void setZygote(base::ZygoteId zygote);
  // None of the zygote's clones gets a task: returns its parked ones, which must end and no longer
  // belong to the pool; a clone being made ends when it is ready.
  std::vector<base::BoxId> endZygote(base::ZygoteId zygote);
  // `may_make`: the lane's zygote serves. `park`: parking is welcome now.
  Work work(bool may_make, bool park, uint64_t now_ns);
  // When parking may resume after failures, unless work() is called before; 0: nothing is planned.
  uint64_t due_ns() const { return park_after_ns_; }
  // All boxes of the pool, which is then empty. Waiting tasks still wait.
  std::vector<base::BoxId> drop();

  std::vector<base::TaskId> waitingTasks() const { return {waiting_.begin(), waiting_.end()}; }
  // The task that waits for the clone after `at` others; 0: none.
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
  uint64_t park_after_ns_ = 0;             // 0: parking is not delayed
  uint64_t pause_ns_ = 0, failed_ns_ = 0;  // of the last failure
  uint32_t target_ = 0;
  uint32_t making_ = 0;
  base::ZygoteId zygote_ = 0;
  uint32_t old_parked_ = 0;  // clones in ready_ that are not the present zygote's
  std::unordered_map<base::BoxId, Clone> boxes_;
  std::list<base::BoxId> ready_;  // oldest first
  std::deque<base::TaskId> waiting_;
};

}  // namespace mayfly::pool
