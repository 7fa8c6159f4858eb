// When the boxes of one lane are made and ended: for waiting tasks, to park, to stock, in that
// order. Parking waits until the last claims are over, stocking until the daemon was idle for a
// while.
//
// Layer: pool. Pure: time is an argument. Core thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "base/task.h"
#include "pool/clone_pool.h"

namespace mayfly::pool {

// Making a clone costs both cores some milliseconds. While more than half of the pool is there,
// this time belongs to the tasks that were claimed last.
inline constexpr uint64_t kParkQuiet_ns = 5'000'000;       // after the end of the last claim
inline constexpr uint64_t kClaimQuietMax_ns = 20'000'000;  // a longer claim delays nothing
inline constexpr uint64_t kStockQuiet_ns = 5'000'000;      // after the last claim, make or end
inline constexpr uint64_t kStockPause_ns = 1'000'000'000;  // after a box that could not be stocked

class Refill {
 public:
  // One box to make.
  struct Make {
    enum class What : uint8_t { forTask, park, stock } what;
    base::BoxId in = 0;     // not 0: this stocked box gets a clone; no new box is made
    base::TaskId task = 0;  // forTask: the task that waits for it, at present
    ClonePool::Rehearsed rehearsed() const {
      return what == What::park ? ClonePool::Rehearsed::yes : ClonePool::Rehearsed::no;
    }
  };
  // Boxes in `end` no longer belong to the lane.
  struct Work {
    std::vector<base::BoxId> end;
    std::vector<Make> make;
  };

  explicit Refill(uint32_t making_max) : pool_(making_max) {}

  // `serves`: the lane's zygote makes clones. The caller confirms each Make with asked().
  Work work(bool serves, uint64_t now_ns);
  // When work() may have more to do without another event; 0: never.
  uint64_t due_ns() const { return due_ns_; }

  // --- tasks ---
  // The clone that now belongs to the task, or nothing: then the task waits.
  std::optional<base::BoxId> claim(base::TaskId task) { return pool_.claim(task); }
  void withdraw(base::TaskId task) { pool_.withdraw(task); }
  // From the claim's message to the task's start, or to its end before a start.
  void claimBegan(uint64_t now_ns);
  void claimOver();
  std::vector<base::TaskId> waitingTasks() const { return pool_.waitingTasks(); }

  // --- boxes ---
  void asked(const Make& make, base::BoxId box);
  void stocked(base::BoxId box, uint64_t now_ns);
  ClonePool::Handed ready(base::BoxId box, uint64_t now_ns);
  struct Lost {
    bool clone =
        false;  // the box had a clone, parked or being made; else it was stocked, or unknown
    base::TaskId task = 0;  // the task that must be told
  };
  Lost lost(base::BoxId box, uint64_t now_ns);
  void happened(uint64_t now_ns) { quiet_from_ns_ = now_ns; }  // a box is gone: its end took time

  // --- sizes ---
  void setTarget(uint32_t parked, uint32_t stocked);
  bool hasTarget(uint32_t parked, uint32_t stocked) const {
    return pool_.target() == parked && stock_target_ == stocked;
  }

  // --- zygotes ---
  // From here on, new boxes are this zygote's. Returns the earlier zygote's stock, which must end.
  std::vector<base::BoxId> setZygote(base::ZygoteId zygote);
  // None of the zygote's clones gets a task. Returns its parked and stocked boxes, which must end.
  std::vector<base::BoxId> endZygote(base::ZygoteId zygote);
  // All boxes of the lane, which is then empty. Waiting tasks still wait.
  std::vector<base::BoxId> drop();

  uint32_t parked() const { return pool_.parked(); }
  uint32_t parkedTarget() const { return pool_.target(); }
  uint32_t stocked() const { return static_cast<uint32_t>(stock_.size()); }
  uint32_t stockedTarget() const { return stock_target_; }
  uint32_t making() const { return pool_.making(); }
  uint32_t waiting() const { return pool_.waiting(); }

 private:
  bool mayPark(uint64_t now_ns);
  void stockUp(bool serves, uint64_t now_ns, Work* work);
  void dueAt(uint64_t at_ns) { due_ns_ = due_ns_ == 0 ? at_ns : std::min(due_ns_, at_ns); }
  std::vector<base::BoxId> takeStock();

  ClonePool pool_;
  base::ZygoteId zygote_ = 0;
  std::deque<base::BoxId> stock_;  // complete, without a clone; oldest first
  base::BoxId stocking_ = 0;       // the box being stocked, at most one at a time
  uint32_t stock_target_ = 0;
  uint64_t stock_after_ns_ = 0;  // a pause after a failure
  uint64_t quiet_from_ns_ = 0;   // the last claim, make or end
  uint32_t claims_ = 0;          // in progress
  uint64_t claimed_ns_ = 0;      // the last claim
  uint64_t due_ns_ = 0;
};

}  // namespace mayfly::pool
