// Checks the messages of the doors (wire/front.h): DoorRequest and DoorEvent.
//
// Layer: wire. Pure.
#pragma once

#include <cstddef>

#include "wire/check.h"
#include "wire/front.h"

namespace mayfly::wire {

inline constexpr uint32_t kDoorConnectionsMax = 1'000;

// `bytes` and `fds`: the received size and number of descriptors. Every fault is one of language:
// the connection ends.
Checked check(const DoorRequest& request, size_t bytes, size_t fds);
Checked check(const DoorEvent& event, size_t bytes, size_t fds);

}  // namespace mayfly::wire
