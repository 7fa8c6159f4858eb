// Sockets that a process which is not trusted has bound and passed on: checked before they are
// used.
//
// Layer: base. Any thread; no call blocks.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::base {

// Fails unless `socket` is a stream socket of that kind, bound to exactly that address, and neither
// listening nor connected: nothing can have been queued on it. Also makes it non-blocking.
Status checkBoundLocal(FdView socket, std::string_view path);
Status checkBoundLoopback(FdView socket, uint16_t port);  // TCP, 127.0.0.1

// In whichever network namespace the socket is: connections are queued from now on.
Status listenOn(FdView socket, int backlog);

}  // namespace mayfly::base
