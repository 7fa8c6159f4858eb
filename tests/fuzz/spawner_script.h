// One run of the spawner's own code against hostile peers, in a world without root: a script of
// bytes says what mayflyd, the makers, the zygotes, the inits and the kernel do, in any order.
//
// The spawner serves two templates. The script plays all parts of the first one and of mayflyd;
// the second one's part is played well. Whatever the script does, the second template still makes
// and ends a box; each box's messages to mayflyd come in their order; nothing polls without end;
// and at the end no descriptor is left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mayfly::fuzz {

struct Outcome {
  std::string fault;       // empty: none
  uint32_t made = 0;       // boxes of the first template that were made
  bool connected = false;  // the script did not break mayflyd's protocol
};
Outcome runScript(const uint8_t* bytes, size_t size);

}  // namespace mayfly::fuzz
