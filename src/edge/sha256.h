// SHA-256 of bytes that come in pieces. A blob's hash is its name.
//
// Layer: edge. Pure.
#pragma once

#include <sodium.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mayfly::edge {

using Sha256 = std::array<uint8_t, crypto_hash_sha256_BYTES>;

class Sha256Sum {
 public:
  Sha256Sum() { crypto_hash_sha256_init(&state_); }
  void add(std::string_view bytes) {
    crypto_hash_sha256_update(&state_, reinterpret_cast<const unsigned char*>(bytes.data()),
                              bytes.size());
  }
  Sha256 take() {  // call once
    Sha256 sum;
    crypto_hash_sha256_final(&state_, sum.data());
    return sum;
  }

 private:
  crypto_hash_sha256_state state_;
};

// The hash in a message's bytes; none if they are not 32.
inline std::optional<Sha256> sha256From(std::string_view bytes) {
  Sha256 sum;
  if (bytes.size() != sum.size()) return std::nullopt;
  bytes.copy(reinterpret_cast<char*>(sum.data()), sum.size());
  return sum;
}
inline std::string_view view(const Sha256& sum) {
  return {reinterpret_cast<const char*>(sum.data()), sum.size()};
}
std::string hex(const Sha256& sum);

}  // namespace mayfly::edge
