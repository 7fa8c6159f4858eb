// When what a client left alone is forgotten: one timer for all of it.
//
// Layer: rpc. RPC thread.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <cstdint>
#include <functional>
#include <set>
#include <unordered_map>
#include <utility>

namespace mayfly::rpc {

class Leases {
 public:
  // `over` hears of each key whose lease has ended; it may call renew() and end().
  Leases(kj::Timer& timer, std::function<void(uint64_t key)> over)
      : timer_(timer), over_(std::move(over)) {}

  // The key's lease ends so long from now, whatever it was before.
  void renew(uint64_t key, kj::Duration lease);
  void end(uint64_t key);  // nothing if it has none
  void stop();             // before the loop ends

 private:
  kj::Promise<void> watch();
  void sweep();

  kj::Timer& timer_;
  std::function<void(uint64_t)> over_;
  std::set<std::pair<kj::TimePoint, uint64_t>> by_end_;
  std::unordered_map<uint64_t, kj::TimePoint> ends_;
  kj::Maybe<kj::TimePoint> watched_for_;  // null: nothing is waited for
  bool sweeping_ = false, stopped_ = false;
  kj::Promise<void> watch_ = nullptr;
};

}  // namespace mayfly::rpc
