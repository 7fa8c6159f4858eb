// Compares our sizing with the usual policies, over the same arrivals, makers and make times.
//
// A fixed size and a watermark have a free parameter; it is chosen so that the policy costs as much
// memory as ours over all traces: with hindsight, which no running pool has.
//
// Layer: pool. Pure. A call simulates each trace some forty times.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pool/policies.h"

namespace mayfly::pool {

struct CompareOptions {
  SimOptions sim;
  DemandOptions demand;  // of every template
  uint64_t memory_bytes_max = UINT64_MAX;
  std::vector<uint32_t> fixed;  // further fixed sizes to show
  std::vector<double> cover_s;  // further watermarks to show
};

struct Compared {
  std::string policy;              // "ours", "fixed 12", "EWMA 0.35 s"
  std::string why;                 // "same MB*s", "same hits"; empty: requested
  std::vector<SimResult> results;  // one per trace

  double memory_byte_s() const;
  double hitRate() const;       // over all arrivals
  double leastHitRate() const;  // of the worst trace
};

using PolicyMaker = std::function<std::unique_ptr<SizingPolicy>(const Trace&)>;
PolicyMaker oursMaker(const CompareOptions& options);
PolicyMaker fixedMaker(uint32_t parked);
PolicyMaker ewmaMaker(const EwmaOptions& options);

base::Result<Compared> simulateAll(std::string policy, std::string why,
                                   const std::vector<Trace>& traces, const SimOptions& options,
                                   const PolicyMaker& maker);

// Ours first; then the smallest fixed size with at least our memory, the smallest fixed size whose
// worst trace is no worse than ours, and the watermark whose memory is nearest to ours.
base::Result<std::vector<Compared>> compare(const std::vector<Trace>& traces,
                                            const CompareOptions& options);

}  // namespace mayfly::pool
