// mayfly bench sweep: raises the rate until a goal is missed, and says the rate that can be
// sustained.
//
// Layer: bench. Blocks.
#pragma once

#include <string>

#include "bench/measure.h"
#include "bench/search.h"

namespace mayfly::bench {

// "p99=50ms": a percentile of the time to the first byte or to the receipt.
struct Goal {
  double percent = 99;
  double most_ms = 0;  // 0: kGoalTimes times the first rate's
  enum class Of : uint8_t { firstByte, receipt } of = Of::receipt;
};
inline constexpr double kGoalTimes = 3;
base::Result<Goal> parseGoal(const std::string& text);
std::string textOf(const Goal& goal);

struct SweepVerb {
  std::string socket;
  LoadShape shape;  // poisson or constant; its rate is ignored
  MixLoad load;
  SearchOptions search;
  Goal goal;
  uint32_t repeats = 3;  // of each rate; the median counts
};
base::Result<BenchReport> sweep(const SweepVerb& verb, const Watch& watch);

}  // namespace mayfly::bench
