#include "edge/asio_port.h"

#include <kj/debug.h>

#include <algorithm>
#include <utility>

#include <boost/asio/post.hpp>

#include "base/clock.h"

namespace mayfly::edge {

namespace {

kj::TimePoint clockNow() {
  return kj::origin<kj::TimePoint>() + static_cast<int64_t>(base::monotonicNs()) * kj::NANOSECONDS;
}

// steady_clock and base::monotonicNs() read the same clock.
std::chrono::steady_clock::time_point hostTime(kj::TimePoint time) {
  return std::chrono::steady_clock::time_point(
      std::chrono::nanoseconds((time - kj::origin<kj::TimePoint>()) / kj::NANOSECONDS));
}

}  // namespace

// --- Timer -----------------------------------------------------------------------

AsioPort::Timer::Timer(AsioPort& port) : port_(port), waits_(clockNow()), alarm_(port.host_) {}

kj::TimePoint AsioPort::Timer::now() const { return clockNow(); }

kj::Promise<void> AsioPort::Timer::atTime(kj::TimePoint time) {
  auto promise = waits_.atTime(time);
  arm();
  return promise;
}

kj::Promise<void> AsioPort::Timer::afterDelay(kj::Duration delay) { return atTime(now() + delay); }

// If the wait that set the alarm is dropped, the alarm still fires and is set for the next wait.
void AsioPort::Timer::arm() {
  KJ_IF_MAYBE (next, waits_.nextEvent()) {
    KJ_IF_MAYBE (armed, armed_for_) {
      if (*armed <= *next) return;
    }
    armed_for_ = *next;
    alarm_.expires_at(hostTime(*next));
    alarm_.async_wait([self = port_.self_](boost::system::error_code failed) {
      if (failed || *self == nullptr) return;
      Timer& timer = (*self)->timer_;
      timer.armed_for_ = nullptr;
      timer.waits_.advanceTo(clockNow());
      timer.arm();
    });
  }
}

// --- AsioPort --------------------------------------------------------------------

AsioPort::AsioPort(boost::asio::io_context& host, TurnBounds bounds,
                   kj::Function<void(kj::Exception&&)> on_fault)
    : host_(host),
      bounds_(bounds),
      on_fault_(kj::mv(on_fault)),
      self_(std::make_shared<AsioPort*>(this)),
      timer_(*this),
      loop_(*this),
      scope_(loop_) {}

AsioPort::~AsioPort() noexcept(false) { *self_ = nullptr; }

bool AsioPort::wait() {
  KJ_FAIL_REQUIRE("the thread of an io_context does not wait for a promise");
}
bool AsioPort::poll() { return false; }

void AsioPort::setRunnable(bool runnable) {
  if (runnable && !posted_) postTurn();
}

void AsioPort::postTurn() {
  posted_ = true;
  boost::asio::post(host_, [self = self_] {
    if (*self != nullptr) (*self)->turn();
  });
}

bool AsioPort::mayTurnAtOnce() const {
  return at_once_took_ < bounds_.time_max && Clock::now() >= together_until_;
}

void AsioPort::turnAtOnce() {
  turn();
  const auto now = Clock::now();
  together_until_ = now + bounds_.together;
  at_once_took_ += now - turn_begun_;
  if (at_once_took_ < bounds_.time_max) return;
  // The host runs what is posted after a poll, and after the handlers that are ready now.
  boost::asio::post(host_, [self = self_] {
    if (*self != nullptr) (*self)->at_once_took_ = {};
  });
}

// False: there was no event.
bool AsioPort::run(uint32_t events_max) {
  if (!loop_.isRunnable()) return false;
  KJ_IF_MAYBE (fault, kj::runCatchingExceptions([&] { loop_.run(events_max); })) {
    loop_.run(0);  // makes the loop check again whether it has events
    on_fault_(kj::mv(*fault));
  }
  return true;
}

void AsioPort::turn() {
  ++turns_;
  turn_begun_ = Clock::now();
  for (uint32_t left = bounds_.events_max; left > 0;) {
    const uint32_t events = std::min(left, bounds_.events_per_clock);
    if (!run(events) && !runTurnEnd()) break;
    left = Clock::now() - turn_begun_ >= bounds_.time_max ? 0 : left - events;
  }
  runTurnEnd();
  for (auto& what : std::exchange(after_turn_, {})) what();
  posted_ = loop_.isRunnable() || !turn_end_.empty() || !after_turn_.empty();
  // A handler of the host may have destroyed the events of this turn. The loop must see that it has
  // none, or it does not tell of the next one.
  if (!posted_) loop_.run(0);
  if (!posted_) return;
  // A handler posts the next turn's handler: between the two the host polls descriptors and timers.
  boost::asio::post(host_, [self = self_] {
    if (*self != nullptr) (*self)->postTurn();
  });
}

// False: there was nothing to do.
bool AsioPort::runTurnEnd() {
  if (turn_end_.empty()) return false;
  for (auto& what : std::exchange(turn_end_, {})) what();
  return true;
}

void AsioPort::atTurnEnd(std::function<void()> what) {
  turn_end_.push_back(std::move(what));
  if (!posted_) postTurn();
}

void AsioPort::afterTurn(std::function<void()> what) {
  after_turn_.push_back(std::move(what));
  if (!posted_) postTurn();
}

void AsioPort::finish(uint32_t events_max) {
  for (uint32_t events = 0; events < events_max && (run(1) || runTurnEnd());) ++events;
}

}  // namespace mayfly::edge
