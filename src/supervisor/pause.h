// How long to wait before a program that died is started again.
//
// Layer: supervisor. Pure.
#pragma once

#include <cstdint>

namespace mayfly::supervisor {

class Pause {
 public:
  static constexpr uint64_t kFirstNs = 50'000'000, kMaxNs = 10'000'000'000;
  static constexpr uint64_t kSoundNs = 60'000'000'000;  // who lived so long begins anew

  // The program died after `lived_ns`: the pause from now on.
  uint64_t afterDeath(uint64_t lived_ns);

 private:
  uint64_t next_ns_ = kFirstNs;
};

}  // namespace mayfly::supervisor
