#include "load/histogram.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace mayfly::load {
namespace {

// Bin i > 0 holds values above kFirst_ns * growth^(i-1) and at most kFirst_ns * growth^i.
size_t binOf(uint64_t value_ns) {
  value_ns = std::min(value_ns, Histogram::kLast_ns);
  if (value_ns <= Histogram::kFirst_ns) return 0;
  double ratio = static_cast<double>(value_ns) / static_cast<double>(Histogram::kFirst_ns);
  return static_cast<size_t>(std::ceil(std::log(ratio) / std::log(Histogram::kBinGrowth)));
}

uint64_t upperEdge_ns(size_t bin) {
  return static_cast<uint64_t>(static_cast<double>(Histogram::kFirst_ns) *
                               std::pow(Histogram::kBinGrowth, static_cast<double>(bin)));
}

}  // namespace

void Histogram::record(uint64_t value_ns) {
  size_t bin = binOf(value_ns);
  if (bin >= bins_.size()) bins_.resize(bin + 1);
  ++bins_[bin];
  ++count_;
  min_ns_ = std::min(min_ns_, value_ns);
  max_ns_ = std::max(max_ns_, value_ns);
  sum_ns_ += value_ns;
}

void Histogram::add(const Histogram& other) {
  if (other.bins_.size() > bins_.size()) bins_.resize(other.bins_.size());
  for (size_t i = 0; i < other.bins_.size(); ++i) bins_[i] += other.bins_[i];
  count_ += other.count_;
  min_ns_ = std::min(min_ns_, other.min_ns_);
  max_ns_ = std::max(max_ns_, other.max_ns_);
  sum_ns_ += other.sum_ns_;
}

double Histogram::mean_ns() const {
  return count_ == 0 ? 0 : static_cast<double>(sum_ns_ / static_cast<long double>(count_));
}

uint64_t Histogram::percentile_ns(double percent) const {
  if (count_ == 0) return 0;
  double share = std::clamp(percent, 0.0, 100.0) / 100 * static_cast<double>(count_);
  // A rounding error of a whole number must not move the rank.
  auto rank =
      std::clamp<uint64_t>(static_cast<uint64_t>(std::ceil(share - 1e-9 * share)), 1, count_);
  if (rank == count_) return max_ns_;
  uint64_t below = 0;
  for (size_t bin = 0; bin < bins_.size(); ++bin) {
    below += bins_[bin];
    if (below >= rank) return std::clamp(upperEdge_ns(bin), min_ns_, max_ns_);
  }
  return max_ns_;
}

std::vector<Histogram::Point> Histogram::distribution() const {
  std::vector<Point> points;
  if (count_ == 0) return points;
  constexpr int kPointsPerHalving = 5;
  double left = 100;  // to 100 %
  for (int i = 0; left / 100 * static_cast<double>(count_) > 1; ++i) {
    points.push_back({100 - left, percentile_ns(100 - left)});
    left = 100 / std::pow(2, (i + 1.0) / kPointsPerHalving);
  }
  points.push_back({100, max_ns_});
  return points;
}

std::vector<Histogram::Bin> Histogram::bins() const {
  std::vector<Bin> out;
  uint64_t seen = 0;
  for (size_t bin = 0; bin < bins_.size(); ++bin) {
    if (bins_[bin] == 0) continue;
    seen += bins_[bin];
    const uint64_t edge_ns = std::clamp(upperEdge_ns(bin), min_ns_, max_ns_);
    out.push_back({seen == count_ ? max_ns_ : edge_ns, bins_[bin]});
  }
  return out;
}

nlohmann::ordered_json summaryJson(const Histogram& h) {
  nlohmann::ordered_json out = {
      {"count", h.count()}, {"mean_ns", h.mean_ns()}, {"min_ns", h.min_ns()}};
  for (auto [name, percent] : {std::pair("p50_ns", 50.0), std::pair("p90_ns", 90.0),
                               std::pair("p99_ns", 99.0), std::pair("p99.9_ns", 99.9)})
    out[name] = h.percentile_ns(percent);
  out["max_ns"] = h.max_ns();
  return out;
}

nlohmann::ordered_json toJson(const Histogram& h) {
  nlohmann::ordered_json out = summaryJson(h);
  auto& points = out["distribution"] = nlohmann::ordered_json::array();
  for (const Histogram::Point& p : h.distribution()) points.push_back({p.percent, p.value_ns});
  return out;
}

}  // namespace mayfly::load
