#include "bench/stats.h"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <limits>
#include <numeric>

#include "pool/trace.h"

namespace mayfly::bench {
namespace {

// Of the sorted values, between neighbours.
double quantile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double part = place - static_cast<double>(below);
  return sorted[below] * (1 - part) + sorted[above] * part;
}

std::vector<double> drawnAgain(const std::vector<double>& values, pool::Random& random) {
  std::vector<double> out(values.size());
  for (double& each : out) each = values[random.next() % values.size()];
  return out;
}

// Of the ratios' logarithms.
struct LogMoments {
  double mean = 0, error = 0;  // standard error of the mean; 0 with fewer than two
};

LogMoments momentsOf(const std::vector<double>& ratios) {
  const auto n = static_cast<double>(ratios.size());
  LogMoments out;
  double squares = 0;
  for (double ratio : ratios) out.mean += std::log(ratio) / n;
  for (double ratio : ratios)
    squares += (std::log(ratio) - out.mean) * (std::log(ratio) - out.mean);
  if (ratios.size() > 1) out.error = std::sqrt(squares / (n - 1) / n);
  return out;
}

// Twice the mid-ranks of the pooled values, a's first: whole numbers also with ties.
std::vector<uint32_t> doubledRanks(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> pooled = a;
  pooled.insert(pooled.end(), b.begin(), b.end());
  std::vector<uint32_t> ranks;
  for (double value : pooled) {
    uint32_t below = 0, same = 0;
    for (double other : pooled) {
      below += other < value;
      same += other == value;
    }
    ranks.push_back(2 * below + same + 1);
  }
  return ranks;
}

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return quantile(values, 0.5);
}

Interval ratioOfMedians(const std::vector<double>& a, const std::vector<double>& b, uint64_t seed) {
  if (a.empty() || b.empty()) return {};
  pool::Random random(seed);
  std::vector<double> ratios;
  for (uint32_t i = 0; i < kResamples; ++i)
    ratios.push_back(median(drawnAgain(b, random)) / median(drawnAgain(a, random)));
  std::sort(ratios.begin(), ratios.end());
  return {median(b) / median(a), quantile(ratios, 0.025), quantile(ratios, 0.975)};
}

Interval meanRatio(const std::vector<double>& ratios) {
  if (ratios.empty()) return {};
  if (ratios.size() == 1) return {ratios[0], 0, std::numeric_limits<double>::infinity()};
  const LogMoments log = momentsOf(ratios);
  const boost::math::students_t student(static_cast<double>(ratios.size() - 1));
  const double half = boost::math::quantile(student, 0.975) * log.error;
  return {std::exp(log.mean), std::exp(log.mean - half), std::exp(log.mean + half)};
}

double meanRatioP(const std::vector<double>& ratios) {
  if (ratios.size() < 2) return 1;
  const LogMoments log = momentsOf(ratios);
  if (log.error == 0) return log.mean == 0 ? 1 : 0;
  const boost::math::students_t student(static_cast<double>(ratios.size() - 1));
  return 2 * boost::math::cdf(boost::math::complement(student, std::abs(log.mean) / log.error));
}

double rankSumP(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.empty() || b.empty() || a.size() > kRoundsMax || b.size() > kRoundsMax) return 1;
  const std::vector<uint32_t> ranks = doubledRanks(a, b);
  const uint32_t all = std::accumulate(ranks.begin(), ranks.end(), 0u);
  const auto end = ranks.begin() + static_cast<ptrdiff_t>(a.size());
  const uint32_t ours = std::accumulate(ranks.begin(), end, 0u);
  // ways[k][s]: how many choices of k values have the doubled rank sum s.
  std::vector<std::vector<double>> ways(a.size() + 1, std::vector<double>(all + 1, 0));
  ways[0][0] = 1;
  for (uint32_t rank : ranks)
    for (size_t k = a.size(); k > 0; --k)
      for (uint32_t s = all; s >= rank; --s) ways[k][s] += ways[k - 1][s - rank];
  const double expected =
      static_cast<double>(all) * static_cast<double>(a.size()) / static_cast<double>(ranks.size());
  const double gap = std::abs(ours - expected);
  double far = 0, total = 0;
  for (uint32_t s = 0; s <= all; ++s) {
    total += ways[a.size()][s];
    if (std::abs(s - expected) >= gap - 1e-9) far += ways[a.size()][s];
  }
  return std::min(1.0, far / total);
}

std::vector<double> holm(const std::vector<double>& p) {
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](size_t x, size_t y) { return p[x] < p[y]; });
  std::vector<double> out(p.size());
  double before = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    before = std::max(before, std::min(1.0, p[order[i]] * static_cast<double>(p.size() - i)));
    out[order[i]] = before;
  }
  return out;
}

}  // namespace mayfly::bench
