// Makes a template's snapshot anew, gives it to the daemons that run, and removes the old one once
// no box uses it.
//
// Layer: builder. Needs root. Blocks for seconds, and for as long as it is asked to wait.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "builder/build.h"

namespace mayfly::builder {

inline constexpr uint64_t kDrainMsMax = 86'400'000;

struct RefreshOptions {
  BuildOptions build;          // `present` is not looked at: the snapshot is made anew
  std::string run_dir;         // of the daemons
  uint64_t drain_ms = 60'000;  // how long to wait for the boxes of the old one
};

// What a daemon said.
struct Daemon {
  std::string instance;
  // The new snapshot serves; or: Code::notFound, it does not serve the template; or why it goes on
  // with the snapshot that it has.
  base::Status outcome;
};

struct RefreshResult {
  BuildResult built;
  std::vector<Daemon> daemons;
  size_t still_used = 0;  // older snapshots that boxes use: the next refresh removes them
};

base::Result<RefreshResult> refresh(const std::string& template_name,
                                    const RefreshOptions& options);

}  // namespace mayfly::builder
