// Who gets a box next: a bounded queue, round robin over owners, first come first
// served within one, and the host's budgets.
//
// The head of the line waits until it fits: a large task is never starved by
// small ones. Tasks of a template that is not ready are passed over.
//
// Layer: sched. Pure. Core thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "sched/core.h"

namespace mayfly::sched {

// What one box takes of the host.
struct Demand {
  uint64_t memory_bytes = 0;
  uint32_t fds = 0;  // of the daemon
  uint32_t pids = 0;
  uint32_t ptys = 0;  // pseudo-terminals, of one pool of the kernel's
};

struct Budget {
  uint32_t boxes_max = 64;   // with a task
  uint32_t parked_max = 0;   // without one, beside those; the pool's, not looked at here
  uint32_t stocked_max = 0;  // without a clone either, beside both
  uint32_t queue_tasks_max = 1'000;
  uint32_t queue_tasks_per_owner_max = 1'000;
  uint64_t memory_bytes_max = 16ull << 30;
  uint32_t fds_max = 4'096;
  uint32_t pids_max = 16'384;
  uint32_t ptys_max = 1'024;
};

class Admission {
 public:
  explicit Admission(const Budget& budget) : budget_(budget) {}

  // resourceExhausted at once where the queue is full; invalidArgument where the
  // demand can never be met.
  base::Status accepts(OwnerId owner, const Demand& demand) const;
  base::Status enqueue(base::TaskId task, OwnerId owner, base::LaneId lane, Demand demand);
  // The next task that may have a box now; it holds a slot until release().
  std::optional<base::TaskId> next(const std::function<bool(base::LaneId)>& ready);
  void withdraw(base::TaskId task);  // leaves the queue; nothing if it is not in it
  void release(base::TaskId task);   // gives its slot back; nothing if it holds none
  // A task that holds a slot gives it back and is its owner's next, and the owner the next.
  void putBack(base::TaskId task, OwnerId owner, base::LaneId lane);

  std::vector<base::TaskId> queuedFor(base::LaneId lane) const;
  size_t queued() const { return queued_; }
  size_t held() const { return held_.size(); }
  const Budget& budget() const { return budget_; }

 private:
  struct Waiting {
    base::TaskId task;
    base::LaneId lane;
    Demand demand;
  };
  bool fits(const Demand& demand) const;
  bool couldEverFit(const Demand& demand) const;

  Budget budget_;
  Demand used_;
  // Invariant: an owner is in ring_ once, and in lines_, while it has a task queued.
  std::list<OwnerId> ring_;
  std::map<OwnerId, std::deque<Waiting>> lines_;
  std::unordered_map<base::TaskId, OwnerId> owner_of_;
  std::unordered_map<base::TaskId, Demand> held_;
  size_t queued_ = 0;
};

}  // namespace mayfly::sched
