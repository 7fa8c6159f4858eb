// Compares the findings of two trial clones of a template's zygote.
//
// A trial is the template's own program. It prints one line per finding:
//
//   differ NAME VALUE   must not be the same in two clones: a generator's output
//   equal NAME VALUE    must be the same in every clone
//   fault TEXT          makes the zygote unfit: a thread, a timer, a canary found...
//
// Layer: pool. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace mayfly::pool {

inline constexpr size_t kTrialBytesMax = 256u << 10;  // of one clone's lines
inline constexpr size_t kTrialCodeBytesMax = 64u << 10;

// The first fault, in words; nothing if the two clones differ and agree as they must.
std::optional<std::string> findFault(std::string_view one, std::string_view other);

}  // namespace mayfly::pool
