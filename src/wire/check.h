// Which messages between mayflyd and the spawner are sound. What a zygote, maker,
// init or clone says is checked by faultOf() in wire/zygote.h.
//
// Layer: wire. Pure.
#pragma once

#include <cstddef>

#include "wire/spawner.h"

namespace mayfly::wire {

struct Checked {
  enum class Fault : uint8_t {
    none,
    language,  // the peer does not speak this protocol: the connection ends
    content,   // no sound mayflyd asks for this: refused, or its box is given up
  };
  Fault fault = Fault::none;
  const char* what = "";  // for people
};

// `bytes` and `fds`: the size of the message as received, and how many descriptors came.
Checked check(const Request& request, size_t bytes, size_t fds);
// Also ends each text where its place ends.
Checked check(Event& event, size_t bytes, size_t fds);

}  // namespace mayfly::wire
