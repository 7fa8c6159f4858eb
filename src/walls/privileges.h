// A process's own privileges, and its limit of open files.
//
// Layer: walls. Called once, at start, before there is a second thread.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace mayfly::walls {

// Sets own uid and gid, no supplementary group, no capability (bounding set included),
// no_new_privs, non-dumpable; then checks that all of it holds.
base::Status dropRoot(uint32_t uid);

// Keeps root's uid and these capabilities (a bit mask by number), and no others, neither for
// itself nor for any program that it starts; no_new_privs, non-dumpable.
base::Status keepOnly(uint64_t capabilities);

// Raises RLIMIT_NOFILE to its hard limit; returns the new limit.
base::Result<uint64_t> raiseOpenFiles();

}  // namespace mayfly::walls
