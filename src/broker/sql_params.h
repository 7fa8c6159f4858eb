// The parameters of a statement: what a task gives against what the policy declares.
//
// Layer: broker. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "broker/refusal.h"
#include "config/policy.h"

namespace mayfly::broker {

struct Grant;

using ParamValue = std::variant<std::monostate, bool, int64_t, double, std::string,
                                std::vector<int64_t>, std::vector<std::string>>;

// For whom the statement runs: the values of fixed parameters.
struct SqlSubject {
  std::string tenant;  // empty: none; then a statement with a tenant's parameter is refused
  uint32_t uid = 0;
  uint64_t task = 0;
};

// In the order of $1 to $n, in PostgreSQL's text form; nothing: NULL. Each parameter has a declared
// type, so nothing of a text is ever read as SQL.
using BoundParams = std::vector<std::optional<std::string>>;

// One value. A text is also taken for a boolean, a whole number or a number, if it is one.
Decision<std::optional<std::string>> checkParam(std::string_view rule,
                                                const config::SqlParam& declared,
                                                const ParamValue& value);

// `grant` is one of an sql action.
Decision<BoundParams> checkParams(const Grant& grant, const SqlSubject& subject,
                                  const std::vector<std::pair<std::string, ParamValue>>& given);

}  // namespace mayfly::broker
