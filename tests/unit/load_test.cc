// The load engine against a server that exists only as arithmetic: time is a number.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <nlohmann/json.hpp>
#include <queue>
#include <random>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "load/arrivals.h"
#include "load/client_target.h"
#include "load/command_target.h"
#include "load/drive.h"
#include "load/histogram.h"
#include "load/run.h"

namespace mayfly::load {
namespace {

constexpr uint64_t kMs = 1'000'000, kS = 1'000'000'000;

std::vector<uint64_t> all(Arrivals arrivals) {
  std::vector<uint64_t> offsets;
  while (auto at = arrivals()) offsets.push_back(*at);
  return offsets;
}

// One worker that serves in order; each request takes `service_ns`, and nothing is served
// within [frozen_from_ns, frozen_to_ns).
struct Server {
  uint64_t service_ns = kMs;
  uint64_t frozen_from_ns = 0, frozen_to_ns = 0;
  uint64_t free_ns = 0;
  uint64_t endOf(uint64_t sent_ns) {
    uint64_t start_ns = std::max(sent_ns, free_ns);
    if (start_ns + service_ns > frozen_from_ns && start_ns < frozen_to_ns) start_ns = frozen_to_ns;
    return free_ns = start_ns + service_ns;
  }
};

// Drives a Run against the server in simulated time, from `now_ns` on.
Report simulate(Plan plan, Server server, uint64_t now_ns = 17 * kS) {
  struct Ending {
    uint64_t at_ns;
    Ticket ticket;
    bool operator<(const Ending& other) const { return at_ns > other.at_ns; }
  };
  server.frozen_from_ns += now_ns;
  server.frozen_to_ns += now_ns;
  std::priority_queue<Ending> endings;
  load::Run run(std::move(plan));
  auto deliver = [&] {
    while (!endings.empty() && endings.top().at_ns <= now_ns) {
      Outcome outcome;
      outcome.ended_ns = endings.top().at_ns;
      outcome.first_byte_ns = outcome.ended_ns - server.service_ns / 2;
      run.ended(endings.top().ticket, outcome);
      endings.pop();
    }
  };
  for (int i = 0; i < 10'000'000; ++i) {
    deliver();
    load::Run::Act act = run.next(now_ns);
    switch (act.kind) {
      case load::Run::Act::Kind::send:
        EXPECT_EQ(act.ticket.sent_ns, now_ns);
        endings.push({server.endOf(now_ns), act.ticket});
        break;
      case load::Run::Act::Kind::sleep:
        EXPECT_GT(act.until_ns, now_ns);
        now_ns = act.until_ns;
        break;
      case load::Run::Act::Kind::await:
        if (endings.empty()) {
          ADD_FAILURE() << "an answer is awaited, but nothing is under way";
          return run.report();
        }
        now_ns = endings.top().at_ns;
        break;
      case load::Run::Act::Kind::over:
        EXPECT_TRUE(endings.empty());
        return run.report();
    }
  }
  ADD_FAILURE() << "the run has no end";
  return run.report();
}

// --- histograms ---------------------------------------------------------------------

void expectNear(uint64_t got, double wanted) {
  EXPECT_NEAR(static_cast<double>(got), wanted, wanted * 0.0021);
}

TEST(LoadHistogram, PercentilesOfAUniformDistributionAreRightWithinTheBinWidth) {
  Histogram h;
  for (uint64_t us = 1; us <= 100'000; ++us) h.record(us * 1'000);
  for (double percent : {1.0, 50.0, 90.0, 99.0, 99.9, 99.99})
    expectNear(h.percentile_ns(percent), percent * 1e6);
  EXPECT_EQ(h.percentile_ns(100), 100 * kMs);
  expectNear(h.percentile_ns(0), 1e3);
  EXPECT_EQ(h.count(), 100'000u);
  EXPECT_EQ(h.min_ns(), 1'000u);
  EXPECT_DOUBLE_EQ(h.mean_ns(), 50'000'500.0);
}

TEST(LoadHistogram, PercentilesOfAnExponentialDistributionAreRight) {
  Histogram h;
  constexpr int n = 200'000;
  for (int i = 0; i < n; ++i) h.record(static_cast<uint64_t>(-std::log(1 - (i + 0.5) / n) * 1e6));
  for (double percent : {50.0, 90.0, 99.0, 99.9})
    expectNear(h.percentile_ns(percent), -std::log(1 - percent / 100) * 1e6);
}

TEST(LoadHistogram, FewValuesGiveThemselves) {
  Histogram h;
  EXPECT_EQ(h.percentile_ns(50), 0u);
  EXPECT_TRUE(h.distribution().empty());
  h.record(5 * kMs);
  EXPECT_EQ(h.percentile_ns(50), 5 * kMs);
  EXPECT_EQ(h.percentile_ns(99), 5 * kMs);
  h.record(7 * kMs);
  expectNear(h.percentile_ns(50), 5e6);  // the least value that half of them do not exceed
  EXPECT_EQ(h.percentile_ns(51), 7 * kMs);
}

TEST(LoadHistogram, ARankThatRoundingWouldMoveIsNotMoved) {
  Histogram h;
  for (uint64_t i = 1; i <= 1'000; ++i) h.record(i * kMs);
  // 99.9 % of 1000 is 999, but 99.9 / 100 * 1000 is a little more.
  expectNear(h.percentile_ns(99.9), 999e6);
}

TEST(LoadHistogram, ValuesBelowAndBeyondItsRangeCount) {
  Histogram h;
  h.record(0);
  h.record(Histogram::kLast_ns * 3);
  EXPECT_EQ(h.count(), 2u);
  EXPECT_EQ(h.max_ns(), Histogram::kLast_ns * 3);
  EXPECT_LE(h.percentile_ns(50), Histogram::kFirst_ns);
}

TEST(LoadHistogram, TheSumOfTwoIsTheHistogramOfAll) {
  Histogram a, b, both;
  std::mt19937_64 random(7);
  for (int i = 0; i < 10'000; ++i) {
    uint64_t v = random() % (i % 2 ? 1'000'000 : 90'000'000);
    (i % 2 ? a : b).record(v);
    both.record(v);
  }
  a.add(b);
  EXPECT_EQ(toJson(a), toJson(both));
}

TEST(LoadHistogram, TheDistributionRisesToTheMaximumAndEndsWhereNoValueIsLeft) {
  Histogram h;
  for (uint64_t i = 1; i <= 10'000; ++i) h.record(i * 1'000);
  auto points = h.distribution();
  ASSERT_GT(points.size(), 40u);
  for (size_t i = 1; i < points.size(); ++i) {
    EXPECT_GT(points[i].percent, points[i - 1].percent);
    EXPECT_GE(points[i].value_ns, points[i - 1].value_ns);
  }
  EXPECT_EQ(points.back().percent, 100);
  EXPECT_EQ(points.back().value_ns, 10 * kMs);
}

// --- arrivals -----------------------------------------------------------------------

TEST(LoadArrivals, ConstantOnesDoNotDrift) {
  auto offsets = all(constantArrivals(3, 3'001));
  ASSERT_EQ(offsets.size(), 3'001u);
  EXPECT_EQ(offsets[0], 0u);
  EXPECT_EQ(offsets[1], 333'333'333u);
  EXPECT_EQ(offsets[3'000], 1'000 * kS);
}

TEST(LoadArrivals, PoissonGapsAreExponential) {
  auto offsets = all(poissonArrivals(500, 100'000, 42));
  ASSERT_EQ(offsets.size(), 100'000u);
  EXPECT_TRUE(std::is_sorted(offsets.begin(), offsets.end()));
  // Mean 2 ms, standard deviation the same; a share of 1/e of the gaps is longer than the mean.
  double sum = 0, squares = 0;
  int longer = 0;
  for (size_t i = 1; i < offsets.size(); ++i) {
    double gap = static_cast<double>(offsets[i] - offsets[i - 1]);
    sum += gap;
    squares += gap * gap;
    longer += gap > 2e6;
  }
  double n = 99'999, mean = sum / n;
  EXPECT_NEAR(mean, 2e6, 2e4);
  EXPECT_NEAR(std::sqrt(squares / n - mean * mean), 2e6, 4e4);
  EXPECT_NEAR(longer / n, std::exp(-1), 0.01);
}

TEST(LoadArrivals, TheSeedDecidesThePoissonSequence) {
  EXPECT_EQ(all(poissonArrivals(100, 50, 1)), all(poissonArrivals(100, 50, 1)));
  EXPECT_NE(all(poissonArrivals(100, 50, 1)), all(poissonArrivals(100, 50, 2)));
  // The same on every machine.
  auto first = all(poissonArrivals(1'000, 3, 1));
  EXPECT_EQ(first, (std::vector<uint64_t>{143'727, 290'381, 890'430}));
}

TEST(LoadArrivals, ABurstComesAtOnceAndARecordingAsRecorded) {
  EXPECT_EQ(all(burstArrivals(3)), (std::vector<uint64_t>{0, 0, 0}));
  EXPECT_EQ(all(recordedArrivals({1, 5, 5})), (std::vector<uint64_t>{1, 5, 5}));
  EXPECT_EQ(all(repeatedBursts(2, 7, 5)), (std::vector<uint64_t>{0, 0, 7, 7, 14}));
}

// --- runs ---------------------------------------------------------------------------

TEST(LoadRun, AnIdleServerGivesItsServiceTime) {
  Report r = simulate({.arrivals = constantArrivals(10, 100), .outstanding_max = 100},
                      {.service_ns = 3 * kMs});
  EXPECT_EQ(r.latency.count(), 100u);
  EXPECT_EQ(r.latency.min_ns(), 3 * kMs);
  EXPECT_EQ(r.latency.max_ns(), 3 * kMs);
  EXPECT_EQ(r.first_byte.max_ns(), 3 * kMs / 2);
  EXPECT_EQ(r.send_lag.max_ns(), 0u);
}

// The server stands still for one second of ten. A generator that waits for answers before it sends
// would see one slow request; here every request of that second waits.
TEST(LoadRun, AFrozenServerCostsEveryRequestThatWasMeantToStartMeanwhile) {
  Plan plan{.arrivals = constantArrivals(100, 1'000), .outstanding_max = 10'000};
  Report r = simulate(std::move(plan),
                      {.service_ns = kMs, .frozen_from_ns = 4 * kS, .frozen_to_ns = 5 * kS});
  ASSERT_EQ(r.latency.count(), 1'000u);
  EXPECT_EQ(r.latency.max_ns(), kS + kMs);
  // A hundred waited, half a second on average, and a few more until the queue was empty.
  expectNear(r.latency.percentile_ns(88), 1e6);
  EXPECT_GT(r.latency.percentile_ns(95), 450 * kMs);
  EXPECT_LT(r.latency.percentile_ns(95), 560 * kMs);
}

// The same with only one request in flight: the generator is late, the figures are not.
TEST(LoadRun, TheWaitForAFullConnectionIsPartOfTheLatency) {
  for (uint32_t outstanding : {1u, 10'000u}) {
    Plan plan{.arrivals = constantArrivals(100, 1'000), .outstanding_max = outstanding};
    Report r = simulate(std::move(plan),
                        {.service_ns = kMs, .frozen_from_ns = 4 * kS, .frozen_to_ns = 5 * kS});
    EXPECT_EQ(r.latency.max_ns(), kS + kMs);
    EXPECT_GT(r.latency.percentile_ns(95), 450 * kMs);
    if (outstanding == 1) {
      EXPECT_GT(r.send_lag.percentile_ns(95), 450 * kMs);
      expectNear(r.service.percentile_ns(95), 1e6);  // the report of a generator that omits
    }
  }
}

// M/D/1: the mean time in the system is known, s + u * s / (2 * (1 - u)) at utilisation u.
TEST(LoadRun, PoissonArrivalsAtOneServerQueueAsTheoryHasIt) {
  Plan plan{.arrivals = poissonArrivals(800, 400'000, 3), .outstanding_max = 1'000'000};
  Report r = simulate(std::move(plan), {.service_ns = kMs});
  EXPECT_NEAR(r.latency.mean_ns(), 3e6, 0.15e6);  // u = 0.8
}

TEST(LoadRun, AnOverloadedServerShowsTheBacklog) {
  Plan plan{.arrivals = constantArrivals(2'000, 4'000), .outstanding_max = 64};
  Report r = simulate(std::move(plan), {.service_ns = kMs});
  EXPECT_NEAR(static_cast<double>(r.latency.max_ns()), 2e9,
              5e6);  // 4000 took 4 s and were meant to take 2
  EXPECT_NEAR(r.per_s(), 1'000, 1);
}

TEST(LoadRun, AClosedLoopKeepsSoManyUnderWay) {
  Report r = simulate({.count_max = 500, .outstanding_max = 4}, {.service_ns = kMs});
  EXPECT_EQ(r.sent, 500u);
  EXPECT_EQ(r.latency.percentile_ns(50), 4 * kMs);  // each waits for the three before it
  EXPECT_NEAR(r.per_s(), 1'000, 10);
}

TEST(LoadRun, ADurationEndsBothKindsOfLoop) {
  Report closed = simulate({.duration_ns_max = kS, .outstanding_max = 2}, {.service_ns = kMs});
  EXPECT_NEAR(static_cast<double>(closed.sent), 1'001, 2);
  Report open = simulate(
      {.arrivals = constantArrivals(100, 100'000), .duration_ns_max = kS, .outstanding_max = 2},
      {.service_ns = kMs});
  EXPECT_EQ(open.sent, 101u);
}

TEST(LoadRun, TheWarmUpIsSentButNotRecorded) {
  Server slow_start{.service_ns = kMs, .frozen_from_ns = 0, .frozen_to_ns = kS};
  Report r = simulate({.count_max = 110, .warm_up = 10, .outstanding_max = 1}, slow_start);
  EXPECT_EQ(r.sent, 110u);
  EXPECT_EQ(r.latency.count(), 100u);
  EXPECT_EQ(r.latency.max_ns(), kMs);
  EXPECT_NEAR(r.per_s(), 1'000, 0.5);  // without the second in which nothing ran
}

TEST(LoadRun, AWarmUpInTimeIsSentButNotRecordedAndTheRateCountsFromItsEnd) {
  Plan plan{.arrivals = constantArrivals(100, 1'000), .warm_up_ns = kS, .outstanding_max = 100};
  Report r =
      simulate(std::move(plan), {.service_ns = kMs, .frozen_from_ns = 0, .frozen_to_ns = kS / 2});
  EXPECT_EQ(r.sent, 1'000u);
  EXPECT_EQ(r.latency.count(), 900u);
  EXPECT_EQ(r.latency.max_ns(), kMs) << "the frozen half second lies in the warm-up";
  EXPECT_NEAR(r.per_s(), 100, 0.5);
}

// Ten times too much: the run would last ten times as long as its plan.
TEST(LoadRun, WhatCannotBeSentInTimeIsCountedAndNotSent) {
  Plan plan{.arrivals = constantArrivals(10'000, 100'000),
            .duration_ns_max = kS,
            .sending_ns_max = 2 * kS,
            .outstanding_max = 50};
  Report r = simulate(std::move(plan), {.service_ns = kMs});
  EXPECT_NEAR(static_cast<double>(r.sent), 2'050, 5);
  EXPECT_EQ(r.sent + r.unsent, 10'001u);
  EXPECT_EQ(r.latency.count(), r.sent);
  Plan closed{.sending_ns_max = kS, .outstanding_max = 2};
  Report c = simulate(std::move(closed), {.service_ns = kMs});
  EXPECT_NEAR(static_cast<double>(c.sent), 1'001, 2);
  EXPECT_EQ(c.unsent, 0u) << "a closed loop plans nothing";
}

TEST(LoadRun, LatenessIsTheGeneratorsOwnUnlessTheBoundHeldTheRequestUp) {
  // One in flight, and a second in which the server stands still: a hundred are held up.
  Plan plan{.arrivals = constantArrivals(100, 1'000), .outstanding_max = 1};
  Report r = simulate(std::move(plan),
                      {.service_ns = kMs, .frozen_from_ns = 4 * kS, .frozen_to_ns = 5 * kS});
  EXPECT_NEAR(static_cast<double>(r.held), 110, 5);
  EXPECT_EQ(r.own_lag.count(), 1'000 - r.held);
  EXPECT_EQ(r.own_lag.max_ns(), 0u);
  // A driver that wakes late, with places to spare.
  load::Run late({.arrivals = constantArrivals(100, 3), .outstanding_max = 9});
  late.next(kS);  // the first, in time
  late.next(kS);
  Ticket second = late.next(kS + 15 * kMs).ticket;
  EXPECT_FALSE(second.held);
  late.ended(second, {.ended_ns = kS + 16 * kMs});
  EXPECT_EQ(late.report().own_lag.max_ns(), 5 * kMs);
  EXPECT_EQ(late.report().held, 0u);
}

TEST(LoadRun, AStoppedRunSendsNothingMoreAndCountsWhatItGivesUp) {
  load::Run run({.arrivals = constantArrivals(1'000, 100), .outstanding_max = 9});
  Ticket first = run.next(kS).ticket;
  run.next(kS + kMs);
  run.stop();
  EXPECT_EQ(run.next(kS + 2 * kMs).kind, load::Run::Act::Kind::await);
  run.ended(first, {.ended_ns = kS + 3 * kMs});
  run.abandon();
  EXPECT_EQ(run.report().sent, 2u);
  EXPECT_EQ(run.report().unfinished, 1u);
  EXPECT_EQ(run.report().unsent, 0u);
}

TEST(LoadRun, FailuresAreCountedByKindAndLeftOutOfTheLatencies) {
  load::Run run({.count_max = 3, .outstanding_max = 3});
  Ticket tickets[3];
  for (Ticket& t : tickets) t = run.next(kS).ticket;
  EXPECT_EQ(run.next(kS).kind, load::Run::Act::Kind::await);
  run.ended(tickets[1], {.error = "memory", .ended_ns = kS + 9});
  run.ended(tickets[0], {.error = "memory", .ended_ns = kS + 9});
  run.ended(tickets[2], {.ended_ns = kS + kMs});
  EXPECT_EQ(run.next(2 * kS).kind, load::Run::Act::Kind::over);
  EXPECT_EQ(run.report().errors, (std::map<std::string, uint64_t>{{"memory", 2}}));
  EXPECT_EQ(run.report().succeeded, 1u);
  EXPECT_EQ(run.report().latency.count(), 1u);
}

TEST(LoadRun, KindsOfErrorsAreBounded) {
  load::Run run({.count_max = 1'000, .outstanding_max = 1});
  for (int i = 0; i < 1'000; ++i)
    run.ended(run.next(kS).ticket, {.error = "e" + std::to_string(i), .ended_ns = kS});
  EXPECT_EQ(run.report().errors.size(), kErrorKindsMax + 1);
  EXPECT_EQ(run.report().errors.at("other"), 1'000 - kErrorKindsMax);
}

TEST(LoadRun, EveryPhaseIsATimeOfItsOwn) {
  load::Run run({.count_max = 3, .outstanding_max = 1});
  auto at = [](base::Phases& p, base::Phase phase, uint64_t offset_ns) {
    p[static_cast<size_t>(phase)] = kS + offset_ns;
  };
  Outcome made{.ended_ns = kS + 1'000'000};
  at(made.phases, base::Phase::queued, 10'000);
  at(made.phases, base::Phase::box, 30'000);
  at(made.phases, base::Phase::boxReady, 400'000);
  at(made.phases, base::Phase::clone, 600'000);
  at(made.phases, base::Phase::exited,
     700'000);  // not claimed, no output: these phases make no step
  at(made.phases, base::Phase::receipt, 900'000);
  run.ended(run.next(kS).ticket, made);
  const auto& steps = run.report().steps;
  auto only = [&](const char* name) { return steps.at(name).max_ns(); };
  EXPECT_EQ(only("queued"), 10'000u);
  EXPECT_EQ(only("box"), 20'000u);
  EXPECT_EQ(only("boxReady"), 370'000u);
  EXPECT_EQ(only("clone"), 200'000u);
  EXPECT_EQ(only("exited"), 100'000u);
  EXPECT_EQ(only("receipt"), 200'000u);
  EXPECT_EQ(only("answer"), 100'000u);
  EXPECT_EQ(steps.count("claimed"), 0u);
  EXPECT_EQ(steps.count("firstByte"), 0u);
  EXPECT_EQ(run.report().parked, 0u);
  // A task whose clone was ready: its box's times are equal.
  Outcome hit = made;
  at(hit.phases, base::Phase::boxReady, 30'000);
  at(hit.phases, base::Phase::clone, 30'000);
  at(hit.phases, base::Phase::claimed, 50'000);
  at(hit.phases, base::Phase::started, 90'000);
  run.ended(run.next(kS).ticket, hit);
  EXPECT_EQ(run.report().parked, 1u);
  EXPECT_EQ(run.report().stocked, 0u);
  EXPECT_EQ(run.report().claim.max_ns(), 40'000u);
  EXPECT_EQ(run.report().run.max_ns(), 610'000u);
  // A task whose box was stocked; its clone was forked into it.
  Outcome stocked = made;
  at(stocked.phases, base::Phase::boxReady, 30'000);
  run.ended(run.next(kS).ticket, stocked);
  EXPECT_EQ(run.report().parked, 1u);
  EXPECT_EQ(run.report().stocked, 1u);
  EXPECT_EQ(run.report().claim.count(), 1u);  // the others were not claimed
}

// --- for real -----------------------------------------------------------------------

// Answers from a separate thread, every third time with an error.
class EchoTarget final : public Target {
 public:
  ~EchoTarget() override {
    for (std::thread& t : threads_) t.join();
  }
  void begin(const Ticket& ticket, Done done) override {
    threads_.emplace_back([ticket, done = std::move(done)] {
      Outcome outcome{.ended_ns = base::monotonicNs()};
      if (ticket.index % 3 == 0) outcome.error = "third";
      done(outcome);
    });
  }

 private:
  std::vector<std::thread> threads_;
};

TEST(LoadDrive, AnswersFromOtherThreadsAreAllCounted) {
  for (bool open : {false, true}) {
    EchoTarget target;
    auto r = drive({.arrivals = open ? poissonArrivals(20'000, 300, 1) : Arrivals{},
                    .count_max = 300,
                    .outstanding_max = 8},
                   target);
    ASSERT_TRUE(r);
    EXPECT_EQ(r->sent, 300u);
    EXPECT_EQ(r->errors.at("third"), 100u);
    EXPECT_EQ(r->latency.count(), 200u);
  }
}

TEST(LoadDrive, ATargetThatNeverAnswersIsGivenUp) {
  class : public Target {
    void begin(const Ticket&, Done) override {}
  } silent;
  auto r = drive({.count_max = 2, .outstanding_max = 2}, silent, {.stall_ns_max = kMs});
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, base::Code::deadlineExceeded);
  EXPECT_NE(r.error().message.find("2 requests"), std::string::npos);
}

TEST(LoadDrive, AStoppedRunReportsWhatWasMeasured) {
  std::atomic<uint64_t> begun = 0;
  class Half : public Target {  // answers the first half, then never
   public:
    explicit Half(std::atomic<uint64_t>& count) : count_(count) {}
    void begin(const Ticket&, Done done) override {
      if (++count_ <= 10) done({.ended_ns = base::monotonicNs()});
    }

   private:
    std::atomic<uint64_t>& count_;
  } half(begun);
  uint64_t heard = 0;
  DriveBounds bounds;
  bounds.stopped = [&] { return begun >= 20; };
  bounds.last_answers_ns_max = kMs;
  bounds.heard = [&](const Ticket&, const Outcome&, bool recorded) { heard += recorded; };
  auto r =
      drive({.arrivals = constantArrivals(10'000, 1'000'000), .outstanding_max = 20}, half, bounds);
  ASSERT_TRUE(r) << r.error().message;
  EXPECT_EQ(r->latency.count(), 10u);
  EXPECT_EQ(heard, 10u);
  EXPECT_EQ(r->unfinished, r->sent - 10);
  EXPECT_GE(r->unfinished, 10u);
}

TEST(LoadDrive, AStopDuringALongSleepDoesNotWaitForItsEnd) {
  EchoTarget target;
  uint64_t asked = 0;
  DriveBounds bounds;
  bounds.stopped = [&] { return ++asked > 3; };
  auto r =
      drive({.arrivals = recordedArrivals({0, 3'600 * kS}), .outstanding_max = 2}, target, bounds);
  ASSERT_TRUE(r);
  EXPECT_EQ(r->sent, 1u);
}

TEST(LoadCommand, OutputExitCodeAndAbsenceAreTold) {
  auto kinds = [](std::vector<std::string> argv) {
    CommandTarget target(std::move(argv), "42\n", 2);
    auto r = drive({.count_max = 4, .outstanding_max = 2}, target);
    return r ? r->errors : std::map<std::string, uint64_t>{{"no report", 1}};
  };
  EXPECT_TRUE(kinds({"echo", "42"}).empty());
  EXPECT_EQ(kinds({"echo", "43"}), (std::map<std::string, uint64_t>{{"wrongOutput", 4}}));
  EXPECT_EQ(kinds({"false"}), (std::map<std::string, uint64_t>{{"failed", 4}}));
  EXPECT_EQ(kinds({"/absent/program"}), (std::map<std::string, uint64_t>{{"notStarted", 4}}));
}

TEST(LoadClient, OnlyATaskThatDidItsWorkAndLeftNothingIsGood) {
  TaskResult r;
  r.verdict = base::Verdict::succeeded;
  r.receipt.complete = true;
  EXPECT_EQ(judge(r, "42\n", "42\n").error, "");
  EXPECT_EQ(judge(r, "", "42\n").error, "wrongOutput");
  EXPECT_EQ(judge(r, "anything", std::nullopt).error, "");
  r.receipt.complete = false;
  EXPECT_EQ(judge(r, "42\n", "42\n").error, "incompleteReceipt");
  r.verdict = base::Verdict::memory;
  EXPECT_EQ(judge(r, "42\n", "42\n").error, "memory");
  EXPECT_EQ(judge(base::fail(base::Code::resourceExhausted, "full"), "", "").error,
            "resourceExhausted");
}

}  // namespace
}  // namespace mayfly::load
