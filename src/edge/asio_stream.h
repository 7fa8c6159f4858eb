// A stream socket of the host's loop as KJ's byte stream.
//
// A read or a write is one system call of bounded size; what it leaves waits until
// the host says that the socket is ready again, which is after its other handlers.
//
// Layer: edge. The AsioPort's thread, and not to outlive the port.
#pragma once

#include <kj/async-io.h>

#include "base/fd.h"
#include "edge/asio_port.h"

namespace mayfly::edge {

inline constexpr size_t kSocketBytesPerCallMax = 256u << 10;

// Of a connected stream socket.
kj::Own<kj::AsyncIoStream> asioStream(AsioPort& port, base::Fd socket);

}  // namespace mayfly::edge
