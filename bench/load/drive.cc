#include "load/drive.h"

#include <errno.h>
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace mayfly::load {
namespace {

using base::monotonicNs;

// Outlives the run if a target answers after the run gave up.
struct Answers {
  std::mutex mutex;
  std::condition_variable came;
  std::vector<std::pair<Ticket, Outcome>> ended;
  bool awaited = false;  // only then a waiter must be woken
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

}  // namespace

base::Result<Report> drive(Plan plan, Target& target, DriveBounds bounds) {
  ::prctl(PR_SET_TIMERSLACK, 1);  // ns
  auto answers = std::make_shared<Answers>();
  Run run(std::move(plan));
  std::vector<std::pair<Ticket, Outcome>> ended;
  for (;;) {
    {
      std::lock_guard lock(answers->mutex);
      ended.swap(answers->ended);
    }
    for (const auto& [ticket, outcome] : ended) run.ended(ticket, outcome);
    ended.clear();
    Run::Act act = run.next(monotonicNs());
    switch (act.kind) {
      case Run::Act::Kind::send:
        target.begin(act.ticket, [answers, ticket = act.ticket](Outcome outcome) {
          std::lock_guard lock(answers->mutex);
          answers->ended.emplace_back(ticket, std::move(outcome));
          if (answers->awaited) answers->came.notify_one();
        });
        break;
      case Run::Act::Kind::sleep:
        sleepUntil(act.until_ns, bounds.spin_ns_max);
        break;
      case Run::Act::Kind::await: {
        std::unique_lock lock(answers->mutex);
        answers->awaited = true;
        bool any = answers->came.wait_for(lock, std::chrono::nanoseconds(bounds.stall_ns_max),
                                          [&] { return !answers->ended.empty(); });
        answers->awaited = false;
        if (!any)
          return base::fail(base::Code::deadlineExceeded,
                            std::to_string(run.outstanding()) + " requests got no answer within " +
                                std::to_string(bounds.stall_ns_max / 1'000'000) + " ms");
        break;
      }
      case Run::Act::Kind::over:
        return run.report();
    }
  }
}

}  // namespace mayfly::load
