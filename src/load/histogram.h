// Durations in a histogram of fixed relative precision, for percentiles of any depth.
//
// Bins grow by 0.2 % from 100 ns to an hour: a percentile is within 0.2 % of the true one,
// however many values there are; minimum, maximum and mean are exact. Histograms of several
// runs or threads add up.
//
// Layer: load. Pure. One thread at a time.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <vector>

namespace mayfly::load {

class Histogram {
 public:
  static constexpr double kBinGrowth = 1.002;
  static constexpr uint64_t kFirst_ns = 100;               // below: one bin
  static constexpr uint64_t kLast_ns = 3'600'000'000'000;  // from here on: one bin

  void record(uint64_t value_ns);
  void add(const Histogram& other);

  uint64_t count() const { return count_; }
  uint64_t min_ns() const { return count_ == 0 ? 0 : min_ns_; }
  uint64_t max_ns() const { return max_ns_; }
  double mean_ns() const;
  // The least value that at least `percent` of all values do not exceed; 0 if there are no values.
  uint64_t percentile_ns(double percent) const;

  struct Point {
    double percent;
    uint64_t value_ns;
  };
  // The whole distribution in the form of HDR logs: five points for each halving of the distance to
  // 100 %, until one value represents the rest.
  std::vector<Point> distribution() const;

  struct Bin {
    uint64_t
        value_ns;  // the bin's upper edge, within min_ns() and max_ns(), as percentile_ns has it
    uint64_t count;
  };
  std::vector<Bin> bins() const;  // that hold a value, by value

 private:
  std::vector<uint64_t> bins_;  // grows with the values
  uint64_t count_ = 0, min_ns_ = UINT64_MAX, max_ns_ = 0;
  long double sum_ns_ = 0;
};

// Count, mean and the usual percentiles. Values in ns.
nlohmann::ordered_json summaryJson(const Histogram& histogram);
// The same and the distribution.
nlohmann::ordered_json toJson(const Histogram& histogram);

}  // namespace mayfly::load
