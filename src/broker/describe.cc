// Layer: broker. See describe.h.
#include "broker/describe.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace mayfly::broker {
namespace {

using Json = nlohmann::ordered_json;

const char* howTo(ActionKind kind) {
  switch (kind) {
    case ActionKind::http:
      return "Send an ordinary HTTP request to this URL and a path behind it. The broker adds the "
             "credential.";
    case ActionKind::sql:
      return "POST a JSON object with the params, or GET with them as query. Accept: text/csv "
             "gives CSV.";
    case ActionKind::mint:
      return "POST gives a credential for this audience; it is active only while the task lives.";
    case ActionKind::egress:
      return "A proxy (HTTP_PROXY, HTTPS_PROXY) to these hosts.";
  }
  return "";
}

void describeRules(const config::HttpRules& rules, const Narrowing& narrowing, Json& out) {
  out["methods"] = narrowing.methods.empty() ? rules.methods : narrowing.methods;
  out["paths"] = narrowing.paths.empty() ? rules.paths : narrowing.paths;
  out["query"] = rules.query;
  out["request_bytes_max"] = rules.request_bytes_max;
  out["response_bytes_max"] = rules.response_bytes_max;
}

void describeSql(const Grant& grant, Json& out) {
  const config::SqlAction& sql = *grant.sql();
  out["params"] = Json::array();
  for (const config::SqlParam& p : sql.params) {
    const auto& fixed = grant.narrowing.fixed;
    const bool set = p.fixed != config::SqlParam::Fixed::no ||
                     std::any_of(fixed.begin(), fixed.end(),
                                 [&](const auto& pair) { return pair.first == p.name; });
    if (set) continue;
    Json param{{"name", p.name}, {"type", std::string(name(p.type))}, {"null", p.null}};
    if (p.least) param["min"] = *p.least;
    if (p.most) param["max"] = *p.most;
    if (p.min) param["min"] = *p.min;
    if (p.max) param["max"] = *p.max;
    if (!p.values.empty()) param["values"] = p.values;
    out["params"].push_back(std::move(param));
  }
  out["rows_max"] = grant.narrowing.rows.value_or(sql.rows_max);
  out["read_only"] = sql.read_only;
}

Json describeGrant(const Grant& grant, std::string_view broker_url) {
  Json out{{"name", grant.name()},
           {"kind", std::string(name(grant.kind))},
           {"url", urlOf(grant, broker_url)},
           {"how", howTo(grant.kind)}};
  if (!grant.action->description.empty()) out["description"] = grant.action->description;
  if (const auto* http = grant.http()) describeRules(http->rules, grant.narrowing, out);
  if (grant.sql() != nullptr) describeSql(grant, out);
  if (const auto* mint = grant.mint()) {
    out["audience"] = mint->audience;
    out["scope"] = mint->scope;
    out["time_ms"] = grant.narrowing.time_ms.value_or(mint->time_ms_max);
  }
  if (const auto* egress = grant.egress()) {
    out["hosts"] = Json::array();
    for (const auto& host : egress->hosts)
      out["hosts"].push_back(fmt::format("{}:{}", host.host, host.port));
    if (!grant.narrowing.hosts.empty()) out["hosts"] = grant.narrowing.hosts;
    out["modes"] = Json::array();
    if (egress->upgrade) out["modes"].push_back("upgrade");
    if (egress->connect) out["modes"].push_back("connect");
    describeRules(egress->rules, grant.narrowing, out);
  }
  out["bounds"] = {{"calls", grant.quota.calls},
                   {"calls_per_minute", grant.quota.calls_per_minute},
                   {"parallel", grant.quota.parallel},
                   {"bytes", grant.quota.bytes}};
  return out;
}

// Whoever reads or writes JSON may take a frame of its stack for each level.
bool isShallow(std::string_view json) {
  constexpr size_t kDepthMax = 32;
  size_t depth = 0;
  bool in_text = false;
  for (size_t i = 0; i < json.size(); ++i) {
    if (in_text) {
      if (json[i] == '\\')
        ++i;
      else if (json[i] == '"')
        in_text = false;
    } else if (json[i] == '"') {
      in_text = true;
    } else if (json[i] == '[' || json[i] == '{') {
      if (++depth > kDepthMax) return false;
    } else if ((json[i] == ']' || json[i] == '}') && depth > 0) {
      --depth;
    }
  }
  return true;
}

}  // namespace

base::Result<std::string> describeTools(std::string_view broker_url,
                                        const std::vector<ToolText>& tools) {
  Json out = Json::array();
  for (const ToolText& tool : tools) {
    Json one{{"name", tool.name},
             {"url", fmt::format("{}/tools/{}", broker_url, tool.name)},
             {"description", tool.description}};
    // The client wrote it: it may be no JSON.
    Json schema =
        isShallow(tool.schema_json) ? Json::parse(tool.schema_json, nullptr, false) : Json();
    if (!schema.is_discarded() && !schema.is_null()) one["schema"] = std::move(schema);
    out.push_back(std::move(one));
  }
  std::string text = out.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > kToolsTextBytesMax)
    return base::fail(base::Code::invalidArgument,
                      fmt::format("the tools' names, descriptions and schemas have {} bytes as "
                                  "JSON; at most {}",
                                  text.size(), kToolsTextBytesMax));
  return text;
}

std::string describe(const SessionText& session, const std::vector<Grant>& grants,
                     std::string_view tools) {
  Json out{{"broker", "Mayfly"},
           {"task", session.task},
           {"expires_ms", session.expires_ms},
           {"about",
            "All that this task may reach outside of its box. No credential is in the box, and "
            "none is needed: the broker adds it. Everything else is refused."},
           {"grants", Json::array()}};
  for (const Grant& grant : grants)
    out["grants"].push_back(describeGrant(grant, session.broker_url));
  std::string text = out.dump(2, ' ', false, Json::error_handler_t::replace);
  text.resize(text.rfind('\n'));  // the last brace
  return fmt::format("{},\n  \"tools\": {}\n}}\n", text, tools.empty() ? "[]" : tools);
}

}  // namespace mayfly::broker
