// What a box's sockets count for against its memory cap, beyond what the kernel charges.
//
// The kernel charges a TCP connection to a memory cgroup when it is accepted: one that waits in
// a listener's queue, with what was sent to it, is charged to nobody; nor is what it keeps for a
// port that is shared. So all sockets of the box's network namespace are counted at each
// sample, those that are charged as well.
//
// Layer: spawner. Two small reads, some 20 us.
#pragma once

#include <stdint.h>

#include <string>

#include "base/fd.h"

namespace mayfly::spawner {

inline constexpr uint64_t kSocketsFree = 1'024;  // of a box, of TCP and of UDP, count for nothing
// Of one more: the socket, and what its peer may send before anybody reads (tcp_rmem in
// zygote/init.cc).
inline constexpr uint64_t kTcpBytes = 32 << 10;
inline constexpr uint64_t kUdpBytes = 4 << 10;  // the group of its port, and the socket

// The sockets in use, in what /proc/net/sockstat and sockstat6 say.
struct Sockets {
  uint64_t tcp = 0, udp = 0;
};
Sockets socketsIn(const std::string& sockstat);

// What the sockets of a process's network namespace count for; 0 where it has ended.
uint64_t netCharge(uint32_t pid);

}  // namespace mayfly::spawner
