// mayfly bench ladder: one small task by each of Mayfly's mechanisms, and the same command in the
// same image by other programs, side by side.
//
// The rungs take turns within each round, in an order that is drawn for it. Between two tasks every
// rung rests equally long, and Mayfly's wait until the pool is as the rung says. A figure whose
// tasks did not run as its rung says is void.
//
// Layer: bench. Needs root: it starts daemons of its own and mounts images, in a mount namespace of
// its own. Blocks.
#pragma once

#include <string>
#include <vector>

#include "bench/measure.h"

namespace mayfly::bench {

struct LadderVerb {
  std::string mayflyd;  // its path
  std::string state_dir;
  std::vector<std::string> template_dirs;  // empty: mayflyd's own
  uint32_t rounds = 8, tasks = 20;         // of each rung in a round
  uint32_t rest_ms = 20;                   // before each task
  uint64_t seed = 1;
};
// The table's head, and the line of a rung; `ratio` 0: unknown. A round has too few tasks for a
// 99th percentile, so that is of all rounds together; of fewer than kTasksOfP99 it is called the
// most.
std::string ladderHead(uint32_t tasks, size_t rounds);
std::string ladderLine(const Series& series, double ratio);
base::Result<BenchReport> ladder(const LadderVerb& verb, const Watch& watch);

}  // namespace mayfly::bench
