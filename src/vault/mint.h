// Minted credentials: random, opaque, and kept only as their hashes.
//
// One is active while its session lives and its time is not over. Who steals one from a box and
// shows it after the box's end is told that it is inactive.
//
// Layer: vault. Time is an argument.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mayfly::vault {

struct MintedFor {
  uint64_t session = 0;
  std::string action, audience, scope;
  uint64_t task = 0;
  uint64_t issued_s = 0, expires_s = 0;  // since 1970
  uint64_t expires_ns = 0;               // of the monotonic clock
};

class Mint {
 public:
  static constexpr std::string_view kPrefix = "mayfly_";

  // `live_max`: of this session and action. The credential is returned once and never again.
  base::Result<std::string> make(const MintedFor& what, uint32_t live_max, uint32_t all_max,
                                 uint64_t now_ns);
  // Nothing: unknown, expired or revoked; these are not told apart.
  std::optional<MintedFor> find(std::string_view credential, uint64_t now_ns) const;
  void revoke(uint64_t session, std::string_view action);  // an empty action: all of the session
  void expire(uint64_t now_ns);
  size_t live() const { return all_.size(); }

 private:
  using Hash = std::array<unsigned char, 32>;
  static Hash hashOf(std::string_view credential);

  // The key is a hash of 256 random bits: how long a look-up takes tells nothing.
  std::map<Hash, MintedFor> all_;
};

}  // namespace mayfly::vault
