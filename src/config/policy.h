// The broker's policy: its secrets, and the actions that tasks may be granted. docs/broker.md has
// every key.
//
// Everything is denied unless an action allows it. Unknown keys are errors with file, line and key.
// Lists of actions, databases and secrets are sorted by name.
//
// Layer: config. Pure but for loadPolicy(), which reads one file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "config/network.h"
#include "config/settings.h"

namespace mayfly::config {

inline constexpr size_t kPolicyFileBytesMax = 512u << 10;
inline constexpr size_t kActionsMax = 256;  // of each kind
inline constexpr size_t kSecretsMax = 256;
inline constexpr size_t kSecretBytesMax = 64u << 10;
inline constexpr size_t kActionNameBytesMax = 32;
inline constexpr std::string_view kAnyone = "*";

using Pairs = std::vector<std::pair<std::string, std::string>>;

// Where the supervisor gets a secret from. A final line feed is no part of a secret.
struct SecretSource {
  enum class From : uint8_t { file, credential, command };
  std::string name;
  From from = From::file;
  std::string path;                  // file: absolute; credential: a name in systemd's folder
  std::vector<std::string> command;  // [0] is an absolute path
  uint64_t refresh_ms = 300'000;     // command: from one run to the next
  uint64_t time_ms_max = 10'000;     // command: of one run
  bool open = false;  // not secret (a CA's certificate): any mode will do; no credential uses it
};

// The bounds on one task's use of one action.
struct TaskQuota {
  uint64_t calls = 1'000;           // in the task's life
  uint64_t bytes = 1ull << 30;      // both directions, in the task's life
  uint32_t calls_per_minute = 600;  //
  uint32_t burst = 0;               // calls at once; 0: those of ten seconds, at least 1
  uint32_t parallel = 4;            // calls in flight
};
// The bounds on the use of one action by all tasks of one tenant, or by all tasks.
struct SharedQuota {
  uint32_t calls_per_minute = 6'000;
  uint32_t burst = 0;  // as above
  uint32_t parallel = 64;
  uint64_t bytes_per_minute = 4ull << 30;
};

// What actions of all kinds have.
struct Action {
  std::string name;
  std::string description;           // for people and models
  std::vector<std::string> tenants;  // "*": every one, tasks without a tenant too
  std::vector<uint32_t> users;       // besides root
  bool every_user = false;
  TaskQuota task;
  SharedQuota tenant, all;
  Pairs env;  // variables of the task; {url} and {broker} are placeholders; sorted
};

struct Upstream {
  bool tls = true;
  std::string host;  // lower case; an IPv6 address is without brackets
  uint16_t port = 443;
  std::string prefix;  // of every path: "" or "/v1"; without a final slash
};

struct Auth {
  enum class Kind : uint8_t { none, header, query, basic, sigv4 };
  Kind kind = Kind::none;
  std::string name;             // header: the header's name, lower case; query: the parameter's
  std::string prefix;           // header: before the secret: "Bearer "
  std::string user;             // basic: the user; sigv4: the access key's id
  std::string user_secret;      // the same, as a secret; empty: `user`
  std::string secret;           // the token, password or secret access key
  std::string session_secret;   // sigv4: the session token; empty: none
  std::string region, service;  // sigv4

  std::vector<std::string> secrets() const;  // the names of all of them
};

// How one request may look, and how long and large a call may be.
struct HttpRules {
  std::vector<std::string> methods = {"GET", "HEAD"};
  std::vector<std::string> paths;    // patterns: "*" within a segment, "**" across segments
  std::vector<std::string> query;    // "NAME" or "NAME=PATTERN"; "*": any. Empty: no query
  std::vector<std::string> headers;  // lower case; "x-*": all that begin so. Others are dropped
  Pairs set_headers;                 // always sent, instead of the task's; sorted, lower case
  bool encoded_slash = false;        // %2F may stand in a path
  uint64_t request_bytes_max = 16ull << 20;
  uint64_t response_bytes_max = 256ull << 20;
  uint64_t connect_ms_max = 10'000;
  uint64_t answer_ms_max = 120'000;      // from the request's end to the answer's first byte
  uint64_t idle_ms_max = 120'000;        // between two bytes
  uint64_t time_ms_max = 600'000;        // of the whole call
  std::vector<Network> allow_addresses;  // besides public ones
  std::string ca;  // the secret with the CA certificates (PEM); empty: the host's
};

enum class Redirects : uint8_t { giveBack, follow };

struct HttpAction : Action {
  Upstream upstream;
  HttpRules rules;
  Auth auth;
  Redirects redirects = Redirects::giveBack;
  uint32_t redirects_max = 5;
  bool scrub = true;                       // the secret's forms from answers
  std::vector<std::string> write;          // methods that the journal records, of rules.methods
  uint64_t outcome_bytes_max = 64u << 10;  // of an answer's body that the journal keeps
};

struct Database {
  std::string name;
  std::string dsn;  // a secret with a whole connection string; empty: the five below
  std::string host;
  uint16_t port = 5432;
  std::string database, user;
  std::string password;    // a secret; empty: none
  std::string ca;          // as in HttpRules
  bool plaintext = false;  // without TLS
  std::vector<Network> allow_addresses;
  uint32_t connections_max = 8;
  uint64_t connect_ms_max = 10'000;
};

struct SqlParam {
  enum class Type : uint8_t { boolean, integer, number, text, integers, texts };
  enum class Fixed : uint8_t { no, tenant, user, task };  // whose value it always has
  std::string name;
  Type type = Type::text;
  Fixed fixed = Fixed::no;
  bool null = false;                   // may be null or absent
  std::optional<double> min, max;      // number
  std::optional<int64_t> least, most;  // integer, each of integers (the keys min and max)
  uint64_t bytes_max = 1'000;          // text, each of texts
  uint32_t items_max = 100;            // integers, texts
  std::vector<std::string> values;     // text, each of texts: the only ones; empty: any
};
std::string_view name(SqlParam::Type type);

enum class SqlFormat : uint8_t { json, csv };

struct SqlAction : Action {
  std::string database;          // of [databases]
  std::string statement;         // with $1 to $n
  std::vector<SqlParam> params;  // $1 first
  bool read_only = true;
  uint64_t rows_max = 1'000;
  uint64_t bytes_max = 4ull << 20;  // of the answer
  uint64_t time_ms_max = 10'000;
  SqlFormat format = SqlFormat::json;  // if the task asks for none
};

struct MintAction : Action {
  std::string audience, scope;
  uint64_t time_ms_max = 300'000;  // of one credential
  uint32_t live_max = 8;           // credentials of one task
};

struct EgressHost {
  std::string host;  // lower case; "*.example.org": every name below, not example.org itself
  uint16_t port = 443;
};

struct EgressAction : Action {
  std::vector<EgressHost> hosts;
  bool upgrade = false;  // http://host/... by HTTP_PROXY, sent as https
  bool connect = false;  // CONNECT host:port
  HttpRules rules;       // of upgraded requests; connect: only sizes and times
};

struct ToolBounds {
  uint64_t request_bytes_max = 1u << 20;  // of JSON
  uint64_t answer_bytes_max = 4u << 20;
  uint64_t time_ms_max = 60'000;
  TaskQuota task;
};

// Upstreams ask here whether a minted credential is active.
struct Introspection {
  std::optional<Address> listen;  // nothing: no introspection, and no mint
  uint16_t port = 0;
  std::string secret;  // that the asking upstream shows as a bearer token
};

struct PolicyBounds {
  uint32_t sessions_max = 4'096;
  uint32_t calls_max = 512;          // in flight, of all tasks
  uint32_t calls_per_task_max = 16;  // in flight, of all actions
  uint32_t connections_per_task_max = 64;
  uint64_t held_bytes_max = 256ull << 20;  // bodies on their way, of all tasks
  uint32_t minted_max = 10'000;            // live credentials of all tasks
  uint64_t journal_keep_ms = 86'400'000;   // of an outcome after its task's end
  uint64_t journal_bytes_max = 1ull << 30;
};

struct Policy {
  PolicyBounds bounds;
  std::vector<SecretSource> secrets;
  std::vector<Database> databases;
  std::vector<HttpAction> http;
  std::vector<SqlAction> sql;
  std::vector<MintAction> mint;
  std::vector<EgressAction> egress;
  ToolBounds tools;
  Introspection introspection;

  // Each name is there once among all kinds. Null: no such action.
  const Action* find(std::string_view name) const;
  const HttpAction* findHttp(std::string_view name) const;
  const SqlAction* findSql(std::string_view name) const;
  const MintAction* findMint(std::string_view name) const;
  const EgressAction* findEgress(std::string_view name) const;
  const Database* findDatabase(std::string_view name) const;
};

bool isActionName(std::string_view name);  // [a-z][a-z0-9_-]{0,31}

// `file` is used in messages only.
base::Result<Policy> parsePolicy(std::string_view text, std::string_view file);
// Only its [secrets], all that the supervisor reads.
base::Result<std::vector<SecretSource>> parsePolicySecrets(std::string_view text,
                                                           std::string_view file);
base::Result<Policy> loadPolicy(const std::string& path);

std::vector<Setting> policySettings();
std::string_view policyMeaning(std::string_view key);
// The table of docs/broker.md.
std::string policyTable();

}  // namespace mayfly::config
