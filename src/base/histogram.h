// A classic histogram of times: fixed buckets that double from 50 us to some minutes.
//
// Layer: base. Pure. Plain data: no lock, no allocation.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace mayfly::base {

inline constexpr size_t kBounds = 23;            // 50 us, 100 us, ..., 210 s
inline constexpr size_t kBuckets = kBounds + 1;  // the last one is beyond every bound
inline constexpr uint64_t kBoundFirst_ns = 50'000;
constexpr uint64_t bound_ns(size_t i) { return kBoundFirst_ns << i; }

// The bucket of a time: the first one whose bound is not below it.
constexpr size_t bucketOf(uint64_t ns) {
  if (ns <= kBoundFirst_ns) return 0;
  const size_t i = static_cast<size_t>(std::bit_width((ns - 1) / kBoundFirst_ns));
  return i < kBounds ? i : kBounds;
}

// Counts of each bucket alone, not cumulative.
template <class Count>
using Buckets = std::array<Count, kBuckets>;

// The value below which the share `q` of all counts lies, in seconds, by linear interpolation
// within its bucket, as Prometheus' histogram_quantile() does it. 0 without a count.
template <class Count>
double quantile_s(const Buckets<Count>& counts, double q) {
  uint64_t all = 0;
  for (Count c : counts) all += c;
  if (all == 0) return 0;
  const double rank = q * static_cast<double>(all);
  double below = 0;
  for (size_t i = 0; i < kBounds; ++i) {
    const auto here = static_cast<double>(counts[i]);
    if (here > 0 && below + here >= rank) {
      const double from = i == 0 ? 0 : static_cast<double>(bound_ns(i - 1));
      const double to = static_cast<double>(bound_ns(i));
      return (from + (to - from) * (rank - below) / here) / 1e9;
    }
    below += here;
  }
  return static_cast<double>(bound_ns(kBounds - 1)) / 1e9;  // beyond the last bound
}

struct Histogram {
  Buckets<uint64_t> counts{};
  uint64_t sum_ns = 0;

  void add(uint64_t ns) {
    ++counts[bucketOf(ns)];
    sum_ns += ns;
  }
  void add(const Histogram& more) {
    for (size_t i = 0; i < kBuckets; ++i) counts[i] += more.counts[i];
    sum_ns += more.sum_ns;
  }
  uint64_t count() const {
    uint64_t all = 0;
    for (uint64_t c : counts) all += c;
    return all;
  }
  double quantile_s(double q) const { return base::quantile_s(counts, q); }
};

}  // namespace mayfly::base
