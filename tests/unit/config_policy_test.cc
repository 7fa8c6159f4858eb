// The broker's policy: what the parser accepts, and how precisely it refuses.
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "config/policy.h"
#include "config/policy_text.h"

namespace mayfly::config {
namespace {

// One action of each kind.
const std::string kPolicy = R"([secrets.openai]
file = "/etc/mayfly/openai"
[secrets.db]
command = ["/usr/bin/pass", "db"]
[secrets.ca]
credential = "ca.pem"
open = true
[databases.main]
host = "db.example.org"
database = "shop"
user = "reader"
password = "db"
[introspection]
listen = "127.0.0.1:8079"
secret = "db"
[http.openai]
upstream = "https://API.OpenAI.com/v1/"
paths = ["/chat/completions", "/models/*"]
methods = ["GET", "POST"]
write = ["POST"]
users = [1000, 1001]
[http.openai.auth]
kind = "header"
prefix = "Bearer "
secret = "openai"
[http.openai.env]
OPENAI_BASE_URL = "{url}"
OPENAI_API_KEY = "held by the broker"
[sql.orders]
database = "main"
statement = "select * from orders where id = $1 and tenant = $2"
users = ["*"]
[[sql.orders.params]]
name = "id"
type = "integer"
min = 1
[[sql.orders.params]]
name = "tenant"
type = "text"
fixed = "tenant"
[mint.upload]
audience = "files.example.org"
scope = "put"
time = "2m"
[egress.pypi]
hosts = ["pypi.org", "*.pythonhosted.org:8443"]
modes = ["upgrade"]
)";

std::string errorOf(const std::string& text) {
  auto policy = parsePolicy(text, "p.toml");
  return policy ? "(no error)" : policy.error().message;
}
std::string replaced(const std::string& from, const std::string& to) {
  std::string text = kPolicy;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Policy, OneActionOfEachKindIsReadWithItsDefaults) {
  auto policy = parsePolicy(kPolicy, "p.toml");
  ASSERT_TRUE(policy) << policy.error().message;
  const HttpAction* http = policy->findHttp("openai");
  ASSERT_NE(http, nullptr);
  EXPECT_EQ(http->upstream.host, "api.openai.com");
  EXPECT_EQ(http->upstream.prefix, "/v1");
  EXPECT_EQ(http->upstream.port, 443);
  EXPECT_EQ(http->auth.name, "authorization");
  EXPECT_EQ(http->auth.secrets(), std::vector<std::string>{"openai"});
  EXPECT_EQ(http->users, (std::vector<uint32_t>{1000, 1001}));
  EXPECT_FALSE(http->every_user);
  EXPECT_TRUE(http->scrub);
  EXPECT_EQ(http->redirects, Redirects::giveBack);
  EXPECT_TRUE(http->rules.query.empty()) << "no query unless it is named";
  EXPECT_EQ(http->env.size(), 2u);
  const SqlAction* sql = policy->findSql("orders");
  ASSERT_NE(sql, nullptr);
  EXPECT_TRUE(sql->read_only);
  EXPECT_TRUE(sql->every_user);
  ASSERT_EQ(sql->params.size(), 2u);
  EXPECT_EQ(sql->params[0].least, 1);
  EXPECT_EQ(sql->params[1].fixed, SqlParam::Fixed::tenant);
  EXPECT_EQ(policy->findDatabase("main")->port, 5432);
  EXPECT_EQ(policy->findMint("upload")->time_ms_max, 120'000u);
  const EgressAction* egress = policy->findEgress("pypi");
  ASSERT_NE(egress, nullptr);
  EXPECT_TRUE(egress->upgrade);
  EXPECT_FALSE(egress->connect);
  EXPECT_EQ(egress->hosts[1].port, 8443);
  EXPECT_EQ(policy->find("orders"), sql);
  EXPECT_EQ(policy->find("db"), nullptr) << "a secret is no action";
  EXPECT_EQ(policy->secrets.size(), 3u);
}

TEST(Policy, AnEmptyFileAllowsNothing) {
  auto policy = parsePolicy("", "p.toml");
  ASSERT_TRUE(policy);
  EXPECT_TRUE(policy->http.empty() && policy->sql.empty() && policy->mint.empty() &&
              policy->egress.empty());
}

TEST(Policy, AnActionWithoutUsersIsForRootOnly) {
  auto policy = parsePolicy(replaced("users = [1000, 1001]\n", ""), "p.toml");
  ASSERT_TRUE(policy);
  EXPECT_TRUE(policy->findHttp("openai")->users.empty());
  EXPECT_FALSE(policy->findHttp("openai")->every_user);
}

TEST(Policy, TheSupervisorReadsOnlyTheSecrets) {
  auto secrets = parsePolicySecrets(kPolicy + "[http.broken]\nnonsense = 1\n", "p.toml");
  ASSERT_TRUE(secrets) << secrets.error().message;
  ASSERT_EQ(secrets->size(), 3u);
  EXPECT_EQ((*secrets)[0].from, SecretSource::From::credential);
  EXPECT_EQ((*secrets)[1].from, SecretSource::From::command);
  EXPECT_EQ((*secrets)[2].path, "/etc/mayfly/openai");
  EXPECT_FALSE(parsePolicySecrets("[secrets.x]\nfile = 'relative'\n", "p.toml"));
}

struct Wrong {
  const char *from, *to;  // in kPolicy
  const char* error;      // a part of it
};

TEST(Policy, EveryMistakeIsNamedWithLineAndKey) {
  const Wrong all[] = {
      {"[http.openai]", "[http.openai]\nmethod = 1", "p.toml:17: unknown key 'http.openai.method'"},
      {"users = [1000, 1001]", "users = ['alice']", "'http.openai.users' must hold numbers"},
      {"users = [1000, 1001]", "tenants = ['']", "'http.openai.tenants' must hold names"},
      {"upstream = \"https", "upstream = \"http", "needs plaintext = true"},
      {"upstream = \"https", "upstream = \"ftp", "'http.openai.upstream' must be https://"},
      {"https://API.OpenAI.com/v1/", "https://u:p@x.org/", "without user"},
      {"https://API.OpenAI.com/v1/", "https://x.org/a/../b", "must be https://"},
      {"https://API.OpenAI.com/v1/", "https://127.1/", "must be https://"},
      {"https://API.OpenAI.com/v1/", "https://x.org:0/", "must be https://"},
      {"https://API.OpenAI.com/v1/", "https://x.org/?q=1", "must be https://"},
      {"upstream = \"https://API.OpenAI.com/v1/\"\n", "", "'http.openai.upstream' is missing"},
      {"upstream =", "plaintext = true\nupstream =", "is for an http:// upstream"},
      {"paths = [\"/chat/completions\", \"/models/*\"]\n", "", "'http.openai.paths' is missing"},
      {"[\"/chat/completions\", \"/models/*\"]", "[]", "at least one path"},
      {"\"/models/*\"", "\"models\"", "holds 'models', which is no pattern"},
      {"\"/models/*\"", "\"/a/../b\"", "which is no pattern"},
      {"\"/models/*\"", "\"/a//b\"", "which is no pattern"},
      {"\"/models/*\"", "\"/a%2fb\"", "which is no pattern"},
      {"\"/models/*\"", "\"/***\"", "which is no pattern"},
      {"[\"GET\", \"POST\"]", "[\"get\"]", "holds 'get'; allowed are capital letters"},
      {"[\"GET\", \"POST\"]", "[\"CONNECT\"]", "neither CONNECT nor TRACE"},
      {"[\"GET\", \"POST\"]", "[]", "at least one method"},
      {"write = [\"POST\"]", "write = [\"PUT\"]", "holds 'PUT', which is none of methods"},
      {"write = [\"POST\"]", "write = [\"POST\"]\nredirects = 'follow'", "must be return beside"},
      {"write = [\"POST\"]", "redirects = 'maybe'", "must be one of return, follow"},
      {"write = [\"POST\"]", "headers = ['Authorization']", "which no task may send"},
      {"write = [\"POST\"]", "headers = ['x-http-method-override']", "which no task may send"},
      {"write = [\"POST\"]", "headers = ['x_forwarded_for']", "which no task may send"},
      {"write = [\"POST\"]", "headers = ['a b']", "which no task may send"},
      {"write = [\"POST\"]", "set_headers = {host = 'x'}", "cannot be set here"},
      {"write = [\"POST\"]", "set_headers = {authorization = 'x'}", "cannot be set here"},
      {"write = [\"POST\"]", "set_headers = {x = \"a\\r\\nb\"}", "cannot be set here"},
      {"write = [\"POST\"]", "query = ['a&b']", "allowed are NAME, NAME=PATTERN"},
      {"write = [\"POST\"]", "query = ['=x']", "allowed are NAME, NAME=PATTERN"},
      {"write = [\"POST\"]", "allow_addresses = ['10.0.0.1/8']", "holds '10.0.0.1/8'"},
      {"write = [\"POST\"]", "allow_addresses = ['localhost']", "holds 'localhost'"},
      {"write = [\"POST\"]", "ca = 'none'", "names the secret 'none', which is none of"},
      {"write = [\"POST\"]", "request_max = '2TiB'", "allowed are 0 to 1TiB"},
      {"write = [\"POST\"]", "time = '5ms'", "allowed are 10ms to"},
      {"write = [\"POST\"]", "task = {calls = 0}", "'http.openai.task.calls' must be a whole"},
      {"write = [\"POST\"]", "task = {call = 1}", "unknown key 'http.openai.task.call'"},
      {"write = [\"POST\"]", "tenant = {calls = 1}", "unknown key 'http.openai.tenant.calls'"},
      {"write = [\"POST\"]", "description = \"a\\u0007\"", "printable text"},
      {"kind = \"header\"", "kind = \"cookie\"", "must be one of none, header, query"},
      {"kind = \"header\"\n", "", "must be header, query, basic or sigv4"},
      {"kind = \"header\"", "kind = \"basic\"", "'http.openai.auth.prefix' is for kind header"},
      {"kind = \"header\"", "kind = \"header\"\nregion = 'x'", "is for kind sigv4"},
      {"kind = \"header\"", "kind = \"header\"\nheader = 'Host'", "that a credential may be in"},
      {"secret = \"openai\"", "secret = \"ca\"", "names 'ca', which is open"},
      {"secret = \"openai\"", "secret = \"opena\"", "names the secret 'opena'"},
      {"secret = \"openai\"\n", "", "'http.openai.auth.secret' is missing"},
      {"{url}", "{secret}", "sets 'OPENAI_BASE_URL', which may hold {url} and {broker}"},
      {"{url}", "{url", "and no other brace"},
      {"OPENAI_BASE_URL", "LD_PRELOAD", "the loader's own"},
      {"OPENAI_BASE_URL", "MAYFLY_BROKER", "is Mayfly's"},
      {"OPENAI_BASE_URL", "\"A B\"", "is no variable's name"},
      {"file = \"/etc/mayfly/openai\"", "file = \"openai\"", "'secrets.openai.file' must be an"},
      {"file = \"/etc/mayfly/openai\"", "file = \"/a/../b\"", "must be an absolute path"},
      {"file = \"/etc/mayfly/openai\"", "", "must have exactly one of file, credential, command"},
      {"file = \"/etc/mayfly/openai\"", "file = \"/a\"\ncredential = \"b\"", "exactly one of"},
      {"file = \"/etc/mayfly/openai\"", "file = \"/a\"\nrefresh = \"1m\"", "is for a command only"},
      {"credential = \"ca.pem\"", "credential = \"a/b\"", "no path"},
      {"[\"/usr/bin/pass\", \"db\"]", "[\"pass\"]", "absolute path of a program"},
      {"[secrets.openai]", "[secrets.\"a b\"]", "is no name"},
      {"[secrets.openai]", "secrets = 1\n[x]", "not valid TOML"},
      {"host = \"db.example.org\"", "host = \"a:b\"", "'databases.main.host' must be a host's"},
      {"host = \"db.example.org\"\n", "", "'databases.main.host' is missing"},
      {"host = \"db.example.org\"", "dsn = \"db\"", "cannot stand beside dsn"},
      {"database = \"main\"", "database = \"other\"", "is 'other', which is none of [databases]"},
      {"id = $1 and", "id = $3 and", "must use each of $1 to $2"},
      {"id = $1 and tenant = $2", "true", "must use each of $1 to $2"},
      {"id = $1 and", "id = '$1' and", "must use each of $1 to $2"},
      {"type = \"integer\"", "type = \"int\"", "must be one of boolean, integer, number"},
      {"min = 1", "min = 5\nmax = 2", "is greater than max"},
      {"min = 1", "min = 1.5", "must be a whole number"},
      {"min = 1", "values = ['a']", "is for text and texts"},
      {"min = 1", "items_max = 5", "is for integers and texts"},
      {"name = \"id\"", "name = \"tenant\"", "'sql.orders.params.name' is there twice"},
      {"fixed = \"tenant\"", "fixed = \"tenant\"\nvalues = ['a']", "cannot stand beside fixed"},
      {"fixed = \"tenant\"", "fixed = \"user\"", "must be integer for this fixed value"},
      {"time = \"2m\"", "time = \"2h\"", "'mint.upload.time' is 2h; allowed are"},
      {"[introspection]\nlisten = \"127.0.0.1:8079\"\nsecret = \"db\"\n", "",
       "'mint.upload' needs [introspection]"},
      {"127.0.0.1:8079", "127.0.0.1:79", "with a port of at least 1024"},
      {"modes = [\"upgrade\"]", "modes = [\"plain\"]", "must hold \"upgrade\", \"connect\""},
      {"modes = [\"upgrade\"]", "modes = []", "'egress.pypi.modes' must not be empty"},
      {"modes = [\"upgrade\"]\n", "", "'egress.pypi.modes' is missing"},
      {"\"pypi.org\"", "\"*.org\"", "holds '*.org'; allowed are HOST"},
      {"\"pypi.org\"", "\"10.0.0.1\"", "holds '10.0.0.1'"},
      {"\"pypi.org\"", "\"https://pypi.org\"", "allowed are HOST"},
      {"[egress.pypi]", "[egress.openai]", "has the name of an action of another kind"},
      {"[egress.pypi]", "[egress.PyPI]", "is no name: lower-case letters"},
      {"[egress.pypi]", "[bounds]\ncalls = 1\n[egress.pypi]", "unknown key 'bounds.calls'"},
      {"[egress.pypi]", "[tools]\ntime = 1\n[egress.pypi]", "'tools.time' is wrong"},
      {"[egress.pypi]", "[other]\n[egress.pypi]", "unknown key 'other'; allowed here: bounds, sec"},
      {"[egress.pypi]", "[egress.pypi", "not valid TOML"},
  };
  for (const Wrong& each : all) {
    const std::string error = errorOf(replaced(each.from, each.to));
    EXPECT_NE(error.find(each.error), std::string::npos)
        << each.from << " -> " << each.to << "\n  expected: " << each.error << "\n  got: " << error;
    EXPECT_TRUE(error.starts_with("p.toml:")) << error;
  }
}

TEST(Policy, EachKindOfCredentialIsRead) {
  auto authOf = [](const std::string& lines) {
    auto policy = parsePolicy(
        replaced("kind = \"header\"\nprefix = \"Bearer \"\nsecret = \"openai\"", lines), "p.toml");
    EXPECT_TRUE(policy) << lines << ": " << policy.error().message;
    return policy ? policy->findHttp("openai")->auth : Auth{};
  };
  EXPECT_EQ(authOf("kind='header'\nheader='X-Api-Key'\nsecret='db'").name, "x-api-key");
  EXPECT_EQ(authOf("kind='query'\nquery='key'\nsecret='db'").name, "key");
  EXPECT_EQ(authOf("kind='basic'\nuser='u'\nsecret='db'").user, "u");
  EXPECT_EQ(authOf("kind='basic'\nuser_secret='openai'\nsecret='db'").secrets().size(), 2u);
  const Auth aws =
      authOf("kind='sigv4'\nkey_id='AKIA'\nregion='eu-west-1'\nservice='s3'\nsecret='db'");
  EXPECT_EQ(aws.user, "AKIA");
  EXPECT_EQ(aws.service, "s3");
}

TEST(Policy, PlaceholdersAreCountedOutsideOfStringsAndComments) {
  EXPECT_EQ(placeholdersOf("select 1"), 0u);
  EXPECT_EQ(placeholdersOf("select $1::int, $2, $1"), 2u);
  EXPECT_EQ(placeholdersOf("select '$3', \"$4\" -- $5\n, $1 /* $2 */"), 1u);
  EXPECT_EQ(placeholdersOf("select E'\\'$2', $1"), 1u);
  EXPECT_EQ(placeholdersOf("select $$ $2 $$, $x$ $3 $x$, $1"), 1u);
  for (const char* wrong : {"$2", "$0", "$100", "$a", "$$", "/* $1", "$99999999999999999999"})
    EXPECT_FALSE(placeholdersOf(wrong)) << wrong;
}

TEST(Network, AddressesAreReadInTheirUsualSpellingOnly) {
  for (const char* good : {"10.0.0.5", "::1", "fd00::1", "::ffff:10.0.0.1", "255.255.255.255"})
    EXPECT_TRUE(parseAddress(good)) << good;
  for (const char* wrong : {"", "127.1", "0x7f.0.0.1", "0177.0.0.1", "2130706433", "1.2.3.4.5",
                            "fe80::1%eth0", "[::1]", " 10.0.0.1", "10.0.0.1 "})
    EXPECT_FALSE(parseAddress(wrong)) << wrong;
  EXPECT_EQ(parseAddress("::ffff:10.0.0.1"), parseAddress("10.0.0.1"));
  EXPECT_EQ(formatAddress(*parseAddress("10.0.0.1")), "10.0.0.1");
  EXPECT_EQ(formatAddress(*parseAddress("FD00:0::1")), "fd00::1");
}

TEST(Network, ANetworkHoldsItsAddresses) {
  auto holds = [](const char* network, const char* address) {
    return parseNetwork(network).value().holds(*parseAddress(address));
  };
  EXPECT_TRUE(holds("10.1.0.0/16", "10.1.255.255"));
  EXPECT_FALSE(holds("10.1.0.0/16", "10.2.0.0"));
  EXPECT_TRUE(holds("10.1.0.4/30", "10.1.0.7"));
  EXPECT_FALSE(holds("10.1.0.4/30", "10.1.0.8"));
  EXPECT_TRUE(holds("fd00::/8", "fdff::1"));
  EXPECT_FALSE(holds("0.0.0.0/0", "fd00::1"));
  for (const char* wrong :
       {"10.1.0.1/16", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/a", "/8"})
    EXPECT_FALSE(parseNetwork(wrong)) << wrong;
}

TEST(Policy, EveryKeyHasItsMeaningAndDocs) {
  std::set<std::string> seen;
  for (const Setting& s : policySettings()) {
    EXPECT_FALSE(policyMeaning(s.key).empty()) << s.key;
    EXPECT_TRUE(seen.insert(s.key).second) << s.key << " is read twice";
  }
  EXPECT_GT(seen.size(), 100u);
  std::ifstream in(std::string(MAYFLY_SOURCE_DIR) + "/docs/broker.md");
  std::stringstream text;
  text << in.rdbuf();
  EXPECT_NE(text.str().find("\n" + policyTable() + "\n"), std::string::npos)
      << "make the table of docs/broker.md anew: mayfly broker keys";
}

// Each example of docs/broker.md is a policy.
TEST(Policy, TheExamplesOfTheDocsAreValid) {
  std::ifstream in(std::string(MAYFLY_SOURCE_DIR) + "/docs/broker.md");
  std::string line, policy;
  size_t examples = 0;
  bool inside = false;
  while (std::getline(in, line)) {
    if (!inside && line == "```toml") {
      inside = true;
      policy.clear();
    } else if (inside && line == "```") {
      inside = false;
      ++examples;
      EXPECT_EQ(errorOf(policy), "(no error)") << policy;
    } else if (inside) {
      policy += line + "\n";
    }
  }
  EXPECT_GE(examples, 5u);
}

}  // namespace
}  // namespace mayfly::config
