// HdrHistogram's own file formats, so that its tools read our latencies: the percentile table
// (.hgrm) and the interval log (V2, compressed).
//
// Layer: load. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "load/histogram.h"

namespace mayfly::load {

// Counts of values from 1 ns to an hour, by HdrHistogram's indices at three significant digits. A
// value of ours is at most 0.2 % above the measured one; an index covers another 0.1 %.
class HdrCounts {
 public:
  static constexpr int kDigits = 3;
  static constexpr uint64_t kLowest_ns = 1, kHighest_ns = 3'600'000'000'000;

  explicit HdrCounts(const Histogram& histogram);

  // The table, values in ms: Value, Percentile, TotalCount, 1/(1-Percentile).
  std::string percentileTable() const;
  // The histogram in base64: zlib over ZigZag LEB128 counts, with V2's two headers.
  std::string encoded() const;
  uint64_t max_ns() const;  // the highest value of the last index

 private:
  double mean_ns() const;
  double deviation_ns() const;

  std::vector<uint64_t> counts_;  // by index, until the last that is not 0
  uint64_t total_ = 0;
};

// One line of a log: a round of a run, or all of it.
struct HdrInterval {
  std::string tag;                   // letters, digits, '-', '_', '.'; empty: none
  double start_s = 0, length_s = 0;  // from the log's start
  const Histogram* histogram = nullptr;
};
std::string hdrLog(const std::vector<HdrInterval>& intervals, double start_unix_s,
                   const std::string& about);

}  // namespace mayfly::load
