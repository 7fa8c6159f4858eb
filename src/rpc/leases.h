// The leases of ended tasks: a task that its clients leave alone is forgotten. All leases share
// one timer.
//
// Layer: rpc. Core thread.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <functional>
#include <set>
#include <unordered_map>
#include <utility>

namespace mayfly::rpc {

class TaskState;

class Leases {
 public:
  // Calls `over` with each task whose lease has ended. `over` may call renew() and end().
  Leases(kj::Timer& timer, std::function<void(TaskState&)> over)
      : timer_(timer), over_(std::move(over)) {}

  // Begins the task's lease, or replaces it: it ends `lease` from now.
  void renew(TaskState& task, kj::Duration lease);
  void end(TaskState& task);  // no effect on a task without a lease
  // The time until the task's lease ends; null: it has not begun.
  kj::Maybe<kj::Duration> left(TaskState& task) const;
  void stop();  // call before the loop ends

 private:
  kj::Promise<void> watch();
  void sweep();

  kj::Timer& timer_;
  std::function<void(TaskState&)> over_;
  std::set<std::pair<kj::TimePoint, TaskState*>> by_end_;
  std::unordered_map<TaskState*, kj::TimePoint> ends_;
  kj::Maybe<kj::TimePoint> watched_for_;  // null: the timer is off
  bool sweeping_ = false, stopped_ = false;
  kj::Promise<void> watch_ = nullptr;
};

}  // namespace mayfly::rpc
