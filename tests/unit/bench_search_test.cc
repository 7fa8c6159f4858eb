// A sweep's search, on latency curves that exist only as arithmetic.
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <vector>

#include "bench/search.h"
#include "bench/sweep.h"
#include "pool/trace.h"

namespace mayfly::bench {
namespace {

using End = RateSearch::End;

// An M/M/1 server of 100 tasks a second: the mean time in it, in ms.
double latencyAt(double per_s) { return per_s >= 100 ? 1e9 : 1e3 / (100 - per_s); }

struct Searched {
  End end;
  double sustainable;
  std::vector<double> rates;
};

Searched search(const SearchOptions& options, const std::function<bool(double)>& good) {
  RateSearch its(options);
  Searched out{};
  while (auto rate = its.next()) {
    out.rates.push_back(*rate);
    if (out.rates.size() > 500) break;
    its.measured(*rate, good(*rate));
  }
  out.end = its.end();
  out.sustainable = its.sustainable_per_s();
  return out;
}

// 50 ms are kept up to 80 tasks a second.
TEST(BenchSearch, TheSustainableRateOfAKnownCurveIsFound) {
  for (double from : {1.0, 10.0, 79.0, 500.0}) {
    const Searched s = search({.from_per_s = from, .to_per_s = 10'000, .precision = 0.02},
                              [](double rate) { return latencyAt(rate) <= 50; });
    EXPECT_EQ(s.end, End::bracketed) << from;
    EXPECT_LE(s.sustainable, 80);
    EXPECT_GE(s.sustainable, 80 / 1.02);
    EXPECT_LT(s.rates.size(), 25u);
    EXPECT_EQ(s.rates.back(), s.sustainable) << "it is measured once more";
  }
}

TEST(BenchSearch, ARateThatWasGoodByLuckOnceIsNotTaken) {
  std::multiset<double> seen;
  const Searched s =
      search({.from_per_s = 10, .to_per_s = 1'000, .precision = 0.05, .points_max = 100},
             [&](double rate) {
               seen.insert(rate);
               // Between 60 and 80, the first try is good and every other bad.
               return rate <= 60 || (rate <= 80 && seen.count(rate) == 1);
             });
  EXPECT_EQ(s.end, End::bracketed);
  EXPECT_LE(s.sustainable, 60);
  EXPECT_GE(s.sustainable, 50);
}

TEST(BenchSearch, NoisyAnswersStillEnd) {
  pool::Random random(3);
  for (int i = 0; i < 50; ++i) {
    const Searched s =
        search({.from_per_s = 10, .to_per_s = 10'000, .points_max = 40},
               [&](double rate) { return rate * (0.8 + 0.4 * random.uniform()) < 100; });
    EXPECT_NE(s.end, End::searching);
    EXPECT_LE(s.rates.size(), 40u);
    EXPECT_LE(s.sustainable, 126);
  }
}

TEST(BenchSearch, TheEndsHaveNames) {
  EXPECT_EQ(search({.to_per_s = 300}, [](double) { return true; }).end, End::allGood);
  const Searched none = search({}, [](double) { return false; });
  EXPECT_EQ(none.end, End::noneGood);
  EXPECT_EQ(none.sustainable, 0);
  EXPECT_EQ(search({.points_max = 3}, [](double rate) { return rate < 5'000; }).end, End::points);
  EXPECT_EQ(name(End::bracketed), "bracketed");
}

TEST(BenchSearch, TheKneeIsWhereTheCurveBends) {
  std::vector<CurvePoint> curve;
  for (double rate : {10.0, 20.0, 40.0, 60.0, 80.0, 90.0, 95.0, 98.0})
    curve.push_back({rate, latencyAt(rate)});
  const auto knee = kneeOf(curve);
  ASSERT_TRUE(knee);
  EXPECT_EQ(curve[*knee].per_s, 90) << "of the unit square, 0.91 to the right and 0.18 up";
  EXPECT_FALSE(kneeOf({{1, 1}, {2, 2}, {3, 3}, {4, 4}})) << "a line has none";
  EXPECT_FALSE(kneeOf({{1, 1}, {2, 9}})) << "two points are a line";
  EXPECT_FALSE(kneeOf({{1, 5}, {2, 5}, {3, 5}}));
  EXPECT_FALSE(kneeOf({{5, 91}, {8, 48}, {10, 268}, {20, 105}})) << "noise";
}

TEST(BenchSearch, GoalsAreReadAndRefusedInWords) {
  auto goal = parseGoal("p99=50ms");
  ASSERT_TRUE(goal);
  EXPECT_EQ(goal->percent, 99);
  EXPECT_EQ(goal->most_ms, 50);
  EXPECT_EQ(goal->of, Goal::Of::receipt);
  goal = parseGoal("first-byte:p99.9=1.5s");
  ASSERT_TRUE(goal);
  EXPECT_EQ(goal->percent, 99.9);
  EXPECT_EQ(goal->most_ms, 1'500);
  EXPECT_EQ(goal->of, Goal::Of::firstByte);
  for (const char* text : {"", "p99", "p99=", "p99=50", "p101=5ms", "p0=5ms", "99=5ms", "px=5ms",
                           "p99=0ms", "end:p99=5ms"}) {
    auto refused = parseGoal(text);
    ASSERT_FALSE(refused) << text;
    EXPECT_EQ(refused.error().code, base::Code::invalidArgument);
    EXPECT_NE(refused.error().advice.find("p99=50ms"), std::string::npos);
  }
}

}  // namespace
}  // namespace mayfly::bench
