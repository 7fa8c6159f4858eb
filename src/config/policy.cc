// Layer: config. See policy.h.
#include "config/policy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/fd.h"
#include "base/text.h"
#include "config/policy_text.h"
#include "config/policy_listing.h"
#include "config/reader.h"

namespace mayfly::config {
namespace {

using Table = Reader::Table;

constexpr uint64_t kSizeMax = 1ull << 40, kTimeMsMax = 3'600'000, kCountMax = 1'000'000'000;
constexpr size_t kListMax = 128;
constexpr size_t kVariablesMax = 32;
constexpr size_t kTextBytesMax = 1'000;
constexpr size_t kParamsMax = 32;

// Headers that a request may carry if its action names none.
constexpr std::string_view kHeadersPreset[] = {
    "accept",     "accept-language",   "content-encoding", "content-type",
    "if-match",   "if-modified-since", "if-none-match",    "if-range",
    "user-agent", "idempotency-key",   "prefer",           "range"};

// The parser of one file: what its sections refer to is checked when all are read.
class PolicyReader {
 public:
  PolicyReader(std::string_view text, std::string_view file, std::vector<Setting>* asked)
      : reader_(text, file, asked) {}

  base::Result<Policy> all();
  base::Result<std::vector<SecretSource>> secretsOnly();

 private:
  SecretSource secret(const std::string& name, Table t);
  Database database(const std::string& name, Table t);
  void action(const std::string& name, Table& t, Action& out);
  void taskQuota(Table t, TaskQuota& out);
  void sharedQuota(Table t, SharedQuota& out);
  void environment(Table& t, Pairs& out);
  void upstream(Table& t, Upstream& out);
  void auth(Table t, Auth& out);
  void sigv4(Table& t, Auth& out);
  void matching(Table& t, HttpRules& out);
  void bounds(Table& t, HttpRules& out);
  void addresses(Table& t, std::vector<Network>& out);
  HttpAction http(const std::string& name, Table t);
  SqlAction sql(const std::string& name, Table t);
  SqlParam param(Table& t);
  MintAction mint(const std::string& name, Table t);
  EgressAction egress(const std::string& name, Table t);
  void tools(Table t, ToolBounds& out);
  void introspection(Table t, Introspection& out);
  void policyBounds(Table t, PolicyBounds& out);

  // A secret's name, which must be one of [secrets].
  void secretName(Table& t, std::string_view key, std::string& out, bool credential);
  void required(Table& t, std::string_view key) {
    if (t.present() && !t.has(key)) t.complain(key, "is missing");
  }
  void plain(Table& t, std::string_view key, std::string& out);  // printable, bounded

  Reader reader_;
  std::map<std::string, const SecretSource*, std::less<>> secrets_;
  std::set<std::string> names_;  // of actions
  Policy policy_;
};

void PolicyReader::plain(Table& t, std::string_view key, std::string& out) {
  t.string(key, out);
  if (out.size() > kTextBytesMax || !isPrintableText(out))
    t.complain(key, fmt::format("must be at most {} bytes of printable text", kTextBytesMax));
}

void PolicyReader::secretName(Table& t, std::string_view key, std::string& out, bool credential) {
  t.string(key, out);
  if (!t.has(key)) return;
  const auto at = secrets_.find(out);
  if (at == secrets_.end())
    return t.complain(key, fmt::format("names the secret '{}', which is none of [secrets]",
                                       base::printable(out, 60)));
  if (credential && at->second->open)
    t.complain(key, fmt::format("names '{}', which is open (open = true): no credential", out));
}

SecretSource PolicyReader::secret(const std::string& name, Table t) {
  SecretSource s;
  s.name = name;
  if (t.present() && !isActionName(name)) t.complain("", kNameRule);
  t.string("file", s.path);
  std::string credential;
  t.string("credential", credential);
  t.strings("command", 32, s.command);
  t.quantity("refresh", 1'000, 24 * kTimeMsMax, times(), s.refresh_ms);
  t.quantity("command_time", 100, 600'000, times(), s.time_ms_max);
  t.boolean("open", s.open);
  const int sources = t.has("file") + t.has("credential") + t.has("command");
  if (t.present() && sources != 1)
    t.complain("", "must have exactly one of file, credential, command");
  if (t.has("file") && !isAbsolutePath(s.path)) t.complain("file", "must be an absolute path");
  if (t.has("credential")) {
    s.from = SecretSource::From::credential;
    s.path = credential;
    if (!isCredentialName(credential))
      t.complain("credential", "must be the name of a credential of the service: no path");
  }
  if (t.has("command")) {
    s.from = SecretSource::From::command;
    if (s.command.empty() || !isAbsolutePath(s.command[0]))
      t.complain("command", "must begin with the absolute path of a program");
  }
  for (const char* key : {"refresh", "command_time"})
    if (t.has(key) && !t.has("command")) t.complain(key, "is for a command only");
  t.finish();
  return s;
}

void PolicyReader::addresses(Table& t, std::vector<Network>& out) {
  std::vector<std::string> texts;
  t.strings("allow_addresses", 64, texts);
  for (const std::string& text : texts) {
    const auto network = parseNetwork(text);
    if (!network) {
      return t.complain("allow_addresses",
                        fmt::format("holds '{}'; allowed are addresses and networks such as "
                                    "\"10.0.0.5\", \"10.1.0.0/16\" or \"fd00::/8\"",
                                    base::printable(text, 60)));
    }
    out.push_back(*network);
  }
}

Database PolicyReader::database(const std::string& name, Table t) {
  Database d;
  d.name = name;
  if (t.present() && !isActionName(name)) t.complain("", kNameRule);
  secretName(t, "dsn", d.dsn, true);
  t.string("host", d.host);
  t.count("port", 1, 65'535, d.port);
  plain(t, "database", d.database);
  plain(t, "user", d.user);
  secretName(t, "password", d.password, true);
  secretName(t, "ca", d.ca, false);
  t.boolean("plaintext", d.plaintext);
  addresses(t, d.allow_addresses);
  t.count("connections_max", 1, 256, d.connections_max);
  t.quantity("connect_time", 10, 600'000, times(), d.connect_ms_max);
  if (t.has("dsn")) {
    for (const char* key : {"host", "port", "database", "user", "password"})
      if (t.has(key)) t.complain(key, "cannot stand beside dsn, which has it");
  } else {
    for (const char* key : {"host", "database", "user"}) required(t, key);
    if (t.has("host") && !isHost(d.host)) t.complain("host", kHostRule);
  }
  t.finish();
  return d;
}

void PolicyReader::taskQuota(Table t, TaskQuota& q) {
  t.count("calls", 1, kCountMax, q.calls);
  t.quantity("bytes", 1, kSizeMax, sizes(), q.bytes);
  t.count("calls_per_minute", 1, kCountMax, q.calls_per_minute);
  t.count("burst", 0, kCountMax, q.burst);
  t.count("parallel", 1, 1'000, q.parallel);
  t.finish();
}

void PolicyReader::sharedQuota(Table t, SharedQuota& q) {
  t.count("calls_per_minute", 1, kCountMax, q.calls_per_minute);
  t.count("burst", 0, kCountMax, q.burst);
  t.count("parallel", 1, 10'000, q.parallel);
  t.quantity("bytes_per_minute", 1, kSizeMax, sizes(), q.bytes_per_minute);
  t.finish();
}

void PolicyReader::environment(Table& t, Pairs& out) {
  t.stringTable("env", kVariablesMax, out);
  for (const auto& [name, value] : out) {
    const std::string_view fault = faultOfVariable(name, value);
    if (!fault.empty())
      t.complain("env", fmt::format("sets '{}', which {}", base::printable(name, 60), fault));
  }
}

void PolicyReader::action(const std::string& name, Table& t, Action& a) {
  a.name = name;
  if (t.present()) {
    if (!isActionName(name)) t.complain("", kNameRule);
    if (!names_.insert(name).second)
      t.complain("", "has the name of an action of another kind; each name may be there once");
  }
  plain(t, "description", a.description);
  a.tenants = {std::string(kAnyone)};
  t.strings("tenants", kListMax, a.tenants);
  for (const std::string& tenant : a.tenants)
    if (tenant.empty() || tenant.size() > 128 || !isPrintableText(tenant))
      t.complain("tenants", "must hold names of tenants, or \"*\": all, also tasks without one");
  std::vector<Id> users;
  t.ids("users", 1'000, users);
  for (const Id& id : users) {
    if (const auto* number = std::get_if<uint32_t>(&id))
      a.users.push_back(*number);
    else if (std::get<std::string>(id) == kAnyone)
      a.every_user = true;
    else
      t.complain("users", "must hold numbers of users (see `id -u NAME`), or \"*\": every one");
  }
  taskQuota(t.table("task"), a.task);
  sharedQuota(t.table("tenant"), a.tenant);
  sharedQuota(t.table("all"), a.all);
  environment(t, a.env);
}

void PolicyReader::upstream(Table& t, Upstream& out) {
  std::string url;
  t.string("upstream", url);
  bool plaintext = false;
  t.boolean("plaintext", plaintext);
  required(t, "upstream");
  if (!t.has("upstream")) return;
  const auto parsed = parseUpstream(url);
  if (!parsed) {
    return t.complain("upstream",
                      "must be https://HOST[:PORT][/PATH], without user, query and fragment, such "
                      "as \"https://api.openai.com/v1\"");
  }
  out = *parsed;
  if (!out.tls && !plaintext)
    t.complain("upstream", "is http://, so all is sent in the clear: that needs plaintext = true");
  if (out.tls && plaintext) t.complain("plaintext", "is for an http:// upstream");
}

void PolicyReader::sigv4(Table& t, Auth& a) {
  plain(t, "key_id", a.user);
  secretName(t, "key_id_secret", a.user_secret, true);
  secretName(t, "session_secret", a.session_secret, true);
  plain(t, "region", a.region);
  plain(t, "service", a.service);
  if (a.kind != Auth::Kind::sigv4) return;
  if (t.has("key_id") == t.has("key_id_secret"))
    t.complain("", "of kind sigv4 must have one of key_id and key_id_secret");
  for (const char* key : {"region", "service"}) required(t, key);
  for (const auto& [key, value] : {std::pair{"region", a.region}, std::pair{"service", a.service}})
    if (t.has(key) && !isPlainWord(value)) t.complain(key, "must be letters, digits and '-'");
}

void PolicyReader::auth(Table t, Auth& a) {
  static constexpr std::string_view kinds[] = {"none", "header", "query", "basic", "sigv4"};
  t.word("kind", kinds, a.kind);
  if (t.present() && a.kind == Auth::Kind::none)
    t.complain("kind", "must be header, query, basic or sigv4");
  std::string header = "authorization", query, user;
  t.string("header", header);
  plain(t, "prefix", a.prefix);
  t.string("query", query);
  plain(t, "user", user);
  std::string user_secret;
  secretName(t, "user_secret", user_secret, true);
  secretName(t, "secret", a.secret, true);
  sigv4(t, a);
  if (t.present()) required(t, "secret");
  static constexpr struct {
    std::string_view key;
    Auth::Kind kind;
  } ofKind[] = {{"header", Auth::Kind::header},       {"prefix", Auth::Kind::header},
                {"query", Auth::Kind::query},         {"user", Auth::Kind::basic},
                {"user_secret", Auth::Kind::basic},   {"key_id", Auth::Kind::sigv4},
                {"key_id_secret", Auth::Kind::sigv4}, {"session_secret", Auth::Kind::sigv4},
                {"region", Auth::Kind::sigv4},        {"service", Auth::Kind::sigv4}};
  for (const auto& each : ofKind)
    if (t.has(each.key) && a.kind != each.kind)
      t.complain(each.key, fmt::format("is for kind {}", kinds[static_cast<size_t>(each.kind)]));
  if (a.kind == Auth::Kind::header) {
    a.name = lowered(header);
    if (!isHeaderName(a.name) || isFramingHeader(a.name) || isTrustHeader(a.name))
      t.complain("header", "must be the name of a header that a credential may be in");
  } else if (a.kind == Auth::Kind::query) {
    required(t, "query");
    a.name = query;
    if (t.has("query") && !isPlainWord(query))
      t.complain("query", "must be letters, digits, '-', '_' and '.'");
  } else if (a.kind == Auth::Kind::basic) {
    a.user = user, a.user_secret = user_secret;
    if (t.has("user") && t.has("user_secret"))
      t.complain("user", "cannot stand beside user_secret");
    if (a.user.find(':') != std::string::npos) t.complain("user", "must not hold ':'");
  }
  t.finish();
}

void PolicyReader::matching(Table& t, HttpRules& r) {
  t.strings("methods", 16, r.methods);
  if (r.methods.empty()) t.complain("methods", "must name at least one method");
  for (const std::string& m : r.methods)
    if (!isMethod(m))
      t.complain("methods", fmt::format("holds '{}'; allowed are capital letters, but neither "
                                        "CONNECT nor TRACE",
                                        base::printable(m, 30)));
  t.strings("paths", kListMax, r.paths);
  for (const std::string& p : r.paths)
    if (!isPathPattern(p))
      t.complain("paths", fmt::format("holds '{}', which is no pattern: {}", base::printable(p, 80),
                                      kPathPatternRule));
  t.boolean("encoded_slash", r.encoded_slash);
  t.strings("query", kListMax, r.query);
  for (const std::string& q : r.query)
    if (!isQueryPattern(q))
      t.complain("query", fmt::format("holds '{}'; allowed are NAME, NAME=PATTERN and \"*\"",
                                      base::printable(q, 80)));
  t.strings("headers", kListMax, r.headers);
  for (std::string& h : r.headers) {
    h = lowered(h);
    const std::string_view name =
        std::string_view(h).substr(0, h.size() - (h.ends_with('*') ? 1 : 0));
    if (!isHeaderName(name) || (name == h && isDroppedHeader(h)))
      t.complain("headers",
                 fmt::format("holds '{}', which no task may send", base::printable(h, 60)));
  }
  Pairs set;
  t.stringTable("set_headers", 32, set);
  for (auto& [name, value] : set) {
    if (!isHeaderName(name) || !isHeaderValue(value) || isFramingHeader(lowered(name)) ||
        isCredentialHeader(lowered(name)))
      t.complain("set_headers",
                 fmt::format("sets '{}', which cannot be set here", base::printable(name, 60)));
    r.set_headers.emplace_back(lowered(name), value);
  }
  std::sort(r.set_headers.begin(), r.set_headers.end());
}

void PolicyReader::bounds(Table& t, HttpRules& r) {
  t.quantity("request_max", 0, kSizeMax, sizes(), r.request_bytes_max);
  t.quantity("response_max", 1, kSizeMax, sizes(), r.response_bytes_max);
  t.quantity("connect_time", 10, 600'000, times(), r.connect_ms_max);
  t.quantity("answer_time", 10, kTimeMsMax, times(), r.answer_ms_max);
  t.quantity("idle_time", 10, kTimeMsMax, times(), r.idle_ms_max);
  t.quantity("time", 10, 24 * kTimeMsMax, times(), r.time_ms_max);
  addresses(t, r.allow_addresses);
  secretName(t, "ca", r.ca, false);
}

HttpAction PolicyReader::http(const std::string& name, Table t) {
  HttpAction a;
  action(name, t, a);
  upstream(t, a.upstream);
  a.rules.headers.assign(std::begin(kHeadersPreset), std::end(kHeadersPreset));
  matching(t, a.rules);
  required(t, "paths");
  if (t.has("paths") && a.rules.paths.empty()) t.complain("paths", "must name at least one path");
  bounds(t, a.rules);
  auth(t.table("auth"), a.auth);
  static constexpr std::string_view redirects[] = {"return", "follow"};
  t.word("redirects", redirects, a.redirects);
  t.count("redirects_max", 1, 20, a.redirects_max);
  t.boolean("scrub", a.scrub);
  t.strings("write", 16, a.write);
  for (const std::string& m : a.write)
    if (std::find(a.rules.methods.begin(), a.rules.methods.end(), m) == a.rules.methods.end())
      t.complain("write",
                 fmt::format("holds '{}', which is none of methods", base::printable(m, 30)));
  t.quantity("outcome_max", 0, 16u << 20, sizes(), a.outcome_bytes_max);
  if (a.upstream.tls == false && !a.rules.ca.empty()) t.complain("ca", "is for an https upstream");
  if (!a.write.empty() && a.redirects == Redirects::follow)
    t.complain("redirects", "must be return beside write: a followed redirect is a second request");
  t.finish();
  return a;
}

SqlParam PolicyReader::param(Table& t) {
  SqlParam p;
  static constexpr std::string_view types[] = {"boolean", "integer",  "number",
                                               "text",    "integers", "texts"};
  static constexpr std::string_view fixed[] = {"no", "tenant", "user", "task"};
  t.string("name", p.name);
  required(t, "name");
  if (t.has("name") && !isPlainWord(p.name))
    t.complain("name", "must be letters, digits, '-', '_'");
  t.word("type", types, p.type);
  required(t, "type");
  t.word("fixed", fixed, p.fixed);
  t.boolean("null", p.null);
  const bool whole = p.type == SqlParam::Type::integer || p.type == SqlParam::Type::integers;
  const bool list = p.type == SqlParam::Type::integers || p.type == SqlParam::Type::texts;
  const bool text = p.type == SqlParam::Type::text || p.type == SqlParam::Type::texts;
  if (whole) {
    t.integer("min", p.least), t.integer("max", p.most);
    if (p.least && p.most && *p.least > *p.most) t.complain("min", "is greater than max");
  } else {
    t.number("min", p.min), t.number("max", p.max);
    if (p.min && p.max && *p.min > *p.max) t.complain("min", "is greater than max");
    if (p.type != SqlParam::Type::number)
      for (const char* key : {"min", "max"})
        if (t.has(key)) t.complain(key, "is for integer, integers and number");
  }
  t.quantity("bytes_max", 0, 1u << 20, sizes(), p.bytes_max);
  t.strings("values", kListMax, p.values);
  for (const char* key : {"bytes_max", "values"})
    if (t.has(key) && !text) t.complain(key, "is for text and texts");
  t.count("items_max", 1, 10'000, p.items_max);
  if (t.has("items_max") && !list) t.complain("items_max", "is for integers and texts");
  if (p.fixed != SqlParam::Fixed::no) {
    for (const char* key : {"null", "min", "max", "bytes_max", "values", "items_max"})
      if (t.has(key)) t.complain(key, "cannot stand beside fixed: the task gives no value");
    const auto want =
        p.fixed == SqlParam::Fixed::tenant ? SqlParam::Type::text : SqlParam::Type::integer;
    if (p.type != want)
      t.complain("type", fmt::format("must be {} for this fixed value", name(want)));
  }
  t.finish();
  return p;
}

SqlAction PolicyReader::sql(const std::string& name, Table t) {
  SqlAction a;
  action(name, t, a);
  t.string("database", a.database);
  required(t, "database");
  if (t.has("database") && !policy_.findDatabase(a.database))
    t.complain("database", fmt::format("is '{}', which is none of [databases]",
                                       base::printable(a.database, 60)));
  t.string("statement", a.statement);
  required(t, "statement");
  for (Table& each : t.tables("params", kParamsMax)) {
    SqlParam p = param(each);
    for (const SqlParam& other : a.params)
      if (other.name == p.name) each.complain("name", "is there twice");
    a.params.push_back(std::move(p));
  }
  if (t.has("statement")) {
    const auto used = placeholdersOf(a.statement);
    if (!used || *used != a.params.size())
      t.complain("statement",
                 fmt::format("must use each of $1 to ${} for its {} params, and no other",
                             a.params.size(), a.params.size()));
  }
  t.boolean("read_only", a.read_only);
  t.count("rows_max", 1, 1'000'000, a.rows_max);
  t.quantity("bytes_max", 1, 1ull << 30, sizes(), a.bytes_max);
  t.quantity("time", 10, kTimeMsMax, times(), a.time_ms_max);
  static constexpr std::string_view formats[] = {"json", "csv"};
  t.word("format", formats, a.format);
  t.finish();
  return a;
}

MintAction PolicyReader::mint(const std::string& name, Table t) {
  MintAction a;
  action(name, t, a);
  plain(t, "audience", a.audience);
  required(t, "audience");
  plain(t, "scope", a.scope);
  required(t, "scope");
  t.quantity("time", 1'000, 3'600'000, times(), a.time_ms_max);
  t.count("live_max", 1, 1'000, a.live_max);
  if (t.present() && !policy_.introspection.listen)
    t.complain("", "needs [introspection]: without it nobody could check a credential");
  t.finish();
  return a;
}

EgressAction PolicyReader::egress(const std::string& name, Table t) {
  EgressAction a;
  action(name, t, a);
  std::vector<std::string> hosts, modes;
  t.strings("hosts", kListMax, hosts);
  required(t, "hosts");
  for (const std::string& text : hosts) {
    const auto host = parseEgressHost(text);
    if (!host) {
      t.complain("hosts", fmt::format("holds '{}'; allowed are HOST, HOST:PORT and *.HOST:PORT",
                                      base::printable(text, 80)));
      continue;
    }
    a.hosts.push_back(*host);
  }
  t.strings("modes", 2, modes);
  required(t, "modes");
  for (const auto& [key, list] : {std::pair{"hosts", &hosts}, std::pair{"modes", &modes}})
    if (t.has(key) && list->empty()) t.complain(key, "must not be empty");
  for (const std::string& mode : modes) {
    if (mode == "upgrade") a.upgrade = true;
    if (mode == "connect") a.connect = true;
    if (mode != "upgrade" && mode != "connect")
      t.complain("modes", "must hold \"upgrade\", \"connect\" or both");
  }
  a.rules.paths = {"/**"};
  a.rules.query = {"*"};
  a.rules.headers.assign(std::begin(kHeadersPreset), std::end(kHeadersPreset));
  a.rules.headers.push_back("accept-encoding");
  matching(t, a.rules);
  bounds(t, a.rules);
  t.finish();
  return a;
}

void PolicyReader::tools(Table t, ToolBounds& b) {
  t.quantity("request_max", 1, 64u << 20, sizes(), b.request_bytes_max);
  t.quantity("answer_max", 1, 64u << 20, sizes(), b.answer_bytes_max);
  t.quantity("time", 10, kTimeMsMax, times(), b.time_ms_max);
  taskQuota(t.table("task"), b.task);
  t.finish();
}

void PolicyReader::introspection(Table t, Introspection& out) {
  std::string listen;
  t.string("listen", listen);
  secretName(t, "secret", out.secret, true);
  required(t, "listen");
  required(t, "secret");
  if (t.has("listen")) {
    const auto place = parseListen(listen);
    if (!place)
      t.complain("listen",
                 "must be ADDRESS:PORT with a port of at least 1024, such as "
                 "\"127.0.0.1:8079\" or \"[::1]:8079\"");
    else
      std::tie(out.listen, out.port) = *place;
  }
  t.finish();
}

void PolicyReader::policyBounds(Table t, PolicyBounds& b) {
  t.count("sessions_max", 1, 100'000, b.sessions_max);
  t.count("calls_max", 1, 10'000, b.calls_max);
  t.count("calls_per_task_max", 1, 1'000, b.calls_per_task_max);
  t.count("connections_per_task_max", 1, 1'000, b.connections_per_task_max);
  t.quantity("held_max", 1u << 20, kSizeMax, sizes(), b.held_bytes_max);
  t.count("minted_max", 1, 1'000'000, b.minted_max);
  t.quantity("journal_keep", 1'000, 720 * kTimeMsMax, times(), b.journal_keep_ms);
  t.quantity("journal_max", 1u << 20, kSizeMax, sizes(), b.journal_bytes_max);
  t.finish();
}

base::Result<std::vector<SecretSource>> PolicyReader::secretsOnly() {
  std::vector<SecretSource> out;
  for (auto& [name, t] : reader_.root().named("secrets", kSecretsMax))
    out.push_back(secret(name, t));
  if (reader_.failed()) return tl::unexpected<base::Error>(reader_.takeError());
  return out;
}

base::Result<Policy> PolicyReader::all() {
  Table root = reader_.root();
  policyBounds(root.table("bounds"), policy_.bounds);
  for (auto& [name, t] : root.named("secrets", kSecretsMax))
    policy_.secrets.push_back(secret(name, t));
  for (const SecretSource& s : policy_.secrets) secrets_.emplace(s.name, &s);
  for (auto& [name, t] : root.named("databases", kActionsMax))
    policy_.databases.push_back(database(name, t));
  introspection(root.table("introspection"), policy_.introspection);
  for (auto& [name, t] : root.named("http", kActionsMax)) policy_.http.push_back(http(name, t));
  for (auto& [name, t] : root.named("sql", kActionsMax)) policy_.sql.push_back(sql(name, t));
  for (auto& [name, t] : root.named("mint", kActionsMax)) policy_.mint.push_back(mint(name, t));
  for (auto& [name, t] : root.named("egress", kActionsMax))
    policy_.egress.push_back(egress(name, t));
  tools(root.table("tools"), policy_.tools);
  root.finish();
  if (reader_.failed()) return tl::unexpected<base::Error>(reader_.takeError());
  return std::move(policy_);
}

template <class T>
const T* findNamed(const std::vector<T>& all, std::string_view name) {
  const auto at = std::lower_bound(all.begin(), all.end(), name,
                                   [](const T& each, std::string_view n) { return each.name < n; });
  return at != all.end() && at->name == name ? &*at : nullptr;
}

}  // namespace

std::vector<std::string> Auth::secrets() const {
  std::vector<std::string> out;
  for (const std::string* each : {&secret, &user_secret, &session_secret})
    if (!each->empty()) out.push_back(*each);
  return out;
}

std::string_view name(SqlParam::Type type) {
  switch (type) {
    case SqlParam::Type::boolean:
      return "boolean";
    case SqlParam::Type::integer:
      return "integer";
    case SqlParam::Type::number:
      return "number";
    case SqlParam::Type::text:
      return "text";
    case SqlParam::Type::integers:
      return "integers";
    case SqlParam::Type::texts:
      return "texts";
  }
  return {};
}

const HttpAction* Policy::findHttp(std::string_view n) const { return findNamed(http, n); }
const SqlAction* Policy::findSql(std::string_view n) const { return findNamed(sql, n); }
const MintAction* Policy::findMint(std::string_view n) const { return findNamed(mint, n); }
const EgressAction* Policy::findEgress(std::string_view n) const { return findNamed(egress, n); }
const Database* Policy::findDatabase(std::string_view n) const { return findNamed(databases, n); }
const Action* Policy::find(std::string_view n) const {
  if (const Action* found = findHttp(n)) return found;
  if (const Action* found = findSql(n)) return found;
  if (const Action* found = findMint(n)) return found;
  return findEgress(n);
}

base::Result<Policy> parsePolicy(std::string_view text, std::string_view file) {
  return parsePolicyListing(text, file, nullptr);
}

base::Result<Policy> parsePolicyListing(std::string_view text, std::string_view file,
                                        std::vector<Setting>* asked) {
  return PolicyReader(text, file, asked).all();
}

base::Result<std::vector<SecretSource>> parsePolicySecrets(std::string_view text,
                                                           std::string_view file) {
  return PolicyReader(text, file, nullptr).secretsOnly();
}

base::Result<Policy> loadPolicy(const std::string& path) {
  MAYFLY_TRY(std::string text,
             base::readSmallFile(base::FdView(AT_FDCWD), path, kPolicyFileBytesMax));
  return parsePolicy(text, path);
}

}  // namespace mayfly::config
