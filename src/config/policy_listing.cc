// Layer: config. See policy_listing.h.
#include "config/policy_listing.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace mayfly::config {
namespace {

struct KeyMeaning {
  std::string_view key, text;
};
// A key of an action is named without its section, unless sections differ in its meaning.
constexpr KeyMeaning kPolicyMeanings[] = {
    {"bounds.sessions_max", "tasks with grants at a time"},
    {"bounds.calls_max", "calls in flight, of all tasks"},
    {"bounds.calls_per_user_max", "calls in flight, of all tasks of a user"},
    {"bounds.calls_per_task_max", "calls of one task in flight, of all its actions"},
    {"bounds.connections_per_task_max", "connections of one task to the broker"},
    {"bounds.held_max",
     "bytes of bodies that must be here before they are sent; a task leaves twice as much free as "
     "it holds, a user as much as all of his tasks hold"},
    {"bounds.minted_max", "live minted credentials of all tasks"},
    {"bounds.journal_keep", "how long the outcome of a write is kept after its task"},
    {"bounds.journal_max",
     "size of the journal; then the oldest answers go. When its records alone fill it, writes are "
     "refused"},
    {"secrets.NAME.file", "absolute path of a file with the secret; only its owner may read it"},
    {"secrets.NAME.credential", "name of a systemd credential of the service"},
    {"secrets.NAME.command", "a program and its arguments; its output is the secret"},
    {"secrets.NAME.refresh", "a command runs again after this time"},
    {"secrets.NAME.command_time", "the longest run of a command"},
    {"secrets.NAME.open",
     "no secret, such as a CA's certificate: everybody may read its file, and no credential uses "
     "it"},
    {"databases.NAME.dsn", "a secret with the whole connection string, instead of the keys below"},
    {"databases.NAME.host", "the server's name or address"},
    {"databases.NAME.port", "its port"},
    {"databases.NAME.database", "the database's name"},
    {"databases.NAME.user", "the user (role) of the database"},
    {"databases.NAME.password", "a secret: the user's password"},
    {"databases.NAME.ca", "a secret with the CA certificates (PEM) that the server must have"},
    {"databases.NAME.plaintext", "connect without TLS"},
    {"databases.NAME.allow_addresses",
     "addresses and networks that are allowed besides public ones"},
    {"databases.NAME.connections_max", "connections to the server"},
    {"databases.NAME.connect_time", "the longest wait for a connection"},
    {"introspection.listen",
     "ADDRESS:PORT where upstreams ask whether a minted credential is active"},
    {"introspection.secret", "a secret that the asking upstream shows as bearer token"},
    {"tools.request_max", "JSON of one call of a client's function"},
    {"tools.answer_max", "JSON of its answer"},
    {"tools.time", "the longest call"},
    {"tools.task.calls", "calls in a task's life, of all its tools"},
    {"tools.task.bytes", "JSON in both directions, in a task's life"},
    {"tools.task.calls_per_minute", "calls of a task in a minute"},
    {"tools.task.burst", "calls at once; 0: those of ten seconds"},
    {"tools.task.parallel", "calls of a task in flight"},
    {"description", "for people and models: what `GET /` of the broker says of the action"},
    {"tenants", "tenants that may use it; `*`: every one, also tasks without a tenant"},
    {"users", "numbers of users that may use it, besides root; `*`: every one"},
    {"task.calls", "calls in a task's life"},
    {"task.bytes", "bytes in both directions in a task's life"},
    {"task.calls_per_minute", "calls of a task in a minute"},
    {"task.burst", "calls of a task at once; 0: those of ten seconds"},
    {"task.parallel", "calls of a task in flight"},
    {"tenant.calls_per_minute", "calls of all tasks of a tenant in a minute"},
    {"tenant.burst", "the same at once; 0: those of ten seconds"},
    {"tenant.parallel", "calls of all tasks of a tenant in flight"},
    {"tenant.bytes_per_minute", "bytes of all tasks of a tenant in a minute"},
    {"all.calls_per_minute", "calls of all tasks in a minute"},
    {"all.burst", "the same at once; 0: those of ten seconds"},
    {"all.parallel", "calls of all tasks in flight"},
    {"all.bytes_per_minute", "bytes of all tasks in a minute"},
    {"env",
     "variables of the task; `{url}` is the action's own URL, `{broker}` the broker's. A variable "
     "can name no secret"},
    {"upstream", "the URL to which the task's path is added"},
    {"plaintext", "allow an `http://` upstream"},
    {"methods", "methods of requests"},
    {"paths", "patterns of paths: `*` any text without `/`, `**` any text"},
    {"encoded_slash",
     "a path may hold `%2F`; the path must then be allowed with `%2F` as a border and as a letter"},
    {"query", "parameters: `NAME`, `NAME=PATTERN`, or `*` for any; any other is refused"},
    {"headers", "headers that are passed on (`x-*`: all that begin so); others are dropped"},
    {"set_headers", "headers that are always sent, instead of the task's"},
    {"request_max", "a request's body"},
    {"response_max", "an answer's body"},
    {"connect_time", "the longest wait for a connection"},
    {"answer_time", "from the request's end to the answer's first byte"},
    {"idle_time", "between two bytes"},
    {"time", "of one call"},
    {"allow_addresses", "addresses and networks that are allowed besides public ones"},
    {"ca", "a secret with the CA certificates (PEM) that upstreams must have; nothing: the host's"},
    {"auth.kind", "where the credential stands"},
    {"auth.header", "`header`: the header's name"},
    {"auth.prefix", "`header`: text before the secret, such as `Bearer `"},
    {"auth.query", "`query`: the parameter's name"},
    {"auth.user", "`basic`: the user's name"},
    {"auth.user_secret", "`basic`: a secret instead of `user`"},
    {"auth.secret", "the secret: a token, password or secret access key"},
    {"auth.key_id", "`sigv4`: the access key's id"},
    {"auth.key_id_secret", "`sigv4`: a secret instead of `key_id`"},
    {"auth.session_secret", "`sigv4`: a secret with the session token"},
    {"auth.region", "`sigv4`: the region"},
    {"auth.service", "`sigv4`: the service, such as `s3`"},
    {"redirects",
     "`return`: the task gets the redirect; `follow`: followed within the rule, to the same "
     "origin"},
    {"redirects_max", "redirects that one call may follow"},
    {"scrub", "replace the secret's forms in answers"},
    {"write",
     "methods whose requests the journal records: a repeat by the same task gets the recorded "
     "outcome"},
    {"outcome_max", "bytes of a recorded answer's body; of a longer one, only status and headers"},
    {"database", "the name of one of `[databases]`"},
    {"statement", "one SQL statement with `$1` to `$n`"},
    {"params.name", "the parameter's name in the task's request; the first is `$1`"},
    {"params.type", "its type"},
    {"params.fixed", "always the task's tenant, user (number) or task (number)"},
    {"params.null", "the task may leave it out or give null"},
    {"params.min", "the least value (of each item)"},
    {"params.max", "the greatest value (of each item)"},
    {"params.bytes_max", "length of a text (of each item)"},
    {"params.values", "the only texts that are allowed"},
    {"params.items_max", "items of a list"},
    {"read_only", "run it in a read-only transaction; `false`: the journal records it"},
    {"rows_max", "rows of an answer"},
    {"bytes_max", "an answer's size"},
    {"format", "of the answer, if the task does not say"},
    {"audience", "for whom the credential is"},
    {"scope", "what it allows"},
    {"mint.NAME.time", "how long a credential is active, at most"},
    {"live_max", "active credentials of a task"},
    {"hosts", "`HOST`, `HOST:PORT` (443) or `*.HOST`: every name below"},
    {"modes",
     "`upgrade`: a proxied `http://` request is sent as https; `connect`: a tunnel, if the name in "
     "its TLS greeting is the host's"},
    {"egress.NAME.methods", "methods of upgraded requests"},
};

constexpr std::string_view kKinds[] = {"http", "sql", "mint", "egress"};

// "http.NAME.task.calls" -> {"http", "task.calls"}; of other keys, the first part is empty.
std::pair<std::string_view, std::string_view> splitKind(std::string_view key) {
  for (std::string_view kind : kKinds)
    if (key.starts_with(kind) && key.substr(kind.size()).starts_with(".NAME."))
      return {kind, key.substr(kind.size() + 6)};
  return {{}, key};
}

bool alike(const Setting& a, const Setting& b) {
  return splitKind(a.key).second == splitKind(b.key).second && a.type == b.type &&
         a.allowed == b.allowed && a.preset == b.preset &&
         policyMeaning(a.key) == policyMeaning(b.key);
}

}  // namespace

std::vector<Setting> policySettings() {
  std::vector<Setting> asked;
  (void)parsePolicyListing("", "defaults", &asked);
  return asked;
}

std::string_view policyMeaning(std::string_view key) {
  for (std::string_view wanted : {key, splitKind(key).second})
    for (const KeyMeaning& m : kPolicyMeanings)
      if (m.key == wanted) return m.text;
  return {};
}

std::string policyTable() {
  const std::vector<Setting> all = policySettings();
  std::string out = "| key | type | allowed | default | meaning |\n|---|---|---|---|---|\n";
  for (const Setting& s : all) {
    const auto [kind, rest] = splitKind(s.key);
    std::vector<std::string> sections;
    for (const Setting& other : all)
      if (!kind.empty() && alike(s, other)) sections.emplace_back(splitKind(other.key).first);
    if (!sections.empty() && sections.front() != kind) continue;  // it has its row
    std::string key = fmt::format("`{}`", s.key);
    if (sections.size() == std::size(kKinds))
      key = fmt::format("`KIND.NAME.{}`", rest);
    else if (sections.size() > 1)
      key = fmt::format("`{}.NAME.{}`", fmt::join(sections, "\\|"), rest);
    out += fmt::format("| {} | {} | {} | {} | {} |\n", key, s.type, s.allowed,
                       s.preset.empty() ? std::string() : fmt::format("`{}`", s.preset),
                       policyMeaning(s.key));
  }
  return out;
}

}  // namespace mayfly::config
