#include "pool/policies.h"

#include <algorithm>
#include <cmath>

namespace mayfly::pool {

DemandSizing::DemandSizing(const PlanOptions& plan, const DemandOptions& each,
                           std::span<const uint64_t> clone_bytes)
    : plan_(plan) {
  for (uint64_t bytes : clone_bytes) add(each, bytes);
}

DemandSizing::DemandSizing(const PlanOptions& plan, std::span<const DemandOptions> options,
                           std::span<const uint64_t> clone_bytes)
    : plan_(plan) {
  for (size_t i = 0; i < options.size(); ++i) add(options[i], clone_bytes[i]);
}

void DemandSizing::add(const DemandOptions& options, uint64_t clone_bytes) {
  wanted_max_.push_back(0);
  granted_max_.push_back(0);
  const auto id = static_cast<base::LaneId>(wanted_max_.size());
  plan_.add(id, options, 0);
  plan_.onMeasured(id, clone_bytes);
}

void DemandSizing::hold(uint64_t now_ns, std::span<const SimPool>, std::span<Hold> out) {
  const std::vector<Target>& targets = plan_.plan(now_ns);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = {targets[i].parked, targets[i].stocked};
    wanted_max_[i] = std::max(wanted_max_[i], targets[i].parked_wanted);
    granted_max_[i] = std::max(granted_max_[i], targets[i].parked);
  }
}

EwmaSizing::EwmaSizing(size_t templates, const EwmaOptions& options)
    : o_(options), templates_(templates), next_ns_(options.interval_ns) {}

void EwmaSizing::hold(uint64_t now_ns, std::span<const SimPool> now, std::span<Hold> out) {
  for (; now_ns >= next_ns_; next_ns_ += o_.interval_ns)
    for (Each& e : templates_) {
      e.mean = o_.alpha * static_cast<double>(e.count) + (1 - o_.alpha) * e.mean;
      e.count = 0;
    }
  for (size_t i = 0; i < out.size(); ++i) {
    Each& e = templates_[i];
    const double rate_hz = e.mean * 1e9 / static_cast<double>(o_.interval_ns);
    const double high = o_.least + std::ceil(o_.cover_s * rate_hz);
    const auto mark = static_cast<uint32_t>(std::min<double>(high, o_.most));
    const uint32_t have = now[i].parked + now[i].making;
    const uint32_t need = mark + now[i].waiting;
    if (have >= need) e.refilling = false;
    // The low mark is never 0: an empty pool is refilled.
    if (have < now[i].waiting + std::max(1.0, o_.low_share * mark)) e.refilling = true;
    // While the pool is not refilled, claims shrink it.
    const uint32_t surplus = have > now[i].waiting ? have - now[i].waiting : 0;
    out[i] = {e.refilling ? mark : std::min(mark, surplus), 0};
  }
}

}  // namespace mayfly::pool
