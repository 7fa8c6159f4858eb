// A request's target in one reading: no two servers can disagree on it.
//
// Layer: broker. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/refusal.h"

namespace mayfly::broker {

inline constexpr size_t kTargetBytesMax = 8'192;
inline constexpr size_t kQueryPartsMax = 128;

struct QueryPart {
  std::string name;                  // decoded
  std::optional<std::string> value;  // decoded; nothing: the name stands without "="
};

struct Target {
  std::string path;    // for the upstream: each byte encoded that needs it, and no other
  std::string plain;   // decoded; an encoded slash is "/"
  std::string letter;  // decoded; an encoded slash is kSlashAsLetter; else the same as `plain`
  std::vector<QueryPart> query;

  std::string queryText() const;  // encoded, with "?"; empty if there is none
};

enum class EncodedSlash : uint8_t { refused, allowed };

// `target` is a path with a query: origin-form.
Decision<Target> parseTarget(std::string_view rule, std::string_view target, EncodedSlash slash);

// With every byte encoded but letters, digits and "-._~".
std::string percentEncoded(std::string_view text);

}  // namespace mayfly::broker
