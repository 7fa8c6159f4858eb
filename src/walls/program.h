// Starts a program that talks with its starter over a channel.
//
// Layer: walls. Blocks until the exec has worked or failed. Before there is a second thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::walls {

struct Child {
  uint32_t pid = 0;
  base::Fd pidfd;
  base::Fd channel;  // our end of the SOCK_SEQPACKET pair that is its fd 3
};

// Starts `argv` (argv[0] is a path) with a channel on fd 3 and `held` from fd 4 on, in its own
// session, with `environment` alone and none of our other fds but stderr.
base::Result<Child> startProgram(const std::vector<std::string>& argv,
                                 const std::vector<base::FdView>& held,
                                 const std::vector<std::string>& environment = {});

}  // namespace mayfly::walls
