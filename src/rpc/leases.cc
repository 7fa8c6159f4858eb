#include "rpc/leases.h"

#include <kj/debug.h>

namespace mayfly::rpc {

void Leases::stop() {
  stopped_ = true;
  watch_ = nullptr;
}

void Leases::renew(TaskState& task, kj::Duration lease) {
  end(task);
  if (stopped_) return;
  kj::TimePoint at = timer_.now() + lease;
  ends_.emplace(&task, at);
  by_end_.emplace(at, &task);
  KJ_IF_MAYBE (watched, watched_for_) {
    if (*watched <= at) return;
  }
  // A sweep runs within `watch_`, which must not be replaced meanwhile and re-arms itself after it.
  if (!sweeping_) watch_ = watch().eagerlyEvaluate([](kj::Exception&&) {});
}

void Leases::end(TaskState& task) {
  auto it = ends_.find(&task);
  if (it == ends_.end()) return;
  by_end_.erase({it->second, &task});
  ends_.erase(it);
}

kj::Maybe<kj::Duration> Leases::left(TaskState& task) const {
  auto it = ends_.find(&task);
  if (it == ends_.end()) return nullptr;
  return it->second > timer_.now() ? it->second - timer_.now() : 0 * kj::NANOSECONDS;
}

kj::Promise<void> Leases::watch() {
  if (by_end_.empty()) {
    watched_for_ = nullptr;
    return kj::READY_NOW;
  }
  watched_for_ = by_end_.begin()->first;
  return timer_.atTime(by_end_.begin()->first).then([this] {
    sweep();
    return watch();
  });
}

void Leases::sweep() {
  sweeping_ = true;
  while (!by_end_.empty() && by_end_.begin()->first <= timer_.now()) {
    TaskState& task = *by_end_.begin()->second;
    end(task);
    // If forgetting one task throws, the other tasks are still forgotten.
    (void)kj::runCatchingExceptions([&] { over_(task); });
  }
  sweeping_ = false;
}

}  // namespace mayfly::rpc
