// SHA-256 of texts and files.
//
// Layer: image. Blocks for files.
#pragma once

#include <sodium.h>

#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::image {

class Hash {
 public:
  Hash() { crypto_hash_sha256_init(&state_); }
  void bytes(std::string_view data) {
    crypto_hash_sha256_update(&state_, reinterpret_cast<const unsigned char*>(data.data()),
                              data.size());
  }
  // A field: its length goes first, so that "ab","c" and "a","bc" differ.
  void field(std::string_view data) {
    bytes(std::to_string(data.size()) + ":");
    bytes(data);
  }
  std::string hex();  // 64 digits; once

 private:
  crypto_hash_sha256_state state_;
};

base::Result<std::string> hashFile(const std::string& path);

}  // namespace mayfly::image
