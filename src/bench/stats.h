// What rounds of a measurement say: medians, intervals, and whether two sides differ.
//
// Rounds are the samples. The thousands of latencies within a round are not independent (one slow
// moment of the machine hits many), so they give a round's percentile and nothing more.
//
// Layer: bench. Pure: the seed is an argument.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mayfly::bench {

inline constexpr uint32_t kResamples = 10'000;
inline constexpr double kSignificant = 0.05;
inline constexpr size_t kRoundsMax = 50;  // of one side; rankSumP's work grows with its cube

double median(std::vector<double> values);  // 0 if there are none

struct Interval {
  double value = 0, low = 0, high = 0;
};

// The ratio of b's median to a's, and its 95 % interval by the bootstrap: both sides are drawn
// again with replacement, and the ratios' 2.5 and 97.5 percentiles are taken. All values are > 0.
Interval ratioOfMedians(const std::vector<double>& a, const std::vector<double>& b, uint64_t seed);

// The geometric mean of paired ratios, and its 95 % interval by Student's t of their logarithms.
// With one ratio the interval is from 0 to infinity.
Interval meanRatio(const std::vector<double>& ratios);

// Two-sided p of Student's t: that such ratios, or more extreme ones, come from equal sides. The
// logarithms are taken as normal. 1 if there are fewer than two.
double meanRatioP(const std::vector<double>& ratios);

// Two-sided p of Wilcoxon's rank sum (Mann-Whitney): the exact share of all divisions of the pooled
// values into two such sides whose rank sums differ at least as much. Ties get mid-ranks.
double rankSumP(const std::vector<double>& a, const std::vector<double>& b);

// Holm's correction of the p of several tests, in their order.
std::vector<double> holm(const std::vector<double>& p);

}  // namespace mayfly::bench
