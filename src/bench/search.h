// Which rate a sweep measures next, and what its curve says.
//
// Layer: bench. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace mayfly::bench {

struct SearchOptions {
  double from_per_s = 10, to_per_s = 10'000;
  double growth = 1.5;      // of the rate, until a point is bad
  double precision = 0.05;  // the bracket is as narrow as this share of the rate
  uint32_t points_max = 32;
};

// Raises the rate until a point is bad, halves the bracket between good and bad, and measures the
// best rate once more: a rate that was good by luck once is not taken.
class RateSearch {
 public:
  enum class End : uint8_t {
    searching,
    bracketed,  // the best rate is good twice, and one a little higher is bad
    allGood,    // to_per_s is good: the daemon's limit is above it
    noneGood,   // far below from_per_s, no rate is good
    points,     // points_max
  };

  explicit RateSearch(SearchOptions options) : options_(options) {}
  std::optional<double> next() const;  // nothing: the search is over
  void measured(double per_s, bool good);

  End end() const;
  double sustainable_per_s() const;  // 0: none
  std::optional<double> lowestBad_per_s() const;

 private:
  struct Point {
    double per_s;
    uint32_t good = 0, bad = 0;
    bool isGood() const { return bad == 0; }
  };
  std::vector<Point> points_;  // by rate
  SearchOptions options_;
  uint32_t measured_ = 0;
};
std::string_view name(RateSearch::End end);

struct CurvePoint {
  double per_s = 0, latency = 0;
};
// The place of the knee among points that rise in rate (Kneedle): where the curve, scaled to the
// unit square, lies farthest below the line from its first point to its last. Nothing: fewer than
// three points, a line, or a curve that does not end high.
std::optional<size_t> kneeOf(const std::vector<CurvePoint>& curve);

}  // namespace mayfly::bench
