// The monotonic clock in nanoseconds: the only clock that phases and deadlines use.
//
// Layer: base. Pure policy takes the time as an argument; only drivers call this.
#pragma once

#include <stdint.h>
#include <time.h>

namespace mayfly::base {

inline uint64_t monotonicNs() {
  timespec t;
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
}

}  // namespace mayfly::base
