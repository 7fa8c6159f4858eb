// Which call of the vault a request becomes: path, query and authority, taken apart.
//
// Layer: front. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "front/refusal.h"
#include "front/request.h"

namespace mayfly::front {

struct Route {
  enum class Kind : uint8_t { describe, tools, cap, sql, mint, tool, proxy, tunnel };
  Kind kind = Kind::describe;
  std::string name;    // of the action or tool
  std::string target;  // cap, proxy: path and query for the upstream
  std::string host;    // tunnel: in lower case; proxy: the authority
  uint16_t port = 0;   // tunnel
  std::vector<std::pair<std::string, std::string>> query;  // sql: decoded, without `format`
  bool csv = false;                                        // sql
};

Checked<Route> routeOf(const Request& request);

// The methods that the route's path has, for the header Allow; empty: all.
std::string_view methodsOf(Route::Kind kind);

// %41 and + decoded; null: not decodable, or not UTF-8, or with NUL.
std::optional<std::string> decoded(std::string_view text);

}  // namespace mayfly::front
