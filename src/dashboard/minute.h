// The last minute, as the sum of its ticks.
//
// Layer: dashboard. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/histogram.h"
#include "metrics/snapshot.h"

namespace mayfly::dashboard {

// Of one template, or of all.
struct Sums {
  uint64_t accepted = 0, refused = 0;
  std::array<uint64_t, base::kVerdicts> verdicts{};
  std::array<uint64_t, base::kClaimKinds> claims{};
  base::Buckets<uint64_t> start{}, whole{};

  void add(const metrics::TickTemplate& tick);
  uint64_t ended() const;
  // The share of claims that found no parked clone; negative without a claim.
  double missShare() const;
};

struct Minute {
  double seconds = 0;  // what the ticks cover: less than a minute soon after the start
  Sums all;
  std::vector<Sums> templates;  // as in the snapshot
  std::array<base::Buckets<uint64_t>, metrics::kParts> parts{};
  uint64_t calls = 0, calls_refused = 0;
  uint32_t loop_lag_us_max = 0;
  double cpu_share = 0, spawner_cpu_share = 0;  // of one core

  double hz(uint64_t events) const {
    return seconds > 0 ? static_cast<double>(events) / seconds : 0;
  }
};
Minute lastMinute(const metrics::Snapshot& snapshot, uint64_t length_ms);

}  // namespace mayfly::dashboard
