#include "vault/mint.h"

#include <sodium.h>

#include <algorithm>

namespace mayfly::vault {

using base::Code;

namespace {

constexpr size_t kRandomBytes = 32;
constexpr size_t kCredentialBytesMax = 128;
constexpr int kCredentialVariant = sodium_base64_VARIANT_URLSAFE_NO_PADDING;

}  // namespace

Mint::Hash Mint::hashOf(std::string_view credential) {
  Hash hash;
  crypto_hash_sha256(hash.data(), reinterpret_cast<const unsigned char*>(credential.data()),
                     credential.size());
  return hash;
}

base::Result<std::string> Mint::make(const MintedFor& what, uint32_t live_max, uint32_t all_max,
                                     uint64_t now_ns) {
  expire(now_ns);
  const auto same = [&](const auto& each) {
    return each.second.session == what.session && each.second.action == what.action;
  };
  if (std::count_if(all_.begin(), all_.end(), same) >= live_max)
    return base::fail(Code::resourceExhausted,
                      "the task has " + std::to_string(live_max) + " credentials of this action",
                      "Use one of them, or wait until one expires.");
  if (all_.size() >= all_max)
    return base::fail(Code::resourceExhausted, "all tasks together have too many credentials",
                      "Try again later.", 1'000);
  unsigned char random[kRandomBytes];
  ::randombytes_buf(random, sizeof random);
  std::string text(sodium_base64_encoded_len(kRandomBytes, kCredentialVariant), '\0');
  ::sodium_bin2base64(text.data(), text.size(), random, sizeof random, kCredentialVariant);
  text.resize(text.find('\0'));
  std::string credential = std::string(kPrefix) + text;
  all_[hashOf(credential)] = what;
  ::sodium_memzero(random, sizeof random);
  return credential;
}

std::optional<MintedFor> Mint::find(std::string_view credential, uint64_t now_ns) const {
  if (credential.size() > kCredentialBytesMax) return std::nullopt;
  auto at = all_.find(hashOf(credential));
  if (at == all_.end() || at->second.expires_ns <= now_ns) return std::nullopt;
  return at->second;
}

void Mint::revoke(uint64_t session, std::string_view action) {
  std::erase_if(all_, [&](const auto& each) {
    return each.second.session == session && (action.empty() || each.second.action == action);
  });
}

void Mint::expire(uint64_t now_ns) {
  std::erase_if(all_, [&](const auto& each) { return each.second.expires_ns <= now_ns; });
}

}  // namespace mayfly::vault
