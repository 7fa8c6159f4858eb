// Parts of the simulator: its own queue, and what a step takes.
//
// Layer: pool, internal to its simulator. Pure.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "pool/sim.h"

namespace mayfly::pool {

// First come, first served.
class PlainQueue final : public SimQueue {
 public:
  PlainQueue(uint32_t places, uint32_t queue_max) : places_(places), queue_max_(queue_max) {}
  bool enqueue(base::TaskId task, const Arrival&, uint64_t) override {
    // With a free place, nobody waits.
    if (held_ >= places_ && queue_.size() >= queue_max_) return false;
    queue_.push_back(task);
    return true;
  }
  std::optional<base::TaskId> next(uint64_t) override {
    if (queue_.empty() || held_ >= places_) return std::nullopt;
    const base::TaskId task = queue_.front();
    queue_.pop_front();
    ++held_;
    return task;
  }
  void release(base::TaskId, uint64_t) override { --held_; }

 private:
  uint32_t places_, queue_max_, held_ = 0;
  std::deque<base::TaskId> queue_;
};

// The rest of a run, after its first byte. A task computes, then waits.
SimStep runOf(const Arrival& arrival, const SimCosts& costs);
// The making of a box, a clone, or both; `spread` times the usual.
SimStep makeOf(const SimCosts& costs, bool box, bool clone, double spread);
// Sorts them.
SimTimes timesOf(std::vector<uint64_t>& all_ns);

}  // namespace mayfly::pool
