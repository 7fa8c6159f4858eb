// Layer: broker. See http_rules.h.
#include "broker/http_rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/text.h"
#include "broker/pattern.h"
#include "broker/target.h"
#include "config/policy_text.h"

namespace mayfly::broker {
namespace {

using config::lowered;

bool among(const std::vector<std::string>& all, std::string_view one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

Decision<base::Unit> refuseRule(std::string rule, std::string message) {
  return refuse(
      {base::Code::permissionDenied, 403, std::move(rule), std::move(message), kAskBroker, 0});
}

// The names that headers of one connection name in `Connection`.
std::set<std::string> connectionNames(const std::vector<Header>& headers) {
  std::set<std::string> out;
  for (const Header& h : headers) {
    if (lowered(h.name) != "connection") continue;
    std::string_view rest = h.value;
    while (!rest.empty()) {
      std::string_view one = rest.substr(0, rest.find(','));
      rest.remove_prefix(std::min(one.size() + 1, rest.size()));
      while (!one.empty() && (one.front() == ' ' || one.front() == '\t')) one.remove_prefix(1);
      while (!one.empty() && (one.back() == ' ' || one.back() == '\t')) one.remove_suffix(1);
      out.insert(lowered(one));
    }
  }
  return out;
}

Decision<base::Unit> checkHeaderForm(const std::string& rule, const std::vector<Header>& headers) {
  size_t bytes = 0;
  for (const Header& h : headers) {
    bytes += h.name.size() + h.value.size();
    if (!config::isHeaderName(h.name) || !config::isHeaderValue(h.value))
      return refuseForm(rule + ".headers",
                        fmt::format("the header '{}' cannot be sent on: its name or value has a "
                                    "character that is not allowed, or is too long",
                                    base::printable(h.name, 60)));
  }
  if (headers.size() > kHeadersMax || bytes > kHeaderBytesMax) {
    return refuse(
        {base::Code::invalidArgument,
         431,
         rule + ".headers",
         fmt::format("the request has more than {} headers, or more than {} bytes of them",
                     kHeadersMax, kHeaderBytesMax),
         {},
         0});
  }
  return base::Unit{};
}

// One request of one grant: each step checks a part and adds it to the call.
class HttpMatch {
 public:
  HttpMatch(const Grant& grant, const config::HttpRules& rules, const config::Auth* auth)
      : grant_(grant), rules_(rules), auth_(auth), rule_(grant.rule()) {}

  Decision<base::Unit> method(std::string_view method, HttpCall& call) const;
  Decision<base::Unit> target(std::string_view prefix, std::string_view target,
                              HttpCall& call) const;
  Decision<base::Unit> headers(const std::vector<Header>& headers, HttpCall& call) const;
  Decision<base::Unit> body(int64_t bytes) const;

 private:
  bool passes(const std::string& header) const;

  const Grant& grant_;
  const config::HttpRules& rules_;
  const config::Auth* auth_;  // null: none
  std::string rule_;
};

Decision<base::Unit> HttpMatch::method(std::string_view method, HttpCall& call) const {
  const auto& narrowed = grant_.narrowing.methods;
  if (!among(rules_.methods, method) || (!narrowed.empty() && !among(narrowed, method)))
    return refuseRule(
        rule_ + ".methods",
        fmt::format("the method '{}' is not allowed; allowed are {}", base::printable(method, 20),
                    fmt::join(narrowed.empty() ? rules_.methods : narrowed, ", ")));
  call.method = method;
  return base::Unit{};
}

Decision<base::Unit> HttpMatch::target(std::string_view prefix, std::string_view target,
                                       HttpCall& call) const {
  auto parsed = parseTarget(rule_, target,
                            rules_.encoded_slash ? EncodedSlash::allowed : EncodedSlash::refused);
  if (!parsed) return tl::unexpected<Refusal>(std::move(parsed).error());
  // An encoded slash is a border to one server and a letter to another: both must be allowed.
  for (const std::string* reading : {&parsed->plain, &parsed->letter})
    if (!matchesAnyPath(rules_.paths, *reading) ||
        (!grant_.narrowing.paths.empty() && !matchesAnyPath(grant_.narrowing.paths, *reading)))
      return refuseRule(rule_ + ".paths", fmt::format("the path '{}' is not allowed",
                                                      base::printable(parsed->path, 200)));
  if (auth_ != nullptr && auth_->kind == config::Auth::Kind::query)
    std::erase_if(parsed->query,
                  [&](const QueryPart& p) { return lowered(p.name) == lowered(auth_->name); });
  for (const QueryPart& part : parsed->query) {
    const bool allowed =
        std::any_of(rules_.query.begin(), rules_.query.end(), [&](const std::string& pattern) {
          if (pattern == config::kAnyone) return true;
          const size_t equals = pattern.find('=');
          return std::string_view(pattern).substr(0, equals) == part.name &&
                 // Some servers take ";" for another border between parameters.
                 part.value.value_or("").find(';') == std::string::npos &&
                 (equals == std::string::npos ||
                  matchesText(std::string_view(pattern).substr(equals + 1),
                              part.value.value_or("")));
        });
    if (!allowed)
      return refuseRule(rule_ + ".query", fmt::format("the parameter '{}' of the query is not "
                                                      "allowed, or not with this value",
                                                      base::printable(part.name, 60)));
  }
  call.path = std::string(prefix) + parsed->path;
  call.query = parsed->queryText();
  return base::Unit{};
}

bool HttpMatch::passes(const std::string& header) const {
  if (config::isDroppedHeader(header)) return false;
  if (auth_ != nullptr && auth_->kind == config::Auth::Kind::header && auth_->name == header)
    return false;
  for (const auto& [name, value] : rules_.set_headers)
    if (name == header) return false;
  return std::any_of(rules_.headers.begin(), rules_.headers.end(), [&](const std::string& pattern) {
    if (pattern.ends_with('*'))
      return header.starts_with(std::string_view(pattern).substr(0, pattern.size() - 1));
    return pattern == header;
  });
}

Decision<base::Unit> HttpMatch::headers(const std::vector<Header>& headers, HttpCall& call) const {
  if (auto form = checkHeaderForm(rule_, headers); !form) return form;
  const std::set<std::string> of_connection = connectionNames(headers);
  const config::HttpAction* http = grant_.http();
  const bool scrubs =
      http != nullptr && http->scrub && auth_ != nullptr && auth_->kind != config::Auth::Kind::none;
  call.headers.reserve(headers.size() + 1 + rules_.set_headers.size());
  for (const Header& h : headers) {
    std::string name = lowered(h.name);
    if (!passes(name) || of_connection.contains(name)) continue;
    // Only an answer that is not compressed can be scrubbed.
    if (scrubs && name == "accept-encoding") continue;
    call.headers.push_back({std::move(name), h.value});
  }
  if (scrubs) call.headers.push_back({"accept-encoding", "identity"});
  for (const auto& [name, value] : rules_.set_headers) call.headers.push_back({name, value});
  return base::Unit{};
}

Decision<base::Unit> HttpMatch::body(int64_t bytes) const {
  if (bytes < -1) return refuseForm(rule_ + ".request", "the body's length is negative");
  if (bytes <= 0 || static_cast<uint64_t>(bytes) <= rules_.request_bytes_max) return base::Unit{};
  return refuse(
      {base::Code::invalidArgument, 413, rule_ + ".request_max",
       fmt::format("the body has {} bytes; allowed are {}", bytes, rules_.request_bytes_max),
       kAskBroker, 0});
}

struct HostPort {
  std::string host;
  std::optional<uint16_t> port;
};

// "host", "host:port". An address in brackets is no host that egress knows.
std::optional<HostPort> parseAuthority(std::string_view text) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    const auto plain = config::parseEgressHost(text);
    if (!plain || text.starts_with('*')) return std::nullopt;
    return HostPort{plain->host, std::nullopt};
  }
  const auto with_port = config::parseEgressHost(text);
  if (!with_port || text.starts_with('*')) return std::nullopt;
  return HostPort{with_port->host, with_port->port};
}

bool covers(const config::EgressHost& rule, std::string_view host, uint16_t port) {
  if (rule.port != port) return false;
  if (!rule.host.starts_with("*.")) return rule.host == host;
  return host.size() > rule.host.size() - 1 &&
         host.ends_with(std::string_view(rule.host).substr(1));
}

bool covers(const Grant& grant, std::string_view host, uint16_t port) {
  auto fits = [&](const config::EgressHost& rule) { return covers(rule, host, port); };
  const auto& hosts = grant.egress()->hosts;
  const auto& narrowed = grant.narrowing.hosts;
  return std::any_of(hosts.begin(), hosts.end(), fits) &&
         (narrowed.empty() || std::any_of(narrowed.begin(), narrowed.end(), [&](const auto& text) {
            const auto rule = config::parseEgressHost(text);
            return rule && fits(*rule);
          }));
}

// The first grant of egress in this mode that has the host.
Decision<const Grant*> findEgress(const std::vector<Grant>& grants, std::string_view host,
                                  uint16_t port, bool config::EgressAction::*mode,
                                  std::string_view mode_name) {
  const Grant* other_mode = nullptr;
  for (const Grant& grant : grants) {
    if (grant.egress() == nullptr || !covers(grant, host, port)) continue;
    if (grant.egress()->*mode) return &grant;
    other_mode = &grant;
  }
  const std::string shown = fmt::format("{}:{}", base::printable(host, 100), port);
  if (other_mode != nullptr)
    return refuse({base::Code::permissionDenied, 403, other_mode->rule() + ".modes",
                   fmt::format("{} may be reached, but not by {}", shown, mode_name),
                   other_mode->egress()->upgrade
                       ? "Use http:// in the URL and HTTP_PROXY: the broker sends it as https."
                       : "Use https:// in the URL and HTTPS_PROXY.",
                   0});
  return refuse({base::Code::permissionDenied, 403, "egress",
                 fmt::format("this task may not reach {}", shown), kAskBroker, 0});
}

std::string portSuffix(bool tls, uint16_t port) {
  return port == (tls ? 443 : 80) ? std::string() : ":" + std::to_string(port);
}

}  // namespace

std::string HttpCall::authority() const {
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + portSuffix(tls, port);
}

std::string HttpCall::url() const {
  return (tls ? "https://" : "http://") + authority() + path + query;
}

Decision<HttpCall> decideHttp(const Grant& grant, const HttpAsk& ask) {
  const config::HttpAction& action = *grant.http();
  const HttpMatch match(grant, action.rules, &action.auth);
  HttpCall call;
  call.action = &action;
  call.rules = &action.rules;
  call.tls = action.upstream.tls;
  call.host = action.upstream.host;
  call.port = action.upstream.port;
  MAYFLY_DECIDE(match.method(ask.method, call));
  MAYFLY_DECIDE(match.target(action.upstream.prefix, ask.target, call));
  MAYFLY_DECIDE(match.headers(ask.headers, call));
  MAYFLY_DECIDE(match.body(ask.body_bytes));
  call.write = among(action.write, call.method);
  return call;
}

Decision<HttpCall> decideProxy(const std::vector<Grant>& grants, std::string_view authority,
                               const HttpAsk& ask) {
  const auto place = parseAuthority(authority);
  if (!place)
    return refuseForm(
        "egress",
        fmt::format("'{}' is no host that a proxy can serve", base::printable(authority, 100)),
        "A host is a name, not an address, and has no user.");
  for (const Header& h : ask.headers) {
    if (lowered(h.name) != "host") continue;
    const auto said = parseAuthority(h.value);
    if (!said || said->host != place->host || said->port.value_or(80) != place->port.value_or(80))
      return refuseForm("egress", "the Host header and the URL name different hosts");
  }
  // http://HOST/ means port 80, which stands for the https port here.
  const uint16_t port = place->port.value_or(80) == 80 ? 443 : *place->port;
  auto found =
      findEgress(grants, place->host, port, &config::EgressAction::upgrade, "upgraded http");
  if (!found) return tl::unexpected<Refusal>(std::move(found).error());
  const Grant& grant = **found;
  const config::EgressAction& action = *grant.egress();
  const HttpMatch match(grant, action.rules, nullptr);
  HttpCall call;
  call.action = &action;
  call.rules = &action.rules;
  call.host = place->host;
  call.port = port;
  MAYFLY_DECIDE(match.method(ask.method, call));
  MAYFLY_DECIDE(match.target("", ask.target, call));
  MAYFLY_DECIDE(match.headers(ask.headers, call));
  MAYFLY_DECIDE(match.body(ask.body_bytes));
  return call;
}

Decision<const Grant*> decideTunnel(const std::vector<Grant>& grants, std::string_view host,
                                    uint16_t port) {
  const auto name = parseAuthority(host);
  if (!name || name->port)
    return refuseForm(
        "egress", fmt::format("'{}' is no host that a proxy can serve", base::printable(host, 100)),
        "A host is a name, not an address.");
  return findEgress(grants, name->host, port, &config::EgressAction::connect, "CONNECT");
}

std::optional<HttpCall> decideRedirect(const Grant& grant, const HttpCall& before, uint16_t status,
                                       std::string_view location) {
  const config::HttpAction* action = grant.http();
  if (action == nullptr || action->redirects != config::Redirects::follow) return std::nullopt;
  if (status != 301 && status != 302 && status != 303 && status != 307 && status != 308)
    return std::nullopt;
  const bool body_free = before.method == "GET" || before.method == "HEAD";
  if ((status == 307 || status == 308) && !body_free) return std::nullopt;
  location = location.substr(0, location.find('#'));
  const std::string origin =
      fmt::format("{}://{}", before.tls ? "https" : "http", before.authority());
  if (location.starts_with(origin) &&
      (location.size() == origin.size() || location[origin.size()] == '/'))
    location.remove_prefix(origin.size());
  const std::string& prefix = action->upstream.prefix;
  if (!location.starts_with('/') || location.starts_with("//") || !location.starts_with(prefix))
    return std::nullopt;
  const HttpMatch match(grant, action->rules, &action->auth);
  HttpCall call = before;
  const std::string_view method = body_free ? std::string_view(before.method) : "GET";
  if (!match.method(method, call)) return std::nullopt;
  if (!match.target(prefix, location.substr(prefix.size()), call)) return std::nullopt;
  if (!body_free)
    std::erase_if(call.headers, [](const Header& h) { return h.name.starts_with("content-"); });
  return call;
}

Decision<std::vector<Header>> decideAnswer(const Grant& grant, const HttpCall& call,
                                           const std::vector<Header>& headers) {
  static const std::set<std::string_view> dropped = {
      "alt-svc", "clear-site-data", "authentication-info", "public-key-pins",
      "refresh", "set-cookie",      "set-cookie2",         "strict-transport-security"};
  const std::string rule = grant.rule();
  const config::HttpAction* http = grant.http();
  const bool scrubs = http != nullptr && http->scrub && http->auth.kind != config::Auth::Kind::none;
  const std::set<std::string> of_connection = connectionNames(headers);
  std::vector<Header> out;
  out.reserve(headers.size());
  size_t bytes = 0;
  for (const Header& h : headers) {
    std::string name = lowered(h.name);
    bytes += h.name.size() + h.value.size();
    if (!config::isHeaderName(name) || !config::isHeaderValue(h.value)) continue;
    if (scrubs && name == "content-encoding" && lowered(h.value) != "identity")
      return refuse({base::Code::unavailable, 502, rule + ".scrub",
                     "the upstream sent a compressed answer, in which no secret can be found",
                     "The operator can set scrub = false for this action.", 0});
    if (config::isFramingHeader(name) || dropped.contains(name) || of_connection.contains(name))
      continue;
    const bool is_location = name == "location";
    out.push_back({std::move(name), h.value});
    if (http == nullptr || !is_location) continue;
    const std::string base = fmt::format("{}://{}", call.tls ? "https" : "http", call.authority());
    std::string_view path = h.value;
    if (path.starts_with(base + "/")) path.remove_prefix(base.size());
    const std::string& prefix = http->upstream.prefix;
    if (path.starts_with(prefix + "/") && !path.starts_with("//"))
      out.back().value = fmt::format("/cap/{}{}", http->name, path.substr(prefix.size()));
  }
  if (headers.size() > kHeadersMax || bytes > kHeaderBytesMax)
    return refuse({base::Code::unavailable,
                   502,
                   rule + ".answer",
                   fmt::format("the upstream sent more than {} headers, or more than {} bytes",
                               kHeadersMax, kHeaderBytesMax),
                   {},
                   0});
  return out;
}

}  // namespace mayfly::broker
