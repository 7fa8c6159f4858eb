// The spawner is started while the daemon is root; then the daemon gives root up
// for good.
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

// Starts `argv` (argv[0] a path) with a channel on fd 3, `held` from fd 4 on (locks
// that live as long as it does), an empty environment, its own session, nothing else
// of ours but stderr.
base::Result<Child> startSpawner(const std::vector<std::string>& argv,
                                 const std::vector<base::FdView>& held);

// Own uid and gid, no supplementary group, no capability (bounding set included),
// no_new_privs, non-dumpable. Checks afterwards that it is so.
base::Status dropRoot(uint32_t uid);

// RLIMIT_NOFILE up to its hard limit; the limit in force.
base::Result<uint64_t> raiseOpenFiles();

}  // namespace mayfly::app
