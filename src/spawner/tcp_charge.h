// What a box's TCP sockets count for against its memory cap.
//
// The kernel charges a connection to a memory cgroup when it is accepted: one that waits in a
// listener's queue, with what was sent to it, is charged to nobody. So all sockets of the box's
// network namespace are counted at each sample, those that are charged as well.
//
// Layer: spawner. Two small reads, some 20 us.
#pragma once

#include <stdint.h>

#include <string>

#include "base/fd.h"

namespace mayfly::spawner {

inline constexpr uint64_t kTcpFree = 1'024;  // sockets of a box that count for nothing
// Of one more: the socket, and what its peer may send before anybody reads (tcp_rmem in
// zygote/init.cc).
inline constexpr uint64_t kTcpBytes = 32 << 10;

// The number of sockets that are in use, in what /proc/net/sockstat and sockstat6 say.
uint64_t tcpInUse(const std::string& sockstat);

// What the sockets of a process's network namespace count for; 0 where it has ended.
uint64_t tcpCharge(uint32_t pid);

}  // namespace mayfly::spawner
