#include "rpc/leases.h"

#include <kj/debug.h>

namespace mayfly::rpc {

void Leases::stop() {
  stopped_ = true;
  watch_ = nullptr;
}

void Leases::renew(uint64_t key, kj::Duration lease) {
  end(key);
  if (stopped_) return;
  kj::TimePoint at = timer_.now() + lease;
  ends_.emplace(key, at);
  by_end_.emplace(at, key);
  KJ_IF_MAYBE (watched, watched_for_) {
    if (*watched <= at) return;
  }
  // The watch looks again itself after a sweep; it must not be replaced while it runs.
  if (!sweeping_) watch_ = watch().eagerlyEvaluate([](kj::Exception&&) {});
}

void Leases::end(uint64_t key) {
  auto it = ends_.find(key);
  if (it == ends_.end()) return;
  by_end_.erase({it->second, key});
  ends_.erase(it);
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
    uint64_t key = by_end_.begin()->second;
    end(key);
    // One that cannot be forgotten properly must not keep the others for ever.
    (void)kj::runCatchingExceptions([&] { over_(key); });
  }
  sweeping_ = false;
}

}  // namespace mayfly::rpc
