// Starts the spawner while the daemon is root; then drops root for good.
//
// Layer: app. Called once, at start, before there is a second thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::app {

struct Child {
  uint32_t pid = 0;
  base::Fd pidfd;
  base::Fd channel;  // our end of the socket that is its fd 3
};

// Starts `argv` (argv[0] is a path) with a channel on fd 3 and `held` from fd 4 on (locks that live
// as long as the spawner), in its own session, with an empty environment and none of our other fds
// but stderr.
base::Result<Child> startSpawner(const std::vector<std::string>& argv,
                                 const std::vector<base::FdView>& held);

// Sets own uid and gid, no supplementary group, no capability (bounding set included),
// no_new_privs, non-dumpable; then checks that all of it holds.
base::Status dropRoot(uint32_t uid);

// Raises RLIMIT_NOFILE to its hard limit; returns the new limit.
base::Result<uint64_t> raiseOpenFiles();

}  // namespace mayfly::app
