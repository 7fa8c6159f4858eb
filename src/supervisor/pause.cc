#include "supervisor/pause.h"

#include <algorithm>

namespace mayfly::supervisor {

uint64_t Pause::afterDeath(uint64_t lived_ns) {
  if (lived_ns >= kSoundNs) next_ns_ = kFirstNs;
  const uint64_t pause_ns = next_ns_;
  next_ns_ = std::min(2 * next_ns_, kMaxNs);
  return pause_ns;
}

}  // namespace mayfly::supervisor
