// How much a box's sockets count against its memory cap, beyond the kernel's charge.
//
// The kernel charges a TCP connection to a memory cgroup when it is accepted. A connection that
// waits in a listener's queue, with the data sent to it, is charged to nobody; so is the kernel's
// record of a shared port. So each sample counts all sockets of the box's network namespace, even
// charged ones.
//
// Layer: spawner. Two small reads, some 20 us.
#pragma once

#include <stdint.h>

#include <string>

#include "base/fd.h"

namespace mayfly::spawner {

inline constexpr uint64_t kSocketsFree = 1'024;  // of a box, of TCP and of UDP each: not counted
// For each further socket: itself, and the data that its peer may send before anybody reads
// (tcp_rmem in zygote/init.cc).
inline constexpr uint64_t kTcpBytes = 32 << 10;
inline constexpr uint64_t kUdpBytes = 4 << 10;  // the socket, and the group of its port

// The sockets in use, from /proc/net/sockstat and sockstat6.
struct Sockets {
  uint64_t tcp = 0, udp = 0;
};
Sockets socketsIn(const std::string& sockstat);

// The bytes that the sockets of a process's network namespace count; 0 if the process has ended.
uint64_t netCharge(uint32_t pid);

}  // namespace mayfly::spawner
