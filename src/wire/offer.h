// The messages with which root gives a running daemon a template's new snapshot: fixed size, one
// per datagram of a SEQPACKET socket, one offer per connection.
//
//   mayfly-snapshot -> mayflyd   Offer; fds: [0] the snapshot's folder, leased by its flock
//   mayflyd -> mayfly-snapshot   OfferAnswer, once a zygote serves from it, or cannot
//
// Layer: wire (both sides include it). Plain data.
#pragma once

#include <cstdint>

namespace mayfly::wire {

inline constexpr uint32_t kOfferMagic = 0x4d46'534f;  // "MFSO"
inline constexpr uint32_t kOfferVersion = 1;
inline constexpr char kOfferSocketSuffix[] = ".snap";  // of <run_dir>/<instance>

struct Offer {
  uint32_t magic = kOfferMagic;
  uint32_t version = kOfferVersion;
  uint64_t memory_least_bytes = 0;  // what a clone takes before its task runs
  uint32_t processes_least = 0;     // the same; threads count
  uint32_t padding = 0;
  char template_name[64] = {};
  char key[72] = {};  // of the snapshot, 64 hex digits: it must be the key that the daemon serves
};

struct OfferAnswer {
  uint32_t magic = kOfferMagic;
  uint32_t version = kOfferVersion;
  int32_t code = 0;  // 0: it is served; else a base::Code
  uint32_t padding = 0;
  char text[512] = {};
  char advice[256] = {};
};

}  // namespace mayfly::wire
