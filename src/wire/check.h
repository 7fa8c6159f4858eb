// Checks the messages between mayflyd and the spawner. faultOf() in wire/zygote.h checks those of
// zygotes, makers, inits and clones.
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
    content,   // no correct mayflyd sends this: the request is refused, or its box given up
  };
  Fault fault = Fault::none;
  const char* what = "";  // for people
};

// `bytes` and `fds`: the received size and number of descriptors.
Checked check(const Request& request, size_t bytes, size_t fds);
// Also terminates each text within its field.
Checked check(Event& event, size_t bytes, size_t fds);

}  // namespace mayfly::wire
