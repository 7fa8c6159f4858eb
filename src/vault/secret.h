// Bytes that must not leave the vault but towards their upstream.
//
// They lie in memory that is locked where the limit allows it, kept out of core dumps, walled by
// guard pages and wiped at the end (sodium_malloc; small ones share a size, and their blocks are
// used again). The type has no formatter, no comparison and no conversion: whoever needs the bytes
// writes `reveal()`, and a reader finds every such place.
//
// Layer: vault. One thread. sodium_init() has run.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <variant>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::vault {

class Secret {
 public:
  // The pieces one after the other.
  static Secret joined(std::initializer_list<std::string_view> pieces);
  static Secret base64(std::string_view bytes);
  // All that the descriptor holds now, without one final line feed; straight into locked memory.
  static base::Result<Secret> readFrom(base::FdView fd, size_t bytes_max);

  Secret(Secret&& other) noexcept;
  Secret& operator=(Secret&& other) noexcept;
  Secret(const Secret&) = delete;
  ~Secret();

  std::string_view reveal() const { return {bytes_, size_}; }
  char* revealForCurl() const { return bytes_; }  // ends with a zero byte

 private:
  explicit Secret(size_t size);

  char* bytes_;
  size_t size_;
};
using SecretRef = std::shared_ptr<const Secret>;

// A text of a request, in locked memory only if a secret is in it: that memory costs some system
// calls each.
using MaybeSecret = std::variant<std::string, Secret>;
inline char* revealForCurl(MaybeSecret& text) {
  if (auto* plain = std::get_if<std::string>(&text)) return plain->data();
  return std::get<Secret>(text).revealForCurl();
}
inline std::string_view reveal(const MaybeSecret& text) {
  if (const auto* plain = std::get_if<std::string>(&text)) return *plain;
  return std::get<Secret>(text).reveal();
}

// The secrets of the policy, by name. A call that has begun keeps the value that it began with.
class SecretStore {
 public:
  void set(const std::string& name, SecretRef value);
  // It cannot be read now. A value that was there before stays in force.
  void fail(const std::string& name, std::string why);
  // Wipes all others, once no call uses them.
  void keepOnly(const std::set<std::string>& names);

  base::Result<SecretRef> find(const std::string& name) const;
  uint64_t changes() const { return changes_; }  // rises with each new value

 private:
  struct Entry {
    SecretRef value;
    std::string why;
  };
  std::map<std::string, Entry> all_;
  uint64_t changes_ = 0;
};

}  // namespace mayfly::vault
