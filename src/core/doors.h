// A box's two doors to the broker, as its init made them: bound, and not listening.
//
// They travel to mayflyd with boxMade: two descriptors a parked box (128 for 64), and nothing is
// asked of the spawner at the claim. Only a task with a session has them listen, right before its
// claim; so no connection can be queued earlier, and a task without one is refused whether or not
// its doors are closed yet.
//
// Layer: core. Core thread.
#pragma once

#include <span>

#include "base/fd.h"
#include "base/result.h"
#include "sched/broker.h"

namespace mayfly::core {

inline constexpr size_t kDoorFds = 2;

// fds: the unix and the TCP socket. The init is not trusted: each is checked.
base::Result<sched::Doors> openDoors(std::span<base::Fd> fds);
// A task gets the box now.
base::Status listenOn(const sched::Doors& doors);

}  // namespace mayfly::core
