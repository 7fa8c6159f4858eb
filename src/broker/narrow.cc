// Layer: broker. See narrow.h.
#include "broker/narrow.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "base/text.h"
#include "broker/pattern.h"
#include "broker/sql_params.h"
#include "config/policy_text.h"
#include "config/units.h"

namespace mayfly::broker {
namespace {

using base::Code;
using base::fail;

constexpr size_t kValuesMax = 64;
constexpr std::string_view kAdvice =
    "A narrowing looks like calls=10,methods=GET|HEAD,paths=/models/*";

// One part of a narrowing, for messages, too.
struct Part {
  std::string_view key;
  std::vector<std::string> values;
};

class Narrower {
 public:
  explicit Narrower(Grant& grant) : grant_(grant) {}
  base::Status read(std::string_view text);

 private:
  base::Status take(const Part& part);
  base::Status takeQuota(const Part& part, bool* known);
  base::Status takeRequests(const Part& part, bool* known);
  base::Status takeSql(const Part& part, bool* known);

  base::Status wrong(std::string_view key, std::string_view why) const {
    return fail(Code::invalidArgument,
                fmt::format("the grant of '{}' cannot be narrowed by '{}': {}", grant_.name(),
                            base::printable(key, 60), why),
                std::string(kAdvice));
  }
  base::Status widens(std::string_view key, std::string_view wanted,
                      std::string_view allowed) const {
    return fail(Code::invalidArgument,
                fmt::format("the grant of '{}' cannot be widened: {}={} is more than the policy "
                            "allows, which is {}",
                            grant_.name(), base::printable(key, 60), base::printable(wanted, 100),
                            base::printable(allowed, 300)),
                "A narrowing can only take away from what the policy allows.");
  }
  template <class Number>
  base::Status amount(const Part& part, uint64_t allowed, std::optional<Number>& out,
                      base::Result<uint64_t> (*parse)(std::string_view),
                      std::string (*format)(uint64_t));
  // Each value is one of `allowed`.
  base::Status subset(const Part& part, const std::vector<std::string>& allowed,
                      std::vector<std::string>& out);

  Grant& grant_;
  std::vector<std::string> keys_;  // that this kind of action knows
};

std::string plainNumber(uint64_t n) { return fmt::format("{}", n); }

template <class Number>
base::Status Narrower::amount(const Part& part, uint64_t allowed, std::optional<Number>& out,
                              base::Result<uint64_t> (*parse)(std::string_view),
                              std::string (*format)(uint64_t)) {
  if (part.values.size() != 1) return wrong(part.key, "it takes one value");
  const auto value = parse(part.values[0]);
  if (!value) return wrong(part.key, value.error().message);
  if (*value == 0) return wrong(part.key, "the least value is 1");
  if (*value > allowed) return widens(part.key, part.values[0], format(allowed));
  out = static_cast<Number>(*value);
  return base::Unit{};
}

base::Status Narrower::subset(const Part& part, const std::vector<std::string>& allowed,
                              std::vector<std::string>& out) {
  for (const std::string& value : part.values) {
    if (std::find(allowed.begin(), allowed.end(), value) == allowed.end())
      return widens(part.key, value, fmt::format("{}", fmt::join(allowed, " ")));
    out.push_back(value);
  }
  return base::Unit{};
}

base::Status Narrower::takeQuota(const Part& part, bool* known) {
  keys_.insert(keys_.end(), {"calls", "bytes", "calls_per_minute", "parallel"});
  Narrowing& n = grant_.narrowing;
  const config::TaskQuota& q = grant_.action->task;
  *known = true;
  if (part.key == "calls") return amount(part, q.calls, n.calls, config::parseCount, plainNumber);
  if (part.key == "bytes")
    return amount(part, q.bytes, n.bytes, config::parseBytes, config::formatBytes);
  if (part.key == "calls_per_minute")
    return amount(part, q.calls_per_minute, n.calls_per_minute, config::parseCount, plainNumber);
  if (part.key == "parallel")
    return amount(part, q.parallel, n.parallel, config::parseCount, plainNumber);
  *known = false;
  return base::Unit{};
}

base::Status Narrower::takeRequests(const Part& part, bool* known) {
  const config::HttpRules* rules = nullptr;
  if (const auto* http = grant_.http()) rules = &http->rules;
  if (const auto* egress = grant_.egress()) rules = &egress->rules;
  if (rules == nullptr) return base::Unit{};
  Narrowing& n = grant_.narrowing;
  keys_.insert(keys_.end(), {"methods", "paths"});
  *known = true;
  if (part.key == "methods") return subset(part, rules->methods, n.methods);
  if (part.key == "paths") {
    for (const std::string& path : part.values) {
      if (!config::isPathPattern(path))
        return wrong(part.key, fmt::format("'{}' is no pattern: {}", base::printable(path, 80),
                                           config::kPathPatternRule));
      const bool covered = std::any_of(rules->paths.begin(), rules->paths.end(),
                                       [&](const auto& outer) { return coversPath(outer, path); });
      if (!covered) return widens(part.key, path, fmt::format("{}", fmt::join(rules->paths, " ")));
      n.paths.push_back(path);
    }
    return base::Unit{};
  }
  *known = false;
  const config::EgressAction* egress = grant_.egress();
  if (egress == nullptr) return base::Unit{};
  keys_.emplace_back("hosts");
  if (part.key != "hosts") return base::Unit{};
  *known = true;
  for (const std::string& text : part.values) {
    const auto host = config::parseEgressHost(text);
    if (!host) return wrong(part.key, fmt::format("'{}' is no host", base::printable(text, 80)));
    const bool covered =
        std::any_of(egress->hosts.begin(), egress->hosts.end(), [&](const auto& outer) {
          if (outer.port != host->port) return false;
          if (outer.host == host->host) return true;
          return outer.host.starts_with("*.") &&
                 host->host.ends_with(std::string_view(outer.host).substr(1));
        });
    if (!covered) return widens(part.key, text, "its own hosts");
    n.hosts.push_back(fmt::format("{}:{}", host->host, host->port));
  }
  return base::Unit{};
}

base::Status Narrower::takeSql(const Part& part, bool* known) {
  if (const config::MintAction* mint = grant_.mint()) {
    keys_.emplace_back("time");
    if (part.key != "time") return base::Unit{};
    *known = true;
    return amount(part, mint->time_ms_max, grant_.narrowing.time_ms, config::parseDurationMs,
                  config::formatDurationMs);
  }
  const config::SqlAction* sql = grant_.sql();
  if (sql == nullptr) return base::Unit{};
  keys_.insert(keys_.end(), {"rows", "param.NAME"});
  if (part.key == "rows") {
    *known = true;
    return amount(part, sql->rows_max, grant_.narrowing.rows, config::parseCount, plainNumber);
  }
  if (!part.key.starts_with("param.")) return base::Unit{};
  *known = true;
  const std::string_view name = part.key.substr(6);
  const auto at = std::find_if(sql->params.begin(), sql->params.end(),
                               [&](const auto& p) { return p.name == name; });
  if (at == sql->params.end()) return wrong(part.key, "the statement has no such parameter");
  if (at->fixed != config::SqlParam::Fixed::no)
    return wrong(part.key, "the policy fixes this parameter itself");
  if (part.values.size() != 1) return wrong(part.key, "it takes one value");
  // The value must be one that the task itself could give.
  const auto checked = checkParam(grant_.rule(), *at, ParamValue(part.values[0]));
  if (!checked) return wrong(part.key, checked.error().message);
  grant_.narrowing.fixed.emplace_back(name, part.values[0]);
  return base::Unit{};
}

base::Status Narrower::take(const Part& part) {
  keys_.clear();
  for (auto read : {&Narrower::takeQuota, &Narrower::takeRequests, &Narrower::takeSql}) {
    bool known = false;
    MAYFLY_CHECK((this->*read)(part, &known));
    if (known) return base::Unit{};
  }
  return wrong(part.key, fmt::format("allowed here are {}", fmt::join(keys_, ", ")));
}

base::Status Narrower::read(std::string_view text) {
  if (text.size() > kNarrowingBytesMax)
    return wrong("...", fmt::format("it is longer than {} bytes", kNarrowingBytesMax));
  std::vector<std::string_view> seen;
  const bool ends_with_comma = text.ends_with(',');
  while (!text.empty()) {
    const std::string_view one = text.substr(0, text.find(','));
    text.remove_prefix(std::min(one.size() + 1, text.size()));
    const size_t equals = one.find('=');
    if (equals == std::string_view::npos || equals == 0)
      return wrong(one, "a part is KEY=VALUE, or KEY=VALUE|VALUE");
    Part part{one.substr(0, equals), {}};
    if (std::find(seen.begin(), seen.end(), part.key) != seen.end())
      return wrong(part.key, "it is there twice");
    seen.push_back(part.key);
    std::string_view values = one.substr(equals + 1);
    while (true) {
      const std::string_view value = values.substr(0, values.find('|'));
      if (value.empty()) return wrong(part.key, "a value is empty");
      part.values.emplace_back(value);
      if (part.values.size() > kValuesMax) return wrong(part.key, "it has too many values");
      if (value.size() == values.size()) break;
      values.remove_prefix(value.size() + 1);
    }
    MAYFLY_CHECK(take(part));
    if (text.empty() && ends_with_comma) return wrong("", "a part is missing behind the last ','");
  }
  return base::Unit{};
}

bool mayUse(const config::Action& action, const Applicant& who) {
  const bool user =
      who.uid == 0 || action.every_user ||
      std::find(action.users.begin(), action.users.end(), who.uid) != action.users.end();
  const bool tenant =
      std::any_of(action.tenants.begin(), action.tenants.end(), [&](const std::string& each) {
        return each == config::kAnyone || (!who.tenant.empty() && each == who.tenant);
      });
  return user && tenant;
}

template <class T>
void least(T& bound, const std::optional<T>& wish) {
  if (wish) bound = std::min(bound, *wish);
}

}  // namespace

std::string_view name(ActionKind kind) {
  static constexpr std::string_view names[] = {"http", "sql", "mint", "egress"};
  return names[static_cast<size_t>(kind)];
}

std::string Grant::rule() const { return fmt::format("{}.{}", broker::name(kind), action->name); }

const config::HttpAction* Grant::http() const {
  return kind == ActionKind::http ? static_cast<const config::HttpAction*>(action) : nullptr;
}
const config::SqlAction* Grant::sql() const {
  return kind == ActionKind::sql ? static_cast<const config::SqlAction*>(action) : nullptr;
}
const config::MintAction* Grant::mint() const {
  return kind == ActionKind::mint ? static_cast<const config::MintAction*>(action) : nullptr;
}
const config::EgressAction* Grant::egress() const {
  return kind == ActionKind::egress ? static_cast<const config::EgressAction*>(action) : nullptr;
}

base::Result<Grant> makeGrant(std::shared_ptr<const config::Policy> policy,
                              const Applicant& applicant, std::string_view action,
                              std::string_view narrowing) {
  Grant grant;
  if ((grant.action = policy->findHttp(action)))
    grant.kind = ActionKind::http;
  else if ((grant.action = policy->findSql(action)))
    grant.kind = ActionKind::sql;
  else if ((grant.action = policy->findMint(action)))
    grant.kind = ActionKind::mint;
  else if ((grant.action = policy->findEgress(action)))
    grant.kind = ActionKind::egress;
  else
    return fail(Code::notFound,
                fmt::format("the broker's policy has no action '{}'", base::printable(action, 60)));
  if (!mayUse(*grant.action, applicant)) {
    return fail(Code::permissionDenied,
                fmt::format("user {} with tenant '{}' may not use the action '{}'", applicant.uid,
                            base::printable(applicant.tenant, 60), grant.action->name),
                "The policy's users and tenants say who may.");
  }
  grant.policy = std::move(policy);
  grant.quota = grant.action->task;
  MAYFLY_CHECK(Narrower(grant).read(narrowing));
  least(grant.quota.calls, grant.narrowing.calls);
  least(grant.quota.bytes, grant.narrowing.bytes);
  least(grant.quota.calls_per_minute, grant.narrowing.calls_per_minute);
  least(grant.quota.parallel, grant.narrowing.parallel);
  return grant;
}

base::Result<std::vector<Grant>> makeGrants(
    std::shared_ptr<const config::Policy> policy, const Applicant& applicant,
    const std::vector<std::pair<std::string, std::string>>& wishes) {
  if (wishes.size() > kGrantsMax)
    return fail(Code::invalidArgument, fmt::format("the task asks for {} grants; {} are allowed",
                                                   wishes.size(), kGrantsMax));
  std::vector<Grant> out;
  for (const auto& [action, narrowing] : wishes) {
    MAYFLY_TRY(Grant grant, makeGrant(policy, applicant, action, narrowing));
    for (const Grant& other : out)
      if (other.action == grant.action)
        return fail(Code::invalidArgument,
                    fmt::format("the grant of '{}' is there twice", grant.name()));
    out.push_back(std::move(grant));
  }
  return out;
}

std::string urlOf(const Grant& grant, std::string_view broker_url) {
  switch (grant.kind) {
    case ActionKind::http:
      return fmt::format("{}/cap/{}", broker_url, grant.name());
    case ActionKind::egress:
      return std::string(broker_url);
    default:
      return fmt::format("{}/{}/{}", broker_url, name(grant.kind), grant.name());
  }
}

base::Result<config::Pairs> environmentOf(const std::vector<Grant>& grants,
                                          std::string_view broker_url) {
  std::map<std::string, std::pair<std::string, std::string>> all;  // value, action
  all["MAYFLY_BROKER"] = {std::string(broker_url), ""};
  for (const Grant& grant : grants) {
    for (const auto& [variable, pattern] : grant.action->env) {
      std::string value;
      for (std::string_view rest = pattern; !rest.empty();) {
        const size_t brace = rest.find('{');
        value += rest.substr(0, brace);
        if (brace == std::string_view::npos) break;
        rest.remove_prefix(brace);
        const size_t end = rest.find('}');
        value += rest.starts_with("{url}") ? urlOf(grant, broker_url) : std::string(broker_url);
        rest.remove_prefix(end + 1);  // the parser allows only {url} and {broker}
      }
      const auto [at, added] = all.emplace(variable, std::pair{value, grant.name()});
      if (!added && at->second.first != value) {
        return fail(Code::invalidArgument,
                    fmt::format("the grants '{}' and '{}' set the variable {} differently",
                                at->second.second, grant.name(), variable),
                    "Only one of them can be granted to a task.");
      }
    }
  }
  config::Pairs out;
  for (auto& [variable, value] : all) out.emplace_back(variable, std::move(value.first));
  return out;
}

}  // namespace mayfly::broker
