// KJ's event loop as a guest of an io_context: Asio is the host, and both run on
// one thread.
//
// KJ's events run in turns. A turn is one handler of the host, or the rest of one
// that has made events (`inTurn`). It runs at most `events_max` events and begins
// less than `events_per_clock` after `time_max`. The other events wait until the host has
// polled its descriptors and timers and has run the ready handlers. So a flood on
// KJ's side delays the host's handlers by one turn, not by the whole flood.
//
// Layer: edge. Made, used and destroyed on the thread that runs the io_context;
// that thread has no other KJ loop. The io_context may outlive the port and run on.
#pragma once

#include <kj/async.h>
#include <kj/function.h>
#include <kj/timer.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

namespace mayfly::edge {

struct TurnBounds {
  uint32_t events_max = 256;
  std::chrono::nanoseconds time_max = std::chrono::microseconds(100);
  // Handlers that follow a turn at once by less were ready together with the one that had it.
  std::chrono::nanoseconds together = std::chrono::nanoseconds(1'000);
  uint32_t events_per_clock = 1;  // between two looks at the clock
};

class AsioPort final : private kj::EventPort {
 public:
  // `on_fault` gets each exception that no promise caught; the loop goes on.
  AsioPort(boost::asio::io_context& host, TurnBounds bounds,
           kj::Function<void(kj::Exception&&)> on_fault);
  ~AsioPort() noexcept(false);
  KJ_DISALLOW_COPY(AsioPort);

  boost::asio::io_context& host() { return host_; }
  kj::Timer& timer() { return timer_; }
  // Runs the ready events, at most `events_max`. Call before the port is destroyed.
  void finish(uint32_t events_max);

  // The host's handlers reach the port through this pointer; null once the port is destroyed.
  using Self = std::shared_ptr<AsioPort*>;
  const Self& self() const { return self_; }
  // In a handler of the host: the events that `what` makes run at once, in a turn of their own,
  // without another poll of the host's descriptors; unless a turn is due already. Of many handlers
  // that are ready together one gets its turn, the others share the next. All such turns between
  // two polls take no longer than one turn may, and the last of them.
  template <class What>
  void inTurn(What what) {
    if (posted_ || !mayTurnAtOnce()) return what();
    posted_ = true;
    what();
    turnAtOnce();
  }
  // Calls `what` at the end of this turn, or of the next one: what several events have to say can
  // be said together. Before the port is destroyed, or never.
  void atTurnEnd(std::function<void()> what);
  // The same, after all that is for the turn's end.
  void afterTurn(std::function<void()> what);
  uint64_t turns() const { return turns_; }  // that have begun

 private:
  // KJ's timer, driven by the host's. now() reads the clock, so it is right between two turns, too.
  class Timer final : public kj::Timer {
   public:
    explicit Timer(AsioPort& port);
    kj::TimePoint now() const override;
    kj::Promise<void> atTime(kj::TimePoint time) override;
    kj::Promise<void> afterDelay(kj::Duration delay) override;

   private:
    void arm();
    AsioPort& port_;
    kj::TimerImpl waits_;
    boost::asio::steady_timer alarm_;
    kj::Maybe<kj::TimePoint> armed_for_;  // null: the alarm is off
  };
  bool wait() override;
  bool poll() override;
  void setRunnable(bool runnable) override;
  void postTurn();
  void turn();
  bool mayTurnAtOnce() const;
  void turnAtOnce();
  bool run(uint32_t events_max);
  bool runTurnEnd();

  boost::asio::io_context& host_;
  TurnBounds bounds_;
  kj::Function<void(kj::Exception&&)> on_fault_;
  Self self_;
  bool posted_ = false;  // a turn is in the host's queue, or under way
  Timer timer_;
  kj::EventLoop loop_;
  kj::WaitScope scope_;
  using Clock = std::chrono::steady_clock;
  uint64_t turns_ = 0;
  Clock::time_point turn_begun_, together_until_;
  Clock::duration at_once_took_{};  // since the host surely polled
  // May hold objects of the loop.
  std::vector<std::function<void()>> turn_end_, after_turn_;
};

}  // namespace mayfly::edge
