// mayfly bench run: one load on a daemon, or on two by turns, in rounds.
//
// Layer: bench. Blocks.
#pragma once

#include <string>
#include <vector>

#include "bench/measure.h"

namespace mayfly::bench {

struct RunVerb {
  std::string socket;
  std::string against;  // another daemon's; empty: none
  LoadShape shape;
  MixLoad load;
  uint32_t rounds = 6;
};
// One report; with `against` two, whose rounds take turns in a drawn order and have the same tasks.
// What changes on the machine meanwhile meets both. An interrupted measurement is a report of what
// was measured.
base::Result<std::vector<BenchReport>> run(const RunVerb& verb, const Watch& watch);

}  // namespace mayfly::bench
