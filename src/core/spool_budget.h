// What collected output files take of the host's memory, until their tasks are
// forgotten: all of them, and those of one owner.
//
// While a task runs, Admission holds its cap on output files for it; what it then
// really left is held here. Whoever holds much is refused a further task that
// collects, and half of all is always the others'.
//
// Layer: core. A hold may end on any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "base/fd.h"
#include "base/result.h"
#include "sched/core.h"

namespace mayfly::core {

class SpoolBudget {
 public:
  explicit SpoolBudget(uint64_t bytes_max) : state_(std::make_shared<State>()) {
    state_->bytes_max = bytes_max;
  }
  // Whether a further task of the owner's may collect.
  base::Status accepts(sched::OwnerId owner) const;
  // The same descriptor; the bytes that its file takes are held until the last copy is gone.
  std::shared_ptr<base::Fd> hold(std::shared_ptr<base::Fd> spool, sched::OwnerId owner);
  uint64_t heldBytes() const;

 private:
  struct State {
    std::mutex mutex;
    uint64_t bytes_max = 0, bytes = 0;
    std::unordered_map<sched::OwnerId, uint64_t> bytes_of;  // without those that hold nothing
  };
  std::shared_ptr<State> state_;
};

}  // namespace mayfly::core
