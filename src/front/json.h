// JSON bodies: parameters of /sql, arguments of /tools. Bounded in depth, size and number; a number
// is kept exactly or refused.
//
// Layer: front. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "front/refusal.h"

namespace mayfly::front {

struct Param {
  std::string name;
  std::variant<std::monostate, bool, int64_t, double, std::string, std::vector<int64_t>,
               std::vector<std::string>>
      value;
};

// An object of parameters; an empty text counts as {}.
Checked<std::vector<Param>> paramsOf(std::string_view json);

// Refuses a text that is no JSON object, is nested deeper than 32, or names a key twice.
Passed checkObject(std::string_view json);

// The member `name` of an object, as JSON; empty: there is none.
std::string memberOf(std::string_view json, const char* name);

struct Minted {
  std::string credential, audience, scope;
  uint64_t expires_ms = 0;
};
std::string jsonOf(const Minted& minted);

}  // namespace mayfly::front
