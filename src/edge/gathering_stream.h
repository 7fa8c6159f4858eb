// A stream whose writes of one turn go to its socket together.
//
// Cap'n Proto writes each message for itself: a call of the kernel each, and the first wakes the
// peer, which then reads them one by one. A write to this stream returns once its bytes are held,
// so a failure shows at a later write. It also ends the reading, on both sides.
//
// Layer: edge. Used on the AsioPort's thread; must not outlive the port.
#pragma once

#include <kj/async-io.h>

#include <chrono>

#include "edge/asio_port.h"

namespace mayfly::edge {

inline constexpr size_t kGatheredBytesMax = 64u << 10;  // with more, a write waits
inline constexpr size_t kDelayedBytesMax = 4u << 10;    // with more, nothing is delayed
inline constexpr auto kDelayMax = std::chrono::milliseconds(5);

class GatheringStream : public kj::AsyncIoStream {
 public:
  // The next write wakes nobody: it goes with one that comes later, or after kDelayMax.
  virtual void delayNext() = 0;
};

kj::Own<GatheringStream> gatheringStream(AsioPort& port, kj::Own<kj::AsyncIoStream> stream);

}  // namespace mayfly::edge
