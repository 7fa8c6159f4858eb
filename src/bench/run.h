// mayfly bench run: one load on a daemon, in rounds.
//
// Layer: bench. Blocks.
#pragma once

#include <string>

#include "bench/measure.h"

namespace mayfly::bench {

struct RunVerb {
  std::string socket;
  LoadShape shape;
  MixLoad load;
  uint32_t rounds = 6;
};
// An interrupted measurement is a report of what was measured.
base::Result<BenchReport> run(const RunVerb& verb, const Watch& watch);

}  // namespace mayfly::bench
