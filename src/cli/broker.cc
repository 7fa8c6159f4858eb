// Layer: cli. See broker.h.
#include "cli/broker.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <stdio.h>
#include <stdlib.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>

#include "base/text.h"
#include "broker/http_rules.h"
#include "broker/sql_params.h"
#include "cli/report.h"
#include "cli/words.h"
#include "config/policy.h"

namespace mayfly::cli {
namespace {

using base::Code;
using base::fail;
using broker::Grant;
using config::Policy;

constexpr const char* kBrokerAbout =
    "mayfly broker: the policy and the log of the broker, which holds the secrets outside of the "
    "boxes.\n\n"
    "  mayfly broker check POLICY                     read it; name the first mistake\n"
    "  mayfly broker try POLICY ACTION[:NARROWING]    what a task's request would become;\n"
    "                                                 nothing is sent, no secret is read\n"
    "  mayfly broker keys                             every key, as docs/broker.md has them\n"
    "  mayfly broker log [-f] [OPTIONS]               what was allowed, refused and failed\n";

// What is allowed, yet seldom meant.
std::vector<std::string> notesOf(const Policy& policy) {
  std::vector<std::string> out;
  auto who = [&](const char* kind, const config::Action& action) {
    if (action.users.empty() && !action.every_user)
      out.push_back(fmt::format("{}.{}.users is empty: only root may use it", kind, action.name));
  };
  for (const auto& a : policy.http) {
    who("http", a);
    if (!a.upstream.tls) out.push_back(fmt::format("http.{}: sent in the clear", a.name));
    if (!a.scrub) out.push_back(fmt::format("http.{}: answers are not scrubbed", a.name));
  }
  for (const auto& a : policy.sql) {
    who("sql", a);
    if (!a.read_only) out.push_back(fmt::format("sql.{}: may write", a.name));
  }
  for (const auto& a : policy.mint) who("mint", a);
  for (const auto& a : policy.egress) who("egress", a);
  for (const auto& d : policy.databases)
    if (d.plaintext) out.push_back(fmt::format("databases.{}: sent in the clear", d.name));
  return out;
}

std::string masked(const config::Auth& auth) {
  using Kind = config::Auth::Kind;
  const std::string secret = fmt::format("****** (secret '{}')", auth.secret);
  switch (auth.kind) {
    case Kind::none:
      return {};
    case Kind::header:
      return fmt::format("{}: {}{}\n", auth.name, auth.prefix, secret);
    case Kind::query:
      return fmt::format("query {}={}\n", auth.name, secret);
    case Kind::basic:
      return fmt::format("authorization: Basic {}:{}\n",
                         auth.user_secret.empty() ? auth.user : "******", secret);
    case Kind::sigv4:
      return fmt::format("signed by AWS SigV4 for {}/{} with {}\n", auth.region, auth.service,
                         secret);
  }
  return {};
}

base::Error refusalError(const broker::Refusal& refusal) {
  base::Error error = refusal.error();
  return std::move(error).in(fmt::format("refused by {} ({})", refusal.rule, refusal.http_status));
}

// "NAME: value" or "NAME=VALUE".
base::Result<std::vector<broker::Header>> splitPairs(const std::vector<std::string>& texts,
                                                     char border) {
  std::vector<broker::Header> out;
  for (const std::string& text : texts) {
    const size_t at = text.find(border);
    if (at == std::string::npos)
      return fail(Code::invalidArgument,
                  fmt::format("'{}' is not NAME{}VALUE", base::printable(text, 80), border));
    std::string value = text.substr(at + 1);
    if (border == ':' && value.starts_with(' ')) value.erase(0, 1);
    out.push_back({text.substr(0, at), value});
  }
  return out;
}

std::string requestText(const broker::HttpCall& call, const config::Auth* auth) {
  std::string out = fmt::format("{} {}\n", call.method, call.url());
  for (const auto& h : call.headers)
    out += fmt::format("{}: {}\n", h.name, base::printable(h.value));
  if (auth != nullptr) out += masked(*auth);
  if (call.write) out += "recorded in the journal before it is sent\n";
  return out;
}

base::Result<std::string> tryEgress(const Grant& grant, const BrokerArgs& args,
                                    const std::vector<broker::Header>& headers) {
  std::string_view rest = args.target;
  for (std::string_view scheme : {"http://", "https://"})
    if (rest.starts_with(scheme)) rest.remove_prefix(scheme.size());
  const size_t slash = std::min(rest.find('/'), rest.size());
  const std::string authority(rest.substr(0, slash));
  const std::string target = slash < rest.size() ? std::string(rest.substr(slash)) : "/";
  if (args.method == "CONNECT") {
    const size_t colon = authority.rfind(':');
    const long port =
        colon == std::string::npos ? 443 : ::strtol(&authority[colon + 1], nullptr, 10);
    auto allowed = broker::decideTunnel({grant}, authority.substr(0, colon),
                                        static_cast<uint16_t>(std::clamp(port, 0L, 65'535L)));
    if (!allowed) return fail(refusalError(allowed.error()));
    return fmt::format("a tunnel to {}, if the name in its TLS greeting is the same\n", authority);
  }
  auto call = broker::decideProxy({grant}, authority, {args.method, target, headers, 0});
  if (!call) return fail(refusalError(call.error()));
  return requestText(*call, nullptr);
}

base::Result<std::string> trySql(const Grant& grant, const BrokerArgs& args) {
  MAYFLY_TRY(auto pairs, splitPairs(args.params, '='));
  std::vector<std::pair<std::string, broker::ParamValue>> given;
  for (const auto& pair : pairs) given.emplace_back(pair.name, pair.value);
  auto bound = broker::checkParams(grant, {args.tenant, args.uid, 0}, given);
  if (!bound) return fail(refusalError(bound.error()));
  const config::SqlAction& sql = *grant.sql();
  std::string out = fmt::format("{}\n", base::printable(sql.statement, 4'000));
  for (size_t i = 0; i < bound->size(); ++i)
    out += fmt::format("${} {} = {}\n", i + 1, sql.params[i].name,
                       (*bound)[i] ? base::printable(*(*bound)[i]) : "NULL");
  return out + (sql.read_only ? "in a read-only transaction\n" : "recorded in the journal\n");
}

std::optional<std::string> wrongCount(const BrokerArgs& args) {
  const bool needs_policy = args.verb == "check" || args.verb == "try",
             needs_action = args.verb == "try";
  if (needs_policy && args.policy.empty()) return "name the policy's file";
  if (needs_action && args.action.empty()) return "name the action";
  return std::nullopt;
}

}  // namespace

base::Result<std::string> brokerCheck(const BrokerArgs& args) {
  MAYFLY_TRY(const Policy policy, config::loadPolicy(args.policy));
  const size_t actions =
      policy.http.size() + policy.sql.size() + policy.mint.size() + policy.egress.size();
  const std::vector<std::string> notes = notesOf(policy);
  if (args.json) {
    const nlohmann::ordered_json json{{"ok", true},
                                      {"secrets", policy.secrets.size()},
                                      {"databases", policy.databases.size()},
                                      {"actions", actions},
                                      {"notes", notes}};
    return json.dump(2) + "\n";
  }
  std::string out = fmt::format("ok: {} actions, {} secrets, {} databases\n", actions,
                                policy.secrets.size(), policy.databases.size());
  for (const std::string& note : notes) out += "  " + note + "\n";
  return out;
}

base::Result<std::string> brokerTry(const BrokerArgs& args) {
  MAYFLY_TRY(Policy policy, config::loadPolicy(args.policy));
  MAYFLY_TRY(const Grant grant,
             broker::makeGrant(std::make_shared<const Policy>(std::move(policy)),
                               {args.uid, args.tenant}, args.action, args.narrowing));
  MAYFLY_TRY(auto headers, splitPairs(args.headers, ':'));
  if (const auto* http = grant.http()) {
    auto call = broker::decideHttp(grant, {args.method, args.target, headers, 0});
    if (!call) return fail(refusalError(call.error()));
    return requestText(*call, &http->auth);
  }
  if (grant.egress() != nullptr) return tryEgress(grant, args, headers);
  if (grant.sql() != nullptr) return trySql(grant, args);
  const config::MintAction& mint = *grant.mint();
  return fmt::format("a credential for the audience '{}' with the scope '{}', active for {} ms\n",
                     mint.audience, mint.scope, grant.narrowing.time_ms.value_or(mint.time_ms_max));
}

std::variant<BrokerArgs, BrokerText> parseBroker(const std::vector<std::string>& args) {
  BrokerArgs out;
  CLI::App app("Reads the broker's policy and its log", "mayfly broker");
  app.require_subcommand(1);
  auto* check = app.add_subcommand("check", "Read a policy and name its first mistake");
  auto* attempt = app.add_subcommand("try", "Show what a task's request would become");
  app.add_subcommand("keys", "Print every key of a policy");
  addLogOptions(*app.add_subcommand("log", "Show the broker's decisions"), out.log);
  for (auto* each : {check, attempt})
    each->add_option("POLICY", out.policy, "The policy's file (TOML)")->type_name("");
  check->add_flag("--json", out.json, "Print JSON");
  attempt->add_option("ACTION", out.action, "NAME[:NARROWING], as in `mayfly run --grant`")
      ->type_name("");
  attempt->add_option("TARGET", out.target, "A path behind the action's URL; egress: a URL [/]")
      ->type_name("");
  attempt->add_option("--method", out.method, "The method; CONNECT: a tunnel [GET]")
      ->type_name("NAME");
  for (const auto& [flag, to, about] :
       {std::tuple{"--header", &out.headers, "A header, NAME: VALUE; repeatable"},
        std::tuple{"--param", &out.params, "A statement's parameter, NAME=VALUE; repeatable"}})
    attempt->add_option(flag, *to, about)->type_name("TEXT")->allow_extra_args(false);
  attempt->add_option("--tenant", out.tenant, "The task's tenant")->type_name("NAME");
  attempt->add_option("--uid", out.uid, "The submitting user's number [0]")->type_name("N");
  std::vector<std::string> words(args.rbegin(), args.rend());
  try {
    app.parse(words);
  } catch (const CLI::CallForHelp&) {
    const auto parsed = app.get_subcommands();
    if (parsed.empty()) return BrokerText{kBrokerAbout, 0};
    std::string help = parsed[0]->help();
    // CLI11 of Debian 12 names only the verb.
    if (const size_t at = help.find("Usage: "); at != std::string::npos)
      help.insert(at + 7, "mayfly broker ");
    return BrokerText{std::move(help), 0};
  } catch (const CLI::ParseError& e) {
    return BrokerText{fmt::format("mayfly: {}\n{}", whyWrong(app, e), kBrokerAbout), 2};
  }
  out.verb = app.get_subcommands()[0]->get_name();
  if (const auto wrong = wrongCount(out))
    return BrokerText{fmt::format("mayfly: {}\n{}", *wrong, kBrokerAbout), 2};
  if (const size_t colon = out.action.find(':'); colon != std::string::npos) {
    out.narrowing = out.action.substr(colon + 1);
    out.action.resize(colon);
  }
  return out;
}

int brokerMain(const std::vector<std::string>& args) {
  auto parsed = parseBroker(args);
  if (auto* it = std::get_if<BrokerText>(&parsed)) {
    fmt::print(it->code == 0 ? stdout : stderr, "{}", it->text);
    return it->code;
  }
  const BrokerArgs& wanted = std::get<BrokerArgs>(parsed);
  if (wanted.verb == "log") return brokerLog(wanted.log);
  auto text = wanted.verb == "keys"    ? base::Result<std::string>(config::policyTable())
              : wanted.verb == "check" ? brokerCheck(wanted)
                                       : brokerTry(wanted);
  if (!text) {
    fmt::print(stderr, "{}", errorText(text.error()));
    return 1;
  }
  fmt::print("{}", *text);
  return 0;
}

}  // namespace mayfly::cli
