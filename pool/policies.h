// Sizing policies for the simulator: ours, and those that it is compared with.
//
// Layer: pool. Pure.
#pragma once

#include <vector>

#include "pool/plan.h"
#include "pool/sim.h"

namespace mayfly::pool {

// Ours: pool::Plan.
class DemandSizing : public SizingPolicy {
 public:
  // clone_bytes: one per template; all templates have the same options.
  DemandSizing(const PlanOptions& plan, const DemandOptions& each,
               std::span<const uint64_t> clone_bytes);
  // Both: one per template.
  DemandSizing(const PlanOptions& plan, std::span<const DemandOptions> options,
               std::span<const uint64_t> clone_bytes);
  void onArrival(uint32_t t, uint64_t now_ns) override { plan_.onArrival(t + 1, now_ns); }
  void onMade(uint32_t t, uint64_t make_ns, uint64_t now_ns) override {
    plan_.onMade(t + 1, make_ns, now_ns);
  }
  void hold(uint64_t now_ns, std::span<const SimPool> now, std::span<Hold> out) override;
  uint64_t nextDue_ns() const override { return plan_.nextDue_ns(); }

  // The most that a template's tasks wanted parked, and the most that the budget granted it.
  uint32_t wantedMax(uint32_t t) const { return wanted_max_[t]; }
  uint32_t grantedMax(uint32_t t) const { return granted_max_[t]; }

 private:
  void add(const DemandOptions& options, uint64_t clone_bytes);

  Plan plan_;
  std::vector<uint32_t> wanted_max_, granted_max_;
};

// The same number at all times.
class FixedSizing : public SizingPolicy {
 public:
  explicit FixedSizing(uint32_t parked, uint32_t stocked = 0) : hold_{parked, stocked} {}
  void onArrival(uint32_t, uint64_t) override {}
  void onMade(uint32_t, uint64_t, uint64_t) override {}
  void hold(uint64_t, std::span<const SimPool>, std::span<Hold> out) override {
    for (Hold& h : out) h = hold_;
  }
  uint64_t nextDue_ns() const override { return 0; }

 private:
  Hold hold_;
};

struct EwmaOptions {
  double cover_s = 1;  // the high mark: the arrivals in this time, plus `least`
  uint64_t interval_ns = 1'000'000'000;
  double alpha = 0.3;      // weight of the last interval's count
  double low_share = 0.5;  // refill starts below this share of the high mark
  uint32_t least = 1, most = kHeld_max;
};

// The usual watermark: an average of arrivals per interval with exponentially falling weights;
// below the low mark the pool is refilled to the high one.
class EwmaSizing : public SizingPolicy {
 public:
  EwmaSizing(size_t templates, const EwmaOptions& options);
  void onArrival(uint32_t t, uint64_t) override { ++templates_[t].count; }
  void onMade(uint32_t, uint64_t, uint64_t) override {}
  void hold(uint64_t now_ns, std::span<const SimPool> now, std::span<Hold> out) override;
  uint64_t nextDue_ns() const override { return next_ns_; }

 private:
  struct Each {
    double mean = 0;
    uint64_t count = 0;
    bool refilling = true;
  };
  EwmaOptions o_;
  std::vector<Each> templates_;
  uint64_t next_ns_;
};

}  // namespace mayfly::pool
