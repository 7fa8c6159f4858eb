// libFuzzer on the broker's policy and its decisions. The input is a policy, then, each behind a
// NUL: a narrowing, a request's target, a header's value.
//
// Finds: a sanitizer's finding; a policy that is taken although a property that the vault relies on
// does not hold; a request that is allowed with a path or header that no upstream may get.
#include <stdlib.h>

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>

#include "broker/describe.h"
#include "broker/http_rules.h"
#include "config/policy.h"

namespace {

using namespace mayfly;

void require(bool truth) {
  if (!truth) abort();
}

std::string_view take(std::string_view& rest) {
  const std::string_view out = rest.substr(0, rest.find('\0'));
  rest.remove_prefix(std::min(out.size() + 1, rest.size()));
  return out;
}

bool isPlain(std::string_view text) {
  return text.find_first_of(std::string_view("\r\n\0", 3)) == std::string_view::npos;
}

void checkPolicy(const config::Policy& policy) {
  auto secret = [&](const std::string& name, bool credential) {
    const auto at = std::find_if(policy.secrets.begin(), policy.secrets.end(),
                                 [&](const auto& s) { return s.name == name; });
    require(at != policy.secrets.end() && !(credential && at->open));
  };
  for (const config::HttpAction& a : policy.http) {
    require(policy.find(a.name) == &a && !a.upstream.host.empty() && a.upstream.port != 0);
    require(!a.rules.paths.empty() && !a.rules.methods.empty());
    for (const std::string& name : a.auth.secrets()) secret(name, true);
    if (!a.rules.ca.empty()) secret(a.rules.ca, false);
    for (const auto& [name, value] : a.rules.set_headers) require(isPlain(name) && isPlain(value));
  }
  for (const config::SqlAction& a : policy.sql)
    require(policy.find(a.name) == &a && policy.findDatabase(a.database) != nullptr);
  for (const config::MintAction& a : policy.mint) require(policy.find(a.name) == &a);
  for (const config::EgressAction& a : policy.egress)
    require(policy.find(a.name) == &a && (a.upgrade || a.connect || a.hosts.empty()));
}

void checkCall(const broker::HttpCall& call) {
  require(isPlain(call.method) && isPlain(call.url()) && call.path.starts_with('/'));
  require((call.path + "/").find("/../") == std::string::npos);
  require(call.path.find("//") == std::string::npos && call.path.find('\\') == std::string::npos);
  for (const broker::Header& h : call.headers) {
    require(isPlain(h.name) && isPlain(h.value));
    require(h.name != "authorization" && h.name != "cookie" && h.name != "host");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  auto parsed = config::parsePolicy(take(rest), "fuzz");
  if (!parsed) {
    require(!parsed.error().message.empty());
    return 0;
  }
  checkPolicy(*parsed);
  const auto policy = std::make_shared<const config::Policy>(std::move(*parsed));
  const std::string narrowing(take(rest));
  const std::string_view target = take(rest);
  const std::vector<broker::Header> headers = {{"accept", std::string(take(rest))}};
  std::vector<broker::Grant> grants;
  for (const auto& a : policy->http) {
    auto grant = broker::makeGrant(policy, {0, "red"}, a.name, narrowing);
    if (!grant) continue;
    require(grant->quota.calls <= a.task.calls && grant->quota.bytes <= a.task.bytes);
    for (const char* method : {"GET", "POST"})
      if (auto call = broker::decideHttp(*grant, {method, target, headers, 0})) checkCall(*call);
    grants.push_back(std::move(*grant));
  }
  for (const auto& a : policy->egress)
    if (auto grant = broker::makeGrant(policy, {0, "red"}, a.name, narrowing))
      grants.push_back(std::move(*grant));
  if (auto call = broker::decideProxy(grants, "localhost:8443", {"GET", target, headers, 0}))
    checkCall(*call);
  require(!broker::describe({1, 1, "http://127.0.0.1"}, grants, "[]").empty());
  return 0;
}
