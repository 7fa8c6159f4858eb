// When what a client left alone is forgotten: one timer for all of it.
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
  // `over` hears of each task whose lease has ended; it may call renew() and end().
  Leases(kj::Timer& timer, std::function<void(TaskState&)> over)
      : timer_(timer), over_(std::move(over)) {}

  // The task's lease ends so long from now, whatever it was before.
  void renew(TaskState& task, kj::Duration lease);
  void end(TaskState& task);  // nothing if it has none
  void stop();                // before the loop ends

 private:
  kj::Promise<void> watch();
  void sweep();

  kj::Timer& timer_;
  std::function<void(TaskState&)> over_;
  std::set<std::pair<kj::TimePoint, TaskState*>> by_end_;
  std::unordered_map<TaskState*, kj::TimePoint> ends_;
  kj::Maybe<kj::TimePoint> watched_for_;  // null: nothing is waited for
  bool sweeping_ = false, stopped_ = false;
  kj::Promise<void> watch_ = nullptr;
};

}  // namespace mayfly::rpc
