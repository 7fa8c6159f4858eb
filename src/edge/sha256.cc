#include "edge/sha256.h"

namespace mayfly::edge {

std::string hex(const Sha256& sum) {
  char text[2 * crypto_hash_sha256_BYTES + 1];
  return sodium_bin2hex(text, sizeof text, sum.data(), sum.size());
}

}  // namespace mayfly::edge
