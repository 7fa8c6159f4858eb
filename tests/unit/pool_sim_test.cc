// The pool's simulator against values computed by hand, and the sizing policies compared in it. All
// seeds are fixed.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>

#include "pool/compare.h"

namespace mayfly::pool {
namespace {

constexpr uint64_t kMs = 1'000'000, kS = 1'000'000'000;

// How many seeds the long comparisons take: 25 s for the check's three.
uint64_t seedsMax() {
  const char* const more = ::getenv("MAYFLY_POOL_SEEDS");
  return more != nullptr ? static_cast<uint64_t>(std::max(1, ::atoi(more))) : 1;
}

Trace at(std::vector<Arrival> arrivals, uint64_t end_ns, size_t templates = 1) {
  Trace t;
  t.name = "by hand";
  for (size_t i = 0; i < templates; ++i) t.templates.push_back("t" + std::to_string(i));
  t.arrivals = std::move(arrivals);
  t.end_ns = end_ns;
  return t;
}

SimOptions exact(uint32_t makers) {
  SimOptions o;
  o.each = {4 * kMs, 6 * kMs, 1000};
  o.box_bytes = 100;
  o.makers = makers;
  o.make_spread = 0;
  o.claim_ns = o.end_ns = 0;
  return o;
}

SimResult run(const Trace& trace, const SimOptions& o, SizingPolicy& policy) {
  auto result = simulate(trace, o, policy);
  EXPECT_TRUE(result) << result.error().message;
  return std::move(*result);
}
SimResult runFixed(const Trace& trace, const SimOptions& o, uint32_t parked, uint32_t stocked = 0) {
  FixedSizing policy(parked, stocked);
  return run(trace, o, policy);
}

TEST(Sim, WithoutPoolTasksWaitForTheMakersInOrder) {
  const Trace t = at({{kS, 0, 0}, {kS, 0, 0}, {kS, 0, 0}}, 2 * kS);
  SimResult one = runFixed(t, exact(1), 0);
  EXPECT_EQ(one.all.hits, 0u);
  EXPECT_EQ(one.all.wait_max_ns, 30 * kMs);
  EXPECT_EQ(one.all.wait_p50_ns, 20 * kMs);
  EXPECT_DOUBLE_EQ(one.all.wait_mean_ns, 20.0 * kMs);
  EXPECT_EQ(one.all.clones_made, 3u);
  EXPECT_EQ(one.all.thrown_away, 0u);
  EXPECT_EQ(one.all.parked_max, 0u);
  EXPECT_NEAR(one.makers_busy, 0.03 / 2, 1e-12);
  SimResult two = runFixed(t, exact(2), 0);
  EXPECT_EQ(two.all.wait_max_ns, 20 * kMs);
  EXPECT_EQ(two.all.wait_p50_ns, 10 * kMs);
}

TEST(Sim, PoolIsFilledHeldAndRefilledAndItsMemoryIsCounted) {
  // Full at 30 ms; one claim at 1 s, refilled 10 ms after the quiet time.
  SimResult r = runFixed(at({{kS, kS / 2, 0}}, 2 * kS), exact(1), 3);
  EXPECT_EQ(r.all.hits, 1u);
  EXPECT_EQ(r.all.clones_made, 4u);
  EXPECT_EQ(r.all.parked_max, 3u);
  const double parked_s = 3 * 2.0 - (0.010 + 0.020 + 0.030) - 0.015;
  EXPECT_NEAR(r.all.memory_byte_s, parked_s * 1100, 1e-6);
  EXPECT_NEAR(r.all.parked_mean, parked_s / 2, 1e-9);
  EXPECT_EQ(r.running_max, 1u);
  EXPECT_NEAR(r.running_mean, 0.25, 1e-9);
  EXPECT_EQ(r.boxes_max, 4u);
}

// Template 0 holds the given number, the others nothing.
class FirstOnly : public FixedSizing {
 public:
  explicit FirstOnly(uint32_t parked) : FixedSizing(0), parked_(parked) {}
  void hold(uint64_t, std::span<const SimPool>, std::span<Hold> out) override {
    std::fill(out.begin(), out.end(), Hold{});
    out[0].parked = parked_;
  }

 private:
  uint32_t parked_;
};

TEST(Sim, TaskGetsTheNextCloneOfItsTemplateWhateverThatWasMadeFor) {
  FirstOnly four(4);
  SimResult r = run(at({{5 * kMs, 0, 0}}, kS), exact(1), four);
  EXPECT_EQ(r.all.wait_max_ns, 5 * kMs);
  EXPECT_EQ(r.all.clones_made, 5u);
}

TEST(Sim, MakersServeAllTemplatesInTheOrderOfAsking) {
  // Template 1's task comes while template 0's pool is being filled.
  for (auto [making_max, waits_ms] : {std::pair{1u, 15u}, {2u, 25u}, {4u, 45u}}) {
    SimOptions o = exact(1);
    o.making_max = making_max;
    FirstOnly four(4);
    SimResult r = run(at({{5 * kMs, 0, 1}}, kS, 2), o, four);
    EXPECT_EQ(r.all.wait_max_ns, waits_ms * kMs) << making_max;
    EXPECT_EQ(r.templates[1].clones_made, 1u);
    EXPECT_EQ(r.templates[0].clones_made, 4u);
  }
}

TEST(Sim, StockedBoxSavesATaskTheBoxesTime) {
  SimResult r = runFixed(at({{kS, 0, 0}, {kS, 0, 0}}, 2 * kS), exact(1), 0, 1);
  EXPECT_EQ(r.all.box_hits, 1u);
  EXPECT_EQ(r.all.wait_p50_ns, 6 * kMs);
  EXPECT_EQ(r.all.wait_max_ns, 16 * kMs);
  EXPECT_EQ(r.all.boxes_made, 2u);  // and the stock is filled again
}

TEST(Sim, TasksWaitForAPlaceWhereBoxesAreFewAndParkedClonesTakeNone) {
  SimOptions o = exact(4);
  o.boxes_max = 2;
  const Trace t = at({{kS, kS, 0}, {kS, kS, 0}, {kS, kS, 0}}, 5 * kS);
  SimResult r = runFixed(t, o, 0);
  EXPECT_EQ(r.running_max, 2u);
  EXPECT_EQ(r.boxes_max, 2u);
  EXPECT_EQ(r.all.wait_max_ns, kS + 20 * kMs);
  // Template 0's parked clones belong to no task: the task of template 1 gets its place.
  FirstOnly two(2);
  r = run(at({{kS, kS, 1}}, 3 * kS, 2), o, two);
  EXPECT_EQ(r.all.wait_max_ns, 10 * kMs);
  EXPECT_EQ(r.all.thrown_away, 0u);
  EXPECT_EQ(r.boxes_max, 3u);
}

TEST(Sim, ClaimsAndEndsTakeTheirTime) {
  SimOptions o = exact(1);
  o.boxes_max = 1;
  o.claim_ns = 1 * kMs;
  o.end_ns = 3 * kMs;
  // The second task waits for the first one's make, claim, run and end, then for its own make.
  SimResult r = runFixed(at({{kS, 20 * kMs, 0}, {kS, 0, 0}}, 2 * kS), o, 0);
  EXPECT_EQ(r.all.wait_max_ns, (10 + 1 + 20 + 3 + 10) * kMs);
  EXPECT_NEAR(r.running_mean, (1 + 20 + 1) * 1e-3 / 2, 1e-12);
}

TEST(Sim, SurplusIsThrownAwayAtOnce) {
  class Policy : public FixedSizing {
   public:
    Policy() : FixedSizing(0) {}
    void hold(uint64_t now_ns, std::span<const SimPool>, std::span<Hold> out) override {
      out[0] = {now_ns < kS ? 5u : 2u, 0};
    }
    uint64_t nextDue_ns() const override { return kS; }
  } policy;
  SimResult r = run(at({{kS + kMs, 0, 0}}, 2 * kS), exact(8), policy);
  EXPECT_EQ(r.all.thrown_away, 3u);
  EXPECT_EQ(r.all.clones_made, 6u);
}

TEST(Sim, FixedSizeMissesAsOftenAsTheModelSaysAndWhatHeldBackParkingAdds) {
  // Twelve cells; the model is a bound that is close below 70 % of the makers' time. It ignores the
  // quiet time: with it, a replacement takes half as long again, while makers idle.
  const double held_back = 1 + static_cast<double>(kParkQuiet_ns) / (10 * kMs);
  for (double share : {0.1, 0.35, 0.6})
    for (uint32_t held : {1u, 2u, 4u, 6u}) {
      TraceShape shape;
      shape.time_s = 400;
      shape.rate_hz = share * 4 / 0.010;
      const Trace t = *makeTrace(shape);
      const SimResult r = runFixed(t, exact(4), held);
      const double missed = 1 - r.all.hitRate(), model = emptyChance(share * 4, 4, held),
                   most = emptyChance(share * 4 * held_back, 4 * held_back, held);
      const double noise = 6 * std::sqrt(model / static_cast<double>(t.arrivals.size())) + 2e-4;
      EXPECT_LE(missed, most + noise) << share << " " << held;
      EXPECT_GE(missed, model / 1.8 - noise) << share << " " << held;
    }
}

TEST(Sim, CountsAddUpForAnyTraceAndPolicy) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Random random(seed);
    std::vector<Arrival> arrivals;
    const size_t templates = 1 + random.next() % 5;
    uint64_t now = 0;
    for (int i = 0; i < 400; ++i) {
      now += random.next() % 3 == 0 ? random.next() % (2 * kS) : 0;
      arrivals.push_back(
          {now, random.next() % kS, static_cast<uint32_t>(random.next() % templates)});
    }
    const Trace t = at(std::move(arrivals), now + kS, templates);
    SimOptions o;
    o.seed = seed;
    o.makers = static_cast<uint32_t>(1 + random.next() % 6);
    o.making_max = static_cast<uint32_t>(1 + random.next() % 6);
    o.claim_ns = random.next() % (30 * kMs);
    o.end_ns = random.next() % (30 * kMs);
    o.boxes_max = static_cast<uint32_t>(2 + random.next() % 60);
    CompareOptions c;
    c.sim = o;
    c.demand.parked_min = static_cast<uint32_t>(random.next() % 3);
    EwmaOptions e;
    e.cover_s = random.uniform();
    for (const PolicyMaker& maker : {oursMaker(c), fixedMaker(3), ewmaMaker(e)}) {
      auto policy = maker(t);
      const SimResult r = run(t, o, *policy);
      ASSERT_EQ(r.all.arrivals, 400u);
      ASSERT_LE(r.all.hits + r.all.box_hits, r.all.arrivals);
      ASSERT_LE(r.running_max, o.boxes_max);
      // Every task had a clone of its own; surplus clones were thrown away or are parked.
      ASSERT_GE(r.all.clones_made, r.all.arrivals + r.all.thrown_away);
      ASSERT_LE(r.all.clones_made,
                r.all.arrivals + r.all.thrown_away + r.all.parked_max + templates * o.making_max);
      ASSERT_LE(r.boxes_max, o.boxes_max + r.all.parked_max + templates * (o.making_max + 17));
      ASSERT_LE(r.makers_busy, 1.0);
      ASSERT_LE(r.all.wait_p50_ns, r.all.wait_p90_ns);
      ASSERT_LE(r.all.wait_p99_ns, r.all.wait_max_ns);
      uint64_t hits = 0, made = 0, thrown = 0;
      for (const SimFigures& f : r.templates) {
        hits += f.hits;
        made += f.clones_made;
        thrown += f.thrown_away;
      }
      ASSERT_EQ(hits, r.all.hits);
      ASSERT_EQ(made, r.all.clones_made);
      ASSERT_EQ(thrown, r.all.thrown_away);
      auto again = maker(t);
      ASSERT_EQ(run(t, o, *again).all.memory_byte_s, r.all.memory_byte_s);
    }
  }
}

TEST(Sim, WhatCannotBeSimulatedIsRefused) {
  FixedSizing policy(1);
  const Trace t = at({{kS, 0, 0}}, 2 * kS);
  auto refused = [&](const Trace& trace, auto change) {
    SimOptions o = exact(1);
    change(o);
    auto result = simulate(trace, o, policy);
    return !result && result.error().code == base::Code::invalidArgument;
  };
  EXPECT_TRUE(refused(t, [](SimOptions& o) { o.makers = 0; }));
  EXPECT_TRUE(refused(t, [](SimOptions& o) { o.making_max = 0; }));
  EXPECT_TRUE(refused(t, [](SimOptions& o) { o.boxes_max = 0; }));
  EXPECT_TRUE(refused(t, [](SimOptions& o) { o.templates.resize(2); }));
  EXPECT_TRUE(refused(t, [](SimOptions& o) { o.make_spread = NAN; }));
  EXPECT_TRUE(refused(at({{kS, 0, 1}}, 2 * kS), [](SimOptions&) {}));
  EXPECT_TRUE(refused(at({{kS, 0, 0}, {1, 0, 0}}, 2 * kS), [](SimOptions&) {}));
  EXPECT_FALSE(refused(t, [](SimOptions&) {}));
}

// --- the policies ---

CompareOptions wide(uint64_t seed) {
  CompareOptions o;
  o.demand.parked_max = 256;
  o.demand.stocked_max = 0;
  o.sim.seed = seed;
  return o;
}

TEST(Sizing, SteadyTasksFindACloneAsOftenAsTheTargetSays) {
  for (double rate : {0.2, 1.0, 5.0, 20.0, 50.0, 100.0, 200.0, 400.0, 600.0, 700.0})
    for (uint64_t seed = 1; seed <= seedsMax(); ++seed) {
      TraceShape shape;
      shape.time_s = std::clamp(20'000 / rate, 120.0, 20'000.0);
      shape.rate_hz = rate;
      shape.seed = seed;
      CompareOptions o = wide(seed);
      o.sim.count_from_ns = static_cast<uint64_t>(shape.time_s * 0.2e9);
      auto c = simulateAll("", "", {*makeTrace(shape)}, o.sim, oursMaker(o));
      ASSERT_TRUE(c);
      EXPECT_GE(c->hitRate(), 0.99) << rate << "/s, seed " << seed;
    }
}

TEST(Sizing, LowerTargetHoldsLess) {
  TraceShape shape;
  shape.rate_hz = 200;
  const std::vector<Trace> traces{*makeTrace(shape)};
  double last = 1e300;
  for (double empty : {0.0001, 0.001, 0.01, 0.1}) {
    CompareOptions o = wide(1);
    o.demand.empty_max = empty;
    auto c = *simulateAll("", "", traces, o.sim, oursMaker(o));
    EXPECT_GE(c.hitRate(), 1 - empty) << empty;
    EXPECT_LT(c.memory_byte_s(), last) << empty;
    last = c.memory_byte_s();
  }
}

TEST(Sizing, HundredfoldLoadIsFollowedWithinSeconds) {
  TraceShape slow, fast;
  slow.time_s = fast.time_s = 120;
  slow.rate_hz = 3;
  fast.rate_hz = 300;
  Trace t = *makeTrace(slow);
  const Trace more = *makeTrace(fast);
  for (Arrival a : more.arrivals) {
    a.at_ns += t.end_ns;
    t.arrivals.push_back(a);
  }
  t.end_ns *= 2;
  CompareOptions o = wide(1);
  o.sim.count_from_ns = 120 * kS;
  EXPECT_GE(simulateAll("", "", {t}, o.sim, oursMaker(o))->hitRate(), 0.99);
}

TEST(Sizing, MemoryBudgetIsKeptAndSharedByNeed) {
  // Two templates in bursts: the budget covers about half of their wishes.
  Random random(4);
  std::vector<Arrival> arrivals;
  for (uint64_t burst = 1; burst <= 100; ++burst)
    for (int i = 0; i < 40; ++i)
      arrivals.push_back({burst * 10 * kS, kMs, static_cast<uint32_t>(i % 4 == 0)});
  const Trace t = at(std::move(arrivals), 1010 * kS, 2);
  CompareOptions o = wide(1);
  const uint64_t bytes_each = o.sim.each.clone_bytes + o.sim.box_bytes;
  o.memory_bytes_max = 20 * bytes_each;
  auto c = *simulateAll("", "", {t}, o.sim, oursMaker(o));
  const SimResult& r = c.results[0];
  EXPECT_LE(r.all.parked_max, 20u);
  EXPECT_GE(r.all.parked_mean, 19.0);
  EXPECT_GE(r.templates[0].hits, 900u);
  EXPECT_GE(r.templates[1].hits, 900u);
}

// The comparison of policies: two hours each, without the first half hour (every policy but a fixed
// size must learn first), three seeds. The fixed size is the one that costs as much memory as ours,
// or the mean of the two nearest sizes: it is known only in hindsight.
struct Contest {
  double ours, ours_memory, fixed;
  double best_watermark;  // of those that cost no more memory
};

std::vector<Trace> threeKinds(uint64_t seed) {
  std::vector<Trace> out;
  for (auto kind : {TraceShape::Kind::steady, TraceShape::Kind::bursty, TraceShape::Kind::onOff}) {
    TraceShape s;
    s.kind = kind;
    s.seed = seed;
    s.time_s = 7200;
    s.every_s = 30;
    s.on_s = 60;
    s.off_s = 300;
    if (kind == TraceShape::Kind::onOff) s.rate_hz = 100;
    out.push_back(*makeTrace(s));
  }
  return out;
}

// The first size in [from, to) that is too large, as all after it are; `to` if none is.
template <class TooLarge>
uint32_t firstTooLarge(uint32_t from, uint32_t to, TooLarge too_large) {
  while (from < to) {
    const uint32_t middle = (from + to) / 2;
    if (too_large(middle))
      to = middle;
    else
      from = middle + 1;
  }
  return to;
}

// Policies of a kind over the same traces, by their one setting; each is simulated once.
class Kind {
 public:
  Kind(std::vector<Trace> traces, const SimOptions& o, std::function<PolicyMaker(uint32_t)> maker)
      : traces_(std::move(traces)), o_(o), maker_(std::move(maker)) {}
  const Compared& operator()(uint32_t n) {
    auto found = seen_.find(n);
    if (found == seen_.end())
      found = seen_.emplace(n, *simulateAll("", "", traces_, o_, maker_(n))).first;
    return found->second;
  }

 private:
  std::vector<Trace> traces_;
  SimOptions o_;
  std::function<PolicyMaker(uint32_t)> maker_;
  std::map<uint32_t, Compared> seen_;
};

// What a watermark covers, from nothing to ten minutes.
constexpr uint32_t kCovers = 27;
double cover_s(uint32_t nth) { return nth == 0 ? 0 : 0.001 * std::pow(1.7, nth - 1); }
// Memory and hits grow with what is covered: of those that cost no more than ours, these many of
// the largest are looked at, as hits may differ by chance.
constexpr uint32_t kCoversNearest = 4;

Contest hold(const Trace& trace, uint64_t seed) {
  const std::vector<Trace> traces{trace};
  CompareOptions o = wide(seed);
  o.sim.count_from_ns = 1800 * kS;
  auto ours = *simulateAll("", "", traces, o.sim, oursMaker(o));
  Contest out{ours.hitRate(), ours.memory_byte_s(), 0, 0};
  Kind fixed(traces, o.sim, fixedMaker);
  auto dearer = [&](uint32_t n) { return fixed(n).memory_byte_s() >= out.ours_memory; };
  // Memory is nearly proportional to the size: the two that ours is between are near this one.
  const double near = 16 * out.ours_memory / fixed(16).memory_byte_s();
  uint32_t high = std::clamp(static_cast<uint32_t>(near), 1u, 128u);
  while (high < 128 && !dearer(high)) ++high;
  while (high > 1 && dearer(high - 1)) --high;
  const Compared &below = fixed(high - 1), &above = fixed(high);
  const double part =
      (out.ours_memory - below.memory_byte_s()) / (above.memory_byte_s() - below.memory_byte_s());
  out.fixed = below.hitRate() + part * (above.hitRate() - below.hitRate());
  Kind watermark(traces, o.sim, [](uint32_t nth) {
    EwmaOptions e;
    e.cover_s = cover_s(nth);
    return ewmaMaker(e);
  });
  const uint32_t end = firstTooLarge(
      0, kCovers, [&](uint32_t nth) { return watermark(nth).memory_byte_s() > out.ours_memory; });
  for (uint32_t nth = end > kCoversNearest ? end - kCoversNearest : 0; nth < end; ++nth)
    out.best_watermark = std::max(out.best_watermark, watermark(nth).hitRate());
  return out;
}

// By seed, then kind.
const std::vector<std::array<Contest, 3>>& contests() {
  static const auto all = [] {
    std::vector<std::array<Contest, 3>> out;
    for (uint64_t seed = 1; seed <= seedsMax(); ++seed) {
      const std::vector<Trace> kinds = threeKinds(seed);
      out.push_back({hold(kinds[0], seed), hold(kinds[1], seed), hold(kinds[2], seed)});
    }
    return out;
  }();
  return all;
}

TEST(Sizing, NoWatermarkIsBetterForTheSameMemoryOnAnyKindOfArrivals) {
  for (const auto& kinds : contests())
    for (const Contest& c : kinds) EXPECT_GT(1 - c.best_watermark, 1.5 * (1 - c.ours));
}

TEST(Sizing, BestFixedSizeIsHardlyBetterWhereLoadIsStationaryAndWorseWhereItIsNot) {
  for (const auto& [steady, bursty, on_off] : contests()) {
    // Ours cannot win here: for a load that never changes, a constant is optimal.
    EXPECT_GT(steady.ours, steady.fixed - 0.0005);
    EXPECT_GT(bursty.ours, bursty.fixed - 0.005);
    EXPECT_GT(1 - on_off.fixed, 5 * (1 - on_off.ours));
    for (const Contest& c : {steady, bursty, on_off}) EXPECT_GE(c.ours, 0.99);
  }
}

TEST(Sizing, NoOneFixedSizeServesAllKindsAsWellForTwiceTheMemory) {
  for (uint64_t seed = 1; seed <= seedsMax(); ++seed) {
    const auto& kinds = contests()[seed - 1];
    double memory = 0, least = 1;
    for (const Contest& c : kinds) memory += c.ours_memory, least = std::min(least, c.ours);
    SimOptions o = wide(seed).sim;
    o.count_from_ns = 1800 * kS;
    Kind fixed(threeKinds(seed), o, fixedMaker);
    // Of 1, 9, 17 and so on, the largest that costs no more than twice as much: a larger one hits
    // no less than a smaller one.
    const uint32_t fit = firstTooLarge(0, 32, [&](uint32_t nth) {
      const Compared& c = fixed(1 + 8 * nth);
      if (c.memory_byte_s() > 2 * memory) return true;
      EXPECT_LT(c.leastHitRate(), least) << 1 + 8 * nth;
      return false;
    });
    EXPECT_GT(fit, 0u);
  }
}

// --- traces ---

TEST(Trace, GeneratedOnesHaveTheirRateAndAreRepeatable) {
  TraceShape s;
  s.time_s = 3600;
  const Trace steady = *makeTrace(s);
  EXPECT_NEAR(static_cast<double>(steady.arrivals.size()), 72'000, 5 * std::sqrt(72'000));
  EXPECT_EQ(makeTrace(s)->arrivals[1000].at_ns, steady.arrivals[1000].at_ns);
  s.seed = 2;
  EXPECT_NE(makeTrace(s)->arrivals[1000].at_ns, steady.arrivals[1000].at_ns);
  s.kind = TraceShape::Kind::bursty;  // 360 batches of 20
  const Trace bursty = *makeTrace(s);
  EXPECT_NEAR(static_cast<double>(bursty.arrivals.size()), 7200, 2000);
  std::vector<uint64_t> times;
  for (const Arrival& a : bursty.arrivals) times.push_back(a.at_ns);
  EXPECT_TRUE(std::is_sorted(times.begin(), times.end()));
  times.erase(std::unique(times.begin(), times.end()), times.end());
  EXPECT_NEAR(static_cast<double>(times.size()), 360, 80);
}

TEST(Trace, ShapesOutOfBoundsAreRefused) {
  auto refused = [](auto change) {
    TraceShape s;
    change(s);
    auto t = makeTrace(s);
    return !t && t.error().code == base::Code::invalidArgument;
  };
  EXPECT_TRUE(refused([](TraceShape& s) { s.rate_hz = 0; }));
  EXPECT_TRUE(refused([](TraceShape& s) { s.rate_hz = NAN; }));
  EXPECT_TRUE(refused([](TraceShape& s) { s.time_s = 1e9; }));
  EXPECT_TRUE(refused([](TraceShape& s) { s.rate_hz = 1e5; }));  // 60,000,000 arrivals
  EXPECT_TRUE(refused([](TraceShape& s) { s.kind = TraceShape::Kind::bursty, s.batch = 0.5; }));
  EXPECT_TRUE(refused([](TraceShape& s) { s.kind = TraceShape::Kind::onOff, s.off_s = -1; }));
}

TEST(Trace, FileIsReadWithTemplatesAndRunTimes) {
  auto t = parseTrace("seconds,template\r\n# a remark\n\n0.5\n0.5, python ,0.25\n2,shell\n2,python",
                      "x.csv", 1, 1);
  ASSERT_TRUE(t) << t.error().message;
  EXPECT_EQ(t->templates, (std::vector<std::string>{"default", "python", "shell"}));
  ASSERT_EQ(t->arrivals.size(), 4u);
  EXPECT_EQ(t->arrivals[1].at_ns, kS / 2);
  EXPECT_EQ(t->arrivals[1].run_ns, kS / 4);
  EXPECT_EQ(t->arrivals[3].template_index, 1u);
  EXPECT_EQ(t->end_ns, 2 * kS);
}

TEST(Trace, FaultyFileIsRefusedWithItsNameAndLine) {
  struct Case {
    std::string text, says;
  };
  std::string many, names;
  for (size_t i = 0; i <= kTraceTemplates_max; ++i) names += "1,t" + std::to_string(i) + "\n";
  const Case cases[] = {
      {"1\nx\n", "x.csv:2: 'x' is not a number of seconds"},
      {"1\n1,a,b\n", "x.csv:2: 'b' is not a run time"},
      {"1\n1,a,-1\n", "x.csv:2: '-1' is not a run time"},
      {"1\n2\n1.5\n", "x.csv:3: 1.5 s is before the line above it"},
      {"-1\n", "x.csv:1: -1 is not from 0"},
      {"nan\n", "x.csv:1: 'nan' is not a number"},
      {"1e300\n", "x.csv:1: 1e+300 is not from 0"},
      {"1,a,1,1,1,u,t,1\n", "x.csv:1: more than seven fields"},
      {"1,a,1,x\n", "x.csv:1: 'x' is not a processor time"},
      {"1,a,1,1,-1\n", "x.csv:1: '-1' is not a number of bytes"},
      {"1,a,1,1,1,\xff\n", "x.csv:1: the user's or tenant's name is not UTF-8"},
      {"1,\xff\n", "x.csv:1: the template's name is not UTF-8"},
      {"1," + std::string(300, 'a') + "\n", "x.csv:1: the line has 302 bytes"},
      {names, "x.csv:64: more than 63 templates"},
      {"1\x1b[31m\n", "x.csv:1: '1\\x1b[31m' is not a number of seconds"},
      {"# nothing\n", "x.csv: holds no arrival"},
      {"", "x.csv: holds no arrival"},
  };
  for (const Case& c : cases) {
    auto t = parseTrace(c.text, "x.csv", 1, 1);
    ASSERT_FALSE(t) << c.says;
    EXPECT_EQ(t.error().code, base::Code::invalidArgument);
    EXPECT_EQ(t.error().message.substr(0, c.says.size()), c.says);
  }
  for (size_t i = 0; i <= kTraceArrivals_max; ++i) many += "1\n";
  auto t = parseTrace(many, "x.csv", 1, 1);
  ASSERT_FALSE(t);
  EXPECT_NE(t.error().message.find("x.csv:2000001: more than 2000000 arrivals"), std::string::npos);
}

TEST(Trace, AnyBytesAreReadOrRefusedNeverMore) {
  const std::string alphabet = "0123456789.,-+e#\n\r\tabs \xff\0";
  Random random(9);
  for (int i = 0; i < 20'000; ++i) {
    std::string text;
    for (uint64_t n = random.next() % 60; n > 0; --n)
      text += alphabet[random.next() % alphabet.size()];
    auto t = parseTrace(text, "x.csv", 1, 1);
    if (!t) continue;
    ASSERT_TRUE(checkSimulation(*t, SimOptions{}));
    ASSERT_FALSE(t->arrivals.empty());
  }
}

}  // namespace
}  // namespace mayfly::pool
