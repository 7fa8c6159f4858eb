#include "load/drive.h"

#include <errno.h>
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace mayfly::load {
namespace {

using base::monotonicNs;

constexpr uint64_t kAsk_ns = 50'000'000;  // between two questions whether to stop

// Outlives the run if a target answers after the run gave up.
struct Answers {
  std::mutex mutex;
  std::condition_variable came;
  std::vector<std::pair<Ticket, Outcome>> ended;
  bool awaited = false;  // only then a waiter must be woken

  bool await(uint64_t ns_max) {
    std::unique_lock lock(mutex);
    awaited = true;
    const bool any =
        came.wait_for(lock, std::chrono::nanoseconds(ns_max), [&] { return !ended.empty(); });
    awaited = false;
    return any;
  }
};

void sleepUntil(uint64_t until_ns, uint64_t spin_ns_max) {
  uint64_t timer_ns = until_ns - std::min(until_ns, spin_ns_max);
  timespec at{static_cast<time_t>(timer_ns / 1'000'000'000),
              static_cast<long>(timer_ns % 1'000'000'000)};
  if (monotonicNs() < timer_ns)
    while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr) == EINTR) {
    }
  while (monotonicNs() < until_ns) {
  }
}

// One run on one thread.
class Driver {
 public:
  Driver(Plan plan, Target& target, DriveBounds bounds)
      : run_(std::move(plan)), target_(target), bounds_(std::move(bounds)) {}
  base::Result<Report> drive();

 private:
  void hear();
  void send(const Ticket& ticket);
  bool asksToStop();
  void sleep(uint64_t until_ns);
  base::Status await();

  Run run_;
  Target& target_;
  DriveBounds bounds_;
  std::shared_ptr<Answers> answers_ = std::make_shared<Answers>();
  std::vector<std::pair<Ticket, Outcome>> ended_;
  std::optional<uint64_t> stopped_ns_;  // when the run was stopped
};

void Driver::hear() {
  {
    std::lock_guard lock(answers_->mutex);
    ended_.swap(answers_->ended);
  }
  for (const auto& [ticket, outcome] : ended_) {
    run_.ended(ticket, outcome);
    if (bounds_.heard) bounds_.heard(ticket, outcome, run_.recorded(ticket));
  }
  ended_.clear();
}

void Driver::send(const Ticket& ticket) {
  target_.begin(ticket, [answers = answers_, ticket](Outcome outcome) {
    std::lock_guard lock(answers->mutex);
    answers->ended.emplace_back(ticket, std::move(outcome));
    if (answers->awaited) answers->came.notify_one();
  });
}

bool Driver::asksToStop() {
  if (!stopped_ns_ && bounds_.stopped && bounds_.stopped()) {
    stopped_ns_ = monotonicNs();
    run_.stop();
  }
  return stopped_ns_.has_value();
}

void Driver::sleep(uint64_t until_ns) {
  while (bounds_.stopped && until_ns > monotonicNs() + kAsk_ns) {
    sleepUntil(monotonicNs() + kAsk_ns, 0);
    if (asksToStop()) return;
  }
  sleepUntil(until_ns, bounds_.spin_ns_max);
}

// Returns when an answer came, or the run is to stop, or has waited for the last answers.
base::Status Driver::await() {
  const uint64_t began_ns = monotonicNs();
  for (;;) {
    const bool asks = bounds_.stopped != nullptr;
    if (answers_->await(asks ? std::min(kAsk_ns, bounds_.stall_ns_max) : bounds_.stall_ns_max))
      return base::Unit{};
    const uint64_t now_ns = monotonicNs();
    if (!stopped_ns_ && asksToStop()) return base::Unit{};
    if (stopped_ns_ && now_ns - *stopped_ns_ >= bounds_.last_answers_ns_max) {
      run_.abandon();
      return base::Unit{};
    }
    if (now_ns - began_ns >= bounds_.stall_ns_max)
      return base::fail(base::Code::deadlineExceeded,
                        std::to_string(run_.outstanding()) + " requests got no answer within " +
                            std::to_string(bounds_.stall_ns_max / 1'000'000) + " ms");
  }
}

base::Result<Report> Driver::drive() {
  for (uint64_t turn = 0;; ++turn) {
    hear();
    if (turn % 64 == 0) asksToStop();  // a run that never waits
    Run::Act act = run_.next(monotonicNs());
    switch (act.kind) {
      case Run::Act::Kind::send:
        send(act.ticket);
        break;
      case Run::Act::Kind::sleep:
        sleep(act.until_ns);
        break;
      case Run::Act::Kind::await:
        MAYFLY_CHECK(await());
        if (run_.report().unfinished != 0) return run_.report();
        break;
      case Run::Act::Kind::over:
        return run_.report();
    }
  }
}

}  // namespace

base::Result<Report> drive(Plan plan, Target& target, DriveBounds bounds) {
  ::prctl(PR_SET_TIMERSLACK, 1);  // ns
  return Driver(std::move(plan), target, std::move(bounds)).drive();
}

}  // namespace mayfly::load
