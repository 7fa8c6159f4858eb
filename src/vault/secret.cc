#include "vault/secret.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

namespace mayfly::vault {

using base::Code;
using base::Result;

namespace {

// To lock a block, wall it and undo both takes ten system calls, and each request with a credential
// needs one. So some wiped blocks of one size are kept.
constexpr size_t kKeptBytes = 2'048, kKeptMax = 64;
std::vector<char*> spare_blocks;

char* takeBlock(size_t bytes) {
  if (bytes <= kKeptBytes && !spare_blocks.empty()) {
    char* block = spare_blocks.back();
    spare_blocks.pop_back();
    return block;
  }
  void* block = ::sodium_malloc(std::max(bytes, kKeptBytes));
  if (block == nullptr) throw std::bad_alloc();
  return static_cast<char*>(block);
}

void giveBlock(char* block, size_t bytes) {
  if (block == nullptr) return;
  if (bytes > kKeptBytes || spare_blocks.size() >= kKeptMax)
    return ::sodium_free(block);  // wipes it, too
  ::sodium_memzero(block, kKeptBytes);
  spare_blocks.push_back(block);
}

}  // namespace

Secret::Secret(size_t size) : bytes_(takeBlock(size + 1)), size_(size) { bytes_[size] = '\0'; }

Secret::Secret(Secret&& other) noexcept
    : bytes_(std::exchange(other.bytes_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Secret& Secret::operator=(Secret&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(size_, other.size_);
  return *this;
}

Secret::~Secret() { giveBlock(bytes_, size_ + 1); }

Secret Secret::joined(std::initializer_list<std::string_view> pieces) {
  size_t size = 0;
  for (std::string_view piece : pieces) size += piece.size();
  Secret all(size);
  char* at = all.bytes_;
  for (std::string_view piece : pieces) {
    ::memcpy(at, piece.data(), piece.size());
    at += piece.size();
  }
  return all;
}

Secret Secret::base64(std::string_view bytes) {
  constexpr int kVariant = sodium_base64_VARIANT_ORIGINAL;
  const size_t with_zero = sodium_base64_encoded_len(bytes.size(), kVariant);
  Secret text(with_zero - 1);
  ::sodium_bin2base64(text.bytes_, with_zero, reinterpret_cast<const unsigned char*>(bytes.data()),
                      bytes.size(), kVariant);
  return text;
}

Result<Secret> Secret::readFrom(base::FdView fd, size_t bytes_max) {
  Secret all(bytes_max + 2);  // one too many is seen; a final line feed is none too many
  size_t size = 0;
  while (size < all.size_) {
    const ssize_t n = ::read(fd.get(), all.bytes_ + size, all.size_ - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) return base::failSys(errno, "read", "a secret");
    if (n <= 0) break;
    size += static_cast<size_t>(n);
  }
  if (size > 0 && all.bytes_[size - 1] == '\n') --size;
  if (size > bytes_max)
    return base::fail(Code::invalidArgument,
                      "it has more than " + std::to_string(bytes_max) + " bytes");
  if (size == 0) return base::fail(Code::invalidArgument, "it is empty");
  return joined({{all.bytes_, size}});
}

void SecretStore::set(const std::string& name, SecretRef value) {
  all_[name] = {std::move(value), {}};
  ++changes_;
}

void SecretStore::fail(const std::string& name, std::string why) {
  all_[name].why = std::move(why);
}

void SecretStore::keepOnly(const std::set<std::string>& names) {
  std::erase_if(all_, [&](const auto& each) { return !names.contains(each.first); });
}

Result<SecretRef> SecretStore::find(const std::string& name) const {
  auto at = all_.find(name);
  if (at != all_.end() && at->second.value) return at->second.value;
  // The reason is the operator's: a path is no business of a box.
  return base::fail(Code::unavailable,
                    "the secret '" + name + "' of this action cannot be read now",
                    "The operator finds the reason in the broker's log.", 1'000);
}

}  // namespace mayfly::vault
