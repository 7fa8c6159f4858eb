// A grant: one action of the policy for one task, with bounds that the submitter narrowed.
//
//   narrowing = part *("," part)          "calls=10,methods=GET|HEAD,paths=/models/*"
//   part      = key "=" value *("|" value)
//
// Layer: broker. Pure.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "config/policy.h"

namespace mayfly::broker {

inline constexpr size_t kNarrowingBytesMax = 2'000;
inline constexpr size_t kGrantsMax = 64;  // of one task

enum class ActionKind : uint8_t { http, sql, mint, egress };
std::string_view name(ActionKind kind);

// What the submitter asked for. Nothing: the policy's own bound.
struct Narrowing {
  std::optional<uint64_t> calls, bytes;
  std::optional<uint32_t> calls_per_minute, parallel;
  std::vector<std::string> methods, paths;                 // http, egress; empty: the action's
  std::vector<std::string> hosts;                          // egress: names of the action's hosts
  std::optional<uint64_t> rows;                            // sql
  std::vector<std::pair<std::string, std::string>> fixed;  // sql: params with one value
  std::optional<uint64_t> time_ms;                         // mint
};

struct Grant {
  std::shared_ptr<const config::Policy> policy;  // keeps the action
  ActionKind kind{};
  const config::Action* action = nullptr;
  Narrowing narrowing;
  config::TaskQuota quota;  // the action's, narrowed

  const std::string& name() const { return action->name; }
  // "http.openai": how rules are named.
  std::string rule() const;
  // Null if the action is of another kind.
  const config::HttpAction* http() const;
  const config::SqlAction* sql() const;
  const config::MintAction* mint() const;
  const config::EgressAction* egress() const;
};

struct Applicant {
  uint32_t uid = 0;
  std::string tenant;  // empty: none named
};

// notFound: no such action; permissionDenied: not for this user or tenant; invalidArgument: a
// narrowing that cannot be read or that would widen.
base::Result<Grant> makeGrant(std::shared_ptr<const config::Policy> policy,
                              const Applicant& applicant, std::string_view action,
                              std::string_view narrowing);

// All grants of one task; each action may be there once.
base::Result<std::vector<Grant>> makeGrants(
    std::shared_ptr<const config::Policy> policy, const Applicant& applicant,
    const std::vector<std::pair<std::string, std::string>>& wishes);

// The variables of a task with these grants, sorted. Two grants that set one variable to different
// values are an error. `broker_url`: "http://127.0.0.1".
base::Result<config::Pairs> environmentOf(const std::vector<Grant>& grants,
                                          std::string_view broker_url);
// The address of an action for its task: "http://127.0.0.1/cap/openai".
std::string urlOf(const Grant& grant, std::string_view broker_url);

}  // namespace mayfly::broker
