// A stream socket on the host's loop, as a KJ byte stream.
//
// A read or a write makes one system call of bounded size. The rest waits until the
// host reports the socket ready again, after its other handlers.
//
// Layer: edge. Used on the AsioPort's thread; must not outlive the port.
#pragma once

#include <kj/async-io.h>

#include "base/fd.h"
#include "edge/asio_port.h"

namespace mayfly::edge {

inline constexpr size_t kSocketBytesPerCallMax = 256u << 10;

// `socket`: a connected stream socket.
kj::Own<kj::AsyncIoStream> asioStream(AsioPort& port, base::Fd socket);

}  // namespace mayfly::edge
