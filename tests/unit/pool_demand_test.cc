// The sizing policy: pool::LaneDemand and pool::Plan, driven by made-up arrivals.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "pool/demand.h"
#include "pool/plan.h"
#include "pool/trace.h"

namespace mayfly::pool {
namespace {

constexpr uint64_t kMs = 1'000'000, kS = 1'000'000'000;

// The stationary number of outstanding makes with constant make times, by iteration: after one make
// time the present makes are done, and `load` more are requested on average.
double exactEmptyChance(double load, int makers, int held) {
  std::vector<double> now(500), next(500), more(60);
  now[0] = 1;
  more[0] = std::exp(-load);
  for (size_t i = 1; i < more.size(); ++i) more[i] = more[i - 1] * load / static_cast<double>(i);
  for (int step = 0; step < 300; ++step) {
    std::fill(next.begin(), next.end(), 0);
    for (size_t n = 0; n < now.size(); ++n) {
      if (now[n] < 1e-15) continue;
      const size_t left = n > static_cast<size_t>(makers) ? n - static_cast<size_t>(makers) : 0;
      for (size_t m = 0; m < more.size() && left + m < next.size(); ++m)
        next[left + m] += now[n] * more[m];
    }
    now.swap(next);
  }
  double sum = 0;
  for (size_t n = static_cast<size_t>(held); n < now.size(); ++n) sum += now[n];
  return sum;
}

TEST(EmptyChance, IsAnUpperBoundThatIsCloseWhileMakersHaveTime) {
  for (double share : {0.05, 0.3, 0.5, 0.7, 0.85, 0.93}) {
    const double load = share * 4;
    double last = 1;
    for (uint32_t held = 1; held <= 40; ++held) {
      const double bound = emptyChance(load, 4, held), exact = exactEmptyChance(load, 4, held);
      EXPECT_GE(bound, exact * 0.999 - 1e-12) << share << " " << held;
      EXPECT_LE(bound, last) << share << " " << held;
      if (share <= 0.5 && exact > 1e-6) {
        EXPECT_LE(bound, exact * 1.6) << share << " " << held;
      }
      last = bound;
    }
  }
  EXPECT_EQ(emptyChance(3, 4, 0), 1);
  EXPECT_EQ(emptyChance(0, 4, 1), 0);
  EXPECT_EQ(emptyChance(4, 4, 1000), 1);  // the makers fall behind for good
}

TEST(RobustMean, OneOutlierHardlyMovesIt) {
  RobustMean mean(77);
  EXPECT_EQ(mean.value(), 77u);
  for (int i = 0; i < 100; ++i) mean.add(1000);
  EXPECT_EQ(mean.value(), 1000u);
  mean.add(1'000'000'000);
  EXPECT_LT(mean.value(), 1050u);
  for (int i = 0; i < 1000; ++i) mean.add(3000);
  EXPECT_NEAR(static_cast<double>(mean.value()), 3000, 10);
}

TEST(Ratchet, GoesUpAtOnceAndDownAQuarterOfTheGapAStep) {
  Ratchet r;
  EXPECT_EQ(r.move(100, 0, kS), 100u);
  EXPECT_EQ(r.move(4, kS - 1, kS), 100u);
  EXPECT_EQ(r.move(4, kS, kS), 76u);
  EXPECT_EQ(r.move(4, kS + 1, kS), 76u);
  EXPECT_EQ(r.move(90, kS + 2, kS), 90u);
  uint64_t now = kS + 2;
  uint32_t last = 90, steps = 0;
  for (; r.value() > 4; last = r.value(), ++steps) {
    ASSERT_LT(steps, 60u);
    EXPECT_LE(r.move(4, now += kS, kS), last - 1);
    EXPECT_GE(r.value(), last - (last - 4 + 3) / 4);
  }
  EXPECT_GT(steps, 8u);
}

TEST(Ratchet, WhatWobblesWithinAnEighthDoesNotMoveIt) {
  Ratchet r;
  Random random(5);
  r.move(80, 0, kS);
  for (uint64_t i = 1; i < 1000; ++i)
    EXPECT_EQ(r.move(70 + static_cast<uint32_t>(random.next() % 11), i * kS / 3, kS), 80u);
}

TEST(Ratchet, OnePeakWithinTheStepHoldsIt) {
  Ratchet r;
  r.move(80, 0, kS);
  r.move(10, kS / 4, kS);
  r.move(79, kS / 2, kS);
  r.move(10, kS * 3 / 4, kS);
  EXPECT_EQ(r.move(10, kS, kS), 80u);
  EXPECT_LT(r.move(10, 2 * kS, kS), 80u);
}

DemandOptions wide() {
  DemandOptions o;
  o.parked_max = 256;
  o.stocked_max = 0;
  return o;
}

void makes(LaneDemand& d, uint64_t make_ns) {
  for (int i = 0; i < 200; ++i) d.made(make_ns);
  d.setMakers(4);
}

// Poisson arrivals from `from_ns` on; wanted() after each. Returns the last answer.
uint32_t poisson(LaneDemand& d, double rate_hz, double for_s, uint64_t from_ns, uint64_t seed) {
  Random random(seed);
  uint32_t parked = d.wanted(from_ns).parked;
  for (double t = random.exponential(1 / rate_hz); t < for_s;
       t += random.exponential(1 / rate_hz)) {
    const uint64_t now = from_ns + static_cast<uint64_t>(t * 1e9);
    d.arrival(now);
    parked = d.wanted(now).parked;
  }
  return parked;
}

TEST(Demand, WantsMoreTheFasterTasksArrive) {
  uint32_t last = 0, first = 0;
  for (double rate : {0.5, 5.0, 50.0, 200.0, 400.0, 600.0}) {
    LaneDemand d(wide());
    makes(d, 5 * kMs);
    uint32_t parked = poisson(d, rate, 120, 1, 7);
    EXPECT_GE(parked, last) << rate;
    if (first == 0) first = parked;
    last = parked;
  }
  EXPECT_LE(first, 2u);
  EXPECT_GE(last, 10u);
}

TEST(Demand, WantsMoreTheLongerAMakeTakes) {
  uint32_t last = 0;
  for (uint64_t make_ms : {1, 5, 20, 60, 90}) {
    LaneDemand d(wide());
    makes(d, make_ms * kMs);
    uint32_t parked = poisson(d, 40, 120, 1, 7);
    EXPECT_GT(parked, last) << make_ms;
    last = parked;
  }
}

TEST(Demand, WantsMoreTheLargerTheBursts) {
  uint32_t last = 0;
  for (uint32_t size : {2u, 5u, 17u, 40u, 100u, 230u}) {
    LaneDemand d(wide());
    makes(d, 5 * kMs);
    uint32_t parked = 0;
    for (uint64_t burst = 1; burst <= 20; ++burst)
      for (uint32_t i = 0; i < size; ++i) {
        d.arrival(burst * 10 * kS);
        parked = d.wanted(burst * 10 * kS).parked;
      }
    EXPECT_GT(parked, last);
    EXPECT_GE(parked, size * 98 / 100) << size;
    EXPECT_LE(parked, size + size / 10 + 1) << size;
    last = parked;
  }
}

TEST(Demand, RisesWithinTheFirstBurst) {
  LaneDemand d(wide());
  makes(d, 5 * kMs);
  EXPECT_EQ(d.wanted(kS).parked, 0u);
  for (uint32_t i = 1; i <= 30; ++i) {
    d.arrival(kS + i);
    EXPECT_GE(d.wanted(kS + i).parked, i);
  }
}

TEST(Demand, BurstThatIsRarerThanTheTargetIsNotKeptFor) {
  LaneDemand d(wide());
  makes(d, 5 * kMs);
  const uint32_t before = poisson(d, 400, 300, 1, 3);
  for (int i = 0; i < 100; ++i) d.arrival(300 * kS + 1);
  // 100 of 120,000 tasks: a tenth of the allowed share of misses.
  EXPECT_LE(d.wanted(300 * kS + 1).parked, before + 4);
}

TEST(Demand, FallsSlowlyAndOnlyDownOnceTasksStop) {
  DemandOptions o = wide();
  LaneDemand d(o);
  makes(d, 5 * kMs);
  for (int i = 0; i < 200; ++i) d.arrival(kS);
  uint32_t last = d.wanted(kS).parked, steps = 0;
  EXPECT_GE(last, 198u);
  uint64_t now = kS, fell_ns = kS;
  while (d.due_ns() != 0) {
    ASSERT_GT(d.due_ns(), now);
    ASSERT_LT(++steps, 1000u);
    now = d.due_ns();
    const uint32_t parked = d.wanted(now).parked;
    ASSERT_LE(parked, last);
    if (parked < last) {
      EXPECT_GE(now - fell_ns, o.fall_step_ns);
      EXPECT_LE(last - parked, (last + 3) / 4);
      EXPECT_GE(now, o.unused_after_ns);  // the burst is remembered as long as the template is used
      fell_ns = now;
    }
    last = parked;
  }
  EXPECT_EQ(last, 0u);
  EXPECT_LT(now, o.unused_after_ns + 40 * o.fall_step_ns);
}

TEST(Demand, UnusedTemplateFallsToZeroAndComesBackOnFirstUse) {
  DemandOptions o = wide();
  o.parked_min = 2;
  LaneDemand d(o, kS);
  makes(d, 5 * kMs);
  EXPECT_EQ(d.wanted(kS).parked, 2u);  // new: the minimum
  for (uint64_t burst = 1; burst <= 5; ++burst)
    for (int i = 0; i < 12; ++i) d.arrival(burst * 20 * kS);
  EXPECT_GE(d.wanted(100 * kS).parked, 12u);
  uint64_t now = 100 * kS;
  while (d.due_ns() != 0) {
    now = d.due_ns();
    d.wanted(now);
  }
  EXPECT_EQ(d.wanted(now).parked, 0u);
  EXPECT_FALSE(d.used());
  d.arrival(now + 100 * kS);
  EXPECT_TRUE(d.wanted(now + 100 * kS).parked >= 12u);  // its size of last time
  EXPECT_TRUE(d.used());
}

TEST(Demand, MinimumIsKeptForEverWhereSaidSo) {
  DemandOptions o = wide();
  o.parked_min = 3;
  o.unused_after_ns = 0;
  LaneDemand d(o);
  makes(d, 5 * kMs);
  EXPECT_EQ(d.wanted(1).parked, 3u);
  EXPECT_EQ(d.due_ns(), 0u);
  for (int i = 0; i < 20; ++i) d.arrival(kS);
  EXPECT_GE(d.wanted(kS).parked, 20u);
  EXPECT_NE(d.due_ns(), 0u);
  EXPECT_GE(d.wanted(1'000'000 * kS).parked, 3u);
}

TEST(Demand, HeldBackParkingIsMadeUpForByMoreClonesAtMostTwice) {
  auto parked = [](double rate_hz, uint64_t quiet_ns) {
    DemandOptions o = wide();
    o.quiet_ns = quiet_ns;
    LaneDemand d(o);
    makes(d, 5 * kMs);
    d.setMakers(4);
    poisson(d, rate_hz, 120, 1, 1);
    return d.wanted(120 * kS).parked;
  };
  for (double rate_hz : {20.0, 100.0, 400.0}) {
    const uint32_t at_once = parked(rate_hz, 0), held_back = parked(rate_hz, kParkQuiet_ns),
                   for_ever = parked(rate_hz, 1000 * kS);
    EXPECT_GT(held_back, at_once) << rate_hz;
    EXPECT_GE(for_ever, held_back) << rate_hz;
    // The other half alone meets the target.
    EXPECT_LE(for_ever, 2 * at_once) << rate_hz;
  }
}

TEST(Demand, SteadyLoadDoesNotFlap) {
  for (uint64_t seed : {1, 2, 3, 4}) {
    LaneDemand d(wide());
    makes(d, 5 * kMs);
    poisson(d, 100, 120, 1, seed);
    Random random(seed + 100);
    uint32_t changes = 0, last = d.wanted(120 * kS).parked;
    for (double t = 120; t < 600; t += random.exponential(0.01)) {
      const auto now = static_cast<uint64_t>(t * 1e9);
      d.arrival(now);
      const uint32_t parked = d.wanted(now).parked;
      changes += parked != last;
      last = parked;
    }
    EXPECT_LE(changes, 20u) << seed;  // of 48,000 possible changes
  }
}

TEST(Demand, BoxesAreStockedForWhatIsRarer) {
  DemandOptions o = wide();
  o.parked_max = 16;
  o.stocked_max = 32;
  LaneDemand d(o);
  makes(d, 5 * kMs);
  for (int i = 0; i < 100; ++i) d.arrival(kS);
  const LaneDemand::Wanted w = d.wanted(kS);
  EXPECT_EQ(w.parked, 16u);
  EXPECT_EQ(w.reach, 48u);
}

TEST(Demand, AnyOrderOfEventsKeepsItsBoundsAndIsRepeatable) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    Random random(seed);
    DemandOptions o;
    o.parked_max = static_cast<uint32_t>(random.next() % 100);
    o.parked_min = static_cast<uint32_t>(random.next() % 20);
    o.stocked_max = static_cast<uint32_t>(random.next() % 30);
    o.stocked_min = static_cast<uint32_t>(random.next() % 10);
    o.empty_max = random.uniform();
    o.unused_after_ns = random.next() % 2 * 100 * kS;
    LaneDemand a(o), b(o);
    const uint32_t least = std::min(o.parked_min, o.parked_max);
    uint64_t now = 1;
    for (int i = 0; i < 2000; ++i) {
      switch (random.next() % 6) {
        case 0:
          now += random.next() % (30 * kS);
          break;
        case 1:
          now += random.next() % (20 * kMs);
          break;
        case 2: {
          const uint64_t make = random.next() % (random.next() % 20 == 0 ? 90 * kS : 30 * kMs);
          a.made(make), b.made(make);
          break;
        }
        case 3: {
          const double makers = 8 * random.uniform();
          a.setMakers(makers), b.setMakers(makers);
          break;
        }
        default: {
          // A clock that steps back counts as standing still.
          const uint64_t at = now - std::min<uint64_t>(now, random.next() % 10 == 0 ? kS : 0);
          for (uint64_t n = random.next() % 8; n > 0; --n) a.arrival(at), b.arrival(at);
        }
      }
      const LaneDemand::Wanted w = a.wanted(now);
      ASSERT_EQ(w, b.wanted(now));
      ASSERT_LE(w.parked, o.parked_max);
      ASSERT_GE(w.reach, w.parked);
      ASSERT_LE(w.reach, o.parked_max + o.stocked_max);
      if (a.used()) {
        ASSERT_GE(w.parked, least);
      }
      for (uint32_t held = 0; held < 40; held += 7) ASSERT_GE(a.empty(held), a.empty(held + 7));
    }
  }
}

// --- the plan ---

constexpr uint64_t kMiB = 1 << 20;

PlanOptions budget(uint64_t mib, uint32_t boxes = kHeld_max) {
  PlanOptions o;
  o.memory_bytes_max = mib * kMiB;
  o.boxes_max = boxes;
  o.box_bytes = kMiB;
  o.clone_first_bytes = 3 * kMiB;
  return o;
}

void burst(Plan& plan, base::TemplateId id, int size, uint64_t now_ns) {
  for (int i = 0; i < size; ++i) plan.onArrival(id, now_ns);
}

TEST(Plan, GrantsAllThatIsWantedWhileTheBudgetHoldsIt) {
  Plan plan(budget(1000));
  plan.add(2, wide(), 0);
  plan.add(1, wide(), 0);
  burst(plan, 1, 30, kS);
  burst(plan, 2, 10, kS);
  const auto& targets = plan.plan(kS);
  ASSERT_EQ(targets.size(), 2u);
  EXPECT_EQ(targets[0].id, 1u);
  EXPECT_GE(targets[0].parked, 30u);
  EXPECT_EQ(targets[0].parked, targets[0].parked_wanted);
  EXPECT_GE(targets[1].parked, 10u);
  EXPECT_LT(targets[1].parked, targets[0].parked);
}

TEST(Plan, ShortBudgetGivesEachItsFirstClonesBeforeAnyItsLast) {
  Plan plan(budget(4 * 20));  // 20 clones
  for (base::TemplateId id = 1; id <= 4; ++id) plan.add(id, wide(), 0);
  // One template has bursts of 60, the others of 3.
  for (uint64_t at = 1; at <= 20; ++at) {
    burst(plan, 1, 60, at * 10 * kS);
    for (base::TemplateId id = 2; id <= 4; ++id) burst(plan, id, 3, at * 10 * kS);
  }
  const auto& targets = plan.plan(200 * kS);
  for (size_t i = 1; i < 4; ++i) EXPECT_EQ(targets[i].parked, 3u) << i;
  EXPECT_EQ(targets[0].parked, 11u);
  EXPECT_GE(targets[0].parked_wanted, 59u);
}

TEST(Plan, OfTwoEqualLoadsTheCheaperCloneIsKept) {
  Plan plan(budget(100));
  plan.add(1, wide(), 0);
  plan.add(2, wide(), 0);
  for (int i = 0; i < 200; ++i) plan.onMeasured(1, 20 * kMiB), plan.onMeasured(2, kMiB);
  for (uint64_t at = 1; at <= 10; ++at)
    burst(plan, 1, 20, at * 10 * kS), burst(plan, 2, 20, at * 10 * kS);
  const auto& targets = plan.plan(100 * kS);
  EXPECT_EQ(targets[1].parked, targets[1].parked_wanted);
  EXPECT_LT(targets[0].parked, 5u);
}

TEST(Plan, LoadThatNeedsManyClonesTogetherIsNotStarved) {
  // 2,000 tasks a second and makes of 5 ms need some 20 clones before the first of them saves a
  // miss; bursts of two need two.
  PlanOptions o = budget(4 * 40);
  o.makers = 32;
  Plan plan(o);
  plan.add(1, wide(), 0);
  plan.add(2, wide(), 0);
  for (int i = 0; i < 200; ++i) plan.onMade(1, 5 * kMs, 0), plan.onMade(2, 5 * kMs, 0);
  Random random(3);
  uint64_t now = 0;
  for (double t = 0; t < 20; t += random.exponential(1.0 / 2000)) {
    now = static_cast<uint64_t>(t * 1e9);
    plan.onArrival(1, now);
    if (random.next() % 200 == 0) burst(plan, 2, 2, now);
    plan.plan(now);
  }
  const auto& targets = plan.plan(now);
  EXPECT_GE(targets[0].parked, 16u);
  EXPECT_LT(plan.demand(1)->empty(targets[0].parked), 0.02);
  EXPECT_GE(targets[1].parked, 2u);
}

TEST(Plan, MinimaComeBeforeEverythingElse) {
  Plan plan(budget(4 * 12));
  DemandOptions o = wide();
  plan.add(1, o, 0);
  o.parked_min = 5;
  plan.add(2, o, 0);
  plan.add(3, o, 0);
  burst(plan, 1, 100, kS);
  const auto& targets = plan.plan(kS);
  EXPECT_EQ(targets[1].parked, 5u);
  EXPECT_EQ(targets[2].parked, 5u);
  EXPECT_EQ(targets[0].parked, 2u);
}

TEST(Plan, CloneThatTheBudgetCutsMayStillGetItsBox) {
  Plan plan(budget(4 * 10 + 6));
  DemandOptions o = wide();
  o.stocked_max = 50;
  plan.add(1, o, 0);
  burst(plan, 1, 40, kS);
  const Target t = plan.plan(kS)[0];
  EXPECT_EQ(t.parked, 11u);
  EXPECT_EQ(t.stocked, 2u);  // the two MiB without a clone
}

TEST(Plan, UnusedTemplateGivesItsShareToTheOthers) {
  Plan plan(budget(4 * 16));
  plan.add(1, wide(), 0);
  plan.add(2, wide(), 0);
  burst(plan, 1, 16, kS);
  burst(plan, 2, 16, kS);
  const uint32_t before = plan.plan(kS)[1].parked;
  EXPECT_LT(before, 16u);
  uint64_t now = kS;
  for (int i = 0; i < 200; ++i) burst(plan, 2, 16, now += 10 * kS), plan.plan(now);
  EXPECT_EQ(plan.plan(now)[0].parked, 0u);
  EXPECT_EQ(plan.plan(now)[1].parked, 16u);
  plan.onArrival(1, now);
  EXPECT_GT(plan.plan(now)[0].parked, 0u);
}

TEST(Plan, DrivenByItsDueTimesAloneItComesToRest) {
  Plan plan(budget(10'000));
  for (base::TemplateId id = 1; id <= 10; ++id) {
    plan.add(id, DemandOptions{}, 0);
    burst(plan, id, static_cast<int>(5 * id), id * kS);
    plan.plan(id * kS);
  }
  uint64_t now = 10 * kS;
  int wakes = 0;
  while (plan.nextDue_ns() != 0) {
    ASSERT_GT(plan.nextDue_ns(), now);
    ASSERT_LT(++wakes, 20'000);
    now = plan.nextDue_ns();
    plan.plan(now);
  }
  for (const Target& t : plan.plan(now)) {
    EXPECT_EQ(t.parked, 0u);
    EXPECT_EQ(t.stocked, 0u);
  }
}

TEST(Plan, RemovedTemplateIsForgottenAndUnknownOnesAreIgnored) {
  Plan plan(budget(100));
  plan.add(7, wide(), 0);
  plan.onArrival(7, kS);
  plan.onArrival(8, kS);
  plan.onMade(9, kMs, kS);
  plan.onMeasured(9, kMiB);
  EXPECT_EQ(plan.plan(kS).size(), 1u);
  plan.remove(7);
  EXPECT_TRUE(plan.plan(kS).empty());
  EXPECT_EQ(plan.nextDue_ns(), 0u);
  EXPECT_EQ(plan.demand(7), nullptr);
}

TEST(Plan, AnyLoadKeepsTheBudgetTheMinimaAndTheMaxima) {
  for (uint64_t seed = 1; seed <= 25; ++seed) {
    Random random(seed);
    PlanOptions o = budget(1 + random.next() % 400, static_cast<uint32_t>(random.next() % 120));
    Plan plan(o), again(o);
    const auto n = static_cast<base::TemplateId>(1 + random.next() % 12);
    std::vector<DemandOptions> each(n + 1);
    uint64_t min_bytes = 0;
    uint32_t min_boxes = 0;
    for (base::TemplateId id = 1; id <= n; ++id) {
      each[id].parked_max = static_cast<uint32_t>(random.next() % 60);
      each[id].parked_min = static_cast<uint32_t>(random.next() % 4);
      each[id].stocked_max = static_cast<uint32_t>(random.next() % 20);
      each[id].unused_after_ns = 0;
      plan.add(id, each[id], 0);
      again.add(id, each[id], 0);
      const uint32_t least = std::min(each[id].parked_min, each[id].parked_max);
      min_bytes += least * 4 * kMiB;
      min_boxes += least;
    }
    uint64_t now = 1;
    for (int i = 0; i < 300; ++i) {
      const auto id = static_cast<base::TemplateId>(1 + random.next() % n);
      now += random.next() % (random.next() % 4 == 0 ? 20 * kS : 5 * kMs);
      for (uint64_t k = random.next() % 30; k > 0; --k)
        plan.onArrival(id, now), again.onArrival(id, now);
      const uint64_t make_ns = random.next() % (10 * kMs);
      plan.onMade(id, make_ns, now), again.onMade(id, make_ns, now);
      if (random.next() % 50 == 0) {
        o = budget(1 + random.next() % 400, static_cast<uint32_t>(random.next() % 120));
        plan.setBudget(o.memory_bytes_max, o.boxes_max);
        again.setBudget(o.memory_bytes_max, o.boxes_max);
      }
      const auto& targets = plan.plan(now);
      const auto& same = again.plan(now);
      ASSERT_EQ(targets.size(), n);
      uint64_t bytes = 0;
      uint32_t boxes = 0;
      const bool minima_fit = min_bytes <= o.memory_bytes_max && min_boxes <= o.boxes_max;
      for (size_t k = 0; k < targets.size(); ++k) {
        const Target& t = targets[k];
        const DemandOptions& d = each[t.id];
        bytes += t.parked * 4 * kMiB + t.stocked * kMiB;
        boxes += t.parked + t.stocked;
        ASSERT_LE(t.parked, t.parked_wanted);
        ASSERT_LE(t.parked, d.parked_max);
        ASSERT_LE(t.stocked, d.stocked_max);
        if (minima_fit) {
          ASSERT_GE(t.parked, std::min(d.parked_min, d.parked_max)) << seed;
        }
        ASSERT_EQ(t.parked, same[k].parked);
        ASSERT_EQ(t.stocked, same[k].stocked);
      }
      ASSERT_LE(bytes, o.memory_bytes_max) << seed;
      ASSERT_LE(boxes, o.boxes_max) << seed;
    }
  }
}

}  // namespace
}  // namespace mayfly::pool
