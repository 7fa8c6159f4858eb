// The statistics of `mayfly bench`, against answers that are known otherwise.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "bench/stats.h"
#include "pool/trace.h"

namespace mayfly::bench {
namespace {

using Values = std::vector<double>;

TEST(BenchStats, TheMedianIsTheMiddleOrBetweenTheTwo) {
  EXPECT_EQ(median({}), 0);
  EXPECT_EQ(median({3}), 3);
  EXPECT_EQ(median({9, 1, 4}), 4);
  EXPECT_EQ(median({4, 1, 9, 2}), 3);
}

// 2 / C(10, 5), 4 / C(10, 5)..., as in every table of the test.
TEST(BenchStats, RankSumsAreExact) {
  EXPECT_NEAR(rankSumP({1, 2, 3, 4, 5}, {6, 7, 8, 9, 10}), 2.0 / 252, 1e-12);
  EXPECT_NEAR(rankSumP({6, 7, 8, 9, 10}, {1, 2, 3, 4, 5}), 2.0 / 252, 1e-12);
  EXPECT_NEAR(rankSumP({1, 2, 3, 4, 6}, {5, 7, 8, 9, 10}), 4.0 / 252, 1e-12);
  EXPECT_NEAR(rankSumP({1, 2, 3}, {4, 5, 6}), 0.1, 1e-12);
  EXPECT_EQ(rankSumP({1, 4}, {2, 3}), 1);
  EXPECT_EQ(rankSumP({}, {1}), 1);
}

// All divisions of {1, 2, 2, 3} into two and two: the sums of mid-ranks are 3.5, 3.5, 5,
// 5, 6.5, 6.5.
TEST(BenchStats, TiesGetMidRanks) {
  EXPECT_NEAR(rankSumP({1, 2}, {2, 3}), 4.0 / 6, 1e-12);
  EXPECT_EQ(rankSumP({5, 5, 5}, {5, 5, 5}), 1);
}

TEST(BenchStats, EqualSidesAreFoundDifferentNoMoreOftenThanPSays) {
  pool::Random random(5);
  int found = 0;
  for (int i = 0; i < 1'000; ++i) {
    Values a, b;
    for (int k = 0; k < 6; ++k) {
      a.push_back(random.normal());
      b.push_back(random.normal());
    }
    found += rankSumP(a, b) <= 0.05;
  }
  EXPECT_GT(found, 15);
  EXPECT_LT(found, 65);
}

TEST(BenchStats, HolmMultipliesTheLeastPMost) {
  const Values p = holm({0.01, 0.04, 0.03});
  EXPECT_NEAR(p[0], 0.03, 1e-12);
  EXPECT_NEAR(p[2], 0.06, 1e-12);
  EXPECT_NEAR(p[1], 0.06, 1e-12) << "no less than the one before it";
  EXPECT_EQ(holm({0.9, 0.8})[0], 1);
  EXPECT_TRUE(holm({}).empty());
}

TEST(BenchStats, TheBootstrapDependsOnTheSeedOnly) {
  const Values a{10, 11, 9, 10.5, 9.5, 10.2}, b{12, 13, 11.5, 12.5, 12.2, 11.9};
  const Interval one = ratioOfMedians(a, b, 7), again = ratioOfMedians(a, b, 7);
  EXPECT_EQ(one.low, again.low);
  EXPECT_EQ(one.high, again.high);
  EXPECT_NEAR(one.value, 12.1 / 10.1, 1e-12);
  EXPECT_LT(one.low, one.value);
  EXPECT_GT(one.high, one.value);
  EXPECT_GT(one.low, 1.05);
  EXPECT_LT(one.high, 1.4);
  const Interval other = ratioOfMedians(a, b, 8);
  EXPECT_NEAR(other.low, one.low, 0.02);
  EXPECT_NEAR(other.high, one.high, 0.02);
  EXPECT_EQ(ratioOfMedians({2}, {4}, 1).low, 2) << "one value can only be drawn again";
}

// Of 200 samples of 20 with the ratio 1.5, 95 % should cover it; the bootstrap is a little narrow.
TEST(BenchStats, TheBootstrapsIntervalCoversTheTruth) {
  pool::Random random(11);
  int covered = 0;
  for (int i = 0; i < 200; ++i) {
    Values a, b;
    for (int k = 0; k < 20; ++k) {
      a.push_back(10 * std::exp(0.1 * random.normal()));
      b.push_back(15 * std::exp(0.1 * random.normal()));
    }
    const Interval ratio = ratioOfMedians(a, b, static_cast<uint64_t>(i));
    covered += ratio.low <= 1.5 && 1.5 <= ratio.high;
  }
  EXPECT_GT(covered, 176);
}

// ln of {1, 1.1, 1.2, 1.3, 1.4}: mean 0.17529, deviation 0.13298; t(4) = 2.776.
TEST(BenchStats, AMeanRatioHasStudentsInterval) {
  const Interval ratio = meanRatio({1, 1.1, 1.2, 1.3, 1.4});
  EXPECT_NEAR(ratio.value, 1.19160, 1e-4);
  EXPECT_NEAR(std::log(ratio.high / ratio.value), 2.776 * 0.13298 / std::sqrt(5), 1e-3);
  EXPECT_NEAR(ratio.value / ratio.low, ratio.high / ratio.value, 1e-9);
  EXPECT_EQ(meanRatio({2}).high, std::numeric_limits<double>::infinity());
  const Interval equal = meanRatio({2, 2, 2});
  EXPECT_DOUBLE_EQ(equal.low, 2);
  EXPECT_DOUBLE_EQ(equal.high, 2);
}

// With four degrees of freedom, Student's distribution has a closed form.
TEST(BenchStats, AMeanRatiosPIsStudents) {
  EXPECT_NEAR(meanRatioP({1, 1.1, 1.2, 1.3, 1.4}), 0.042070, 1e-5);
  EXPECT_NEAR(meanRatioP({1, 1 / 1.1, 1 / 1.2, 1 / 1.3, 1 / 1.4}), 0.042070, 1e-5) << "two-sided";
  EXPECT_EQ(meanRatioP({}), 1);
  EXPECT_EQ(meanRatioP({7}), 1);
  EXPECT_EQ(meanRatioP({1, 1, 1}), 1);
  EXPECT_LT(meanRatioP({2, 2, 2}), 1e-9);
}

}  // namespace
}  // namespace mayfly::bench
