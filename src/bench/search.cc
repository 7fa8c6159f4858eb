#include "bench/search.h"

#include <algorithm>
#include <cmath>

namespace mayfly::bench {
namespace {

constexpr double kDownMost = 64;        // a search goes down to from_per_s / 64
constexpr double kKneeBelowLine = 0.1;  // of the unit square; less is a line with noise

}  // namespace

std::string_view name(RateSearch::End end) {
  switch (end) {
    case RateSearch::End::searching:
      return "searching";
    case RateSearch::End::bracketed:
      return "bracketed";
    case RateSearch::End::allGood:
      return "allGood";
    case RateSearch::End::noneGood:
      return "noneGood";
    case RateSearch::End::points:
      break;
  }
  return "points";
}

std::optional<double> RateSearch::lowestBad_per_s() const {
  for (const Point& p : points_)
    if (!p.isGood()) return p.per_s;
  return {};
}

double RateSearch::sustainable_per_s() const {
  double best = 0;
  for (const Point& p : points_) {
    if (!p.isGood()) break;
    best = p.per_s;
  }
  return best;
}

RateSearch::End RateSearch::end() const {
  if (points_.empty()) return End::searching;
  const double best = sustainable_per_s();
  const auto bad = lowestBad_per_s();
  if (!bad && best >= options_.to_per_s) return End::allGood;
  if (best == 0 && *bad <= options_.from_per_s / kDownMost) return End::noneGood;
  if (bad && best > 0 && *bad / best <= 1 + options_.precision) {
    const auto at = std::find_if(points_.begin(), points_.end(),
                                 [&](const Point& p) { return p.per_s == best; });
    if (at->good >= 2) return End::bracketed;
  }
  return measured_ >= options_.points_max ? End::points : End::searching;
}

std::optional<double> RateSearch::next() const {
  if (points_.empty()) return options_.from_per_s;
  if (end() != End::searching) return {};
  const double best = sustainable_per_s();
  const auto bad = lowestBad_per_s();
  if (!bad) return std::min(best * options_.growth, options_.to_per_s);
  if (best == 0) return *bad / 2;
  if (*bad / best <= 1 + options_.precision) return best;  // once more
  return std::sqrt(best * *bad);
}

void RateSearch::measured(double per_s, bool good) {
  ++measured_;
  auto at = std::lower_bound(points_.begin(), points_.end(), per_s,
                             [](const Point& p, double rate) { return p.per_s < rate; });
  if (at == points_.end() || at->per_s != per_s) at = points_.insert(at, Point{per_s});
  ++(good ? at->good : at->bad);
}

std::optional<size_t> kneeOf(const std::vector<CurvePoint>& curve) {
  if (curve.size() < 3) return {};
  const double width = curve.back().per_s - curve.front().per_s;
  double least = curve[0].latency, most = curve[0].latency;
  for (const CurvePoint& p : curve) {
    least = std::min(least, p.latency);
    most = std::max(most, p.latency);
  }
  // A curve that falls again at its end has no knee, but noise.
  if (width <= 0 || most <= least || curve.back().latency < most / 2) return {};
  std::optional<size_t> knee;
  double farthest = kKneeBelowLine;
  for (size_t i = 0; i + 1 < curve.size(); ++i) {
    const double x = (curve[i].per_s - curve.front().per_s) / width;
    const double below = x - (curve[i].latency - least) / (most - least);
    if (below <= farthest) continue;
    farthest = below;
    knee = i;
  }
  return knee;
}

}  // namespace mayfly::bench
