// Requests, redirects, answers and tunnels against their grants: one row for each refusal.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "broker/address.h"
#include "broker/http_rules.h"
#include "broker/pattern.h"
#include "broker/target.h"
#include "broker_policy.h"

namespace mayfly::broker {
namespace {

using ::testing::HasSubstr;
using Headers = std::vector<Header>;

Decision<HttpCall> ask(const Grant& grant, std::string_view method, std::string_view target,
                       const Headers& headers = {}, int64_t body = 0) {
  return decideHttp(grant, {method, target, headers, body});
}
// "403 http.api.paths", or the URL.
std::string said(const Decision<HttpCall>& decision) {
  if (decision) return decision->method + " " + decision->url();
  EXPECT_FALSE(decision.error().message.empty());
  return std::to_string(decision.error().http_status) + " " + decision.error().rule;
}
std::string headerOf(const HttpCall& call, std::string_view name) {
  std::string out;
  for (const Header& h : call.headers)
    if (h.name == name) out += "[" + h.value + "]";
  return out;
}

TEST(Pattern, OneStarStaysInItsSegmentAndTwoDoNot) {
  const struct {
    const char *pattern, *path;
    bool match;
  } all[] = {{"/a", "/a", true},
             {"/a", "/ab", false},
             {"/a/*", "/a/b", true},
             {"/a/*", "/a/", true},
             {"/a/*", "/a/b/c", false},
             {"/a/**", "/a/b/c", true},
             {"/a/**", "/a", false},
             {"/*/c", "/b/c", true},
             {"/*/c", "/b/b/c", false},
             {"/**/c", "/b/b/c", true},
             {"/a*c", "/abbc", true},
             {"/a*c", "/ab/c", false},
             {"/*a*b*", "/xaybz", true},
             {"/*a*b*", "/xbya", false},
             {"/**", "/", true},
             {"/*",
              "/a\x01"
              "b",
              true},
             {"/a/b",
              "/a\x01"
              "b",
              false},
             {"/**x*/y", "/1x/2x3/y", true},
             {"/*", "/*", true},
             {"/a", "/A", false}};
  for (const auto& each : all)
    EXPECT_EQ(matchesPath(each.pattern, each.path), each.match) << each.pattern << " " << each.path;
  EXPECT_TRUE(matchesText("a*c", "a/b/c"));
  EXPECT_FALSE(matchesText("a*c", "a/b/cd"));
}

TEST(Pattern, APatternCoversOnlyNarrowerOnes) {
  const struct {
    const char *outer, *inner;
    bool covers;
  } all[] = {{"/a/*", "/a/*", true},   {"/a/*", "/a/b", true},    {"/a/*", "/a/b*", true},
             {"/a/*", "/a/**", false}, {"/a/*", "/a/*/b", false}, {"/a/**", "/a/*/b", true},
             {"/a/b", "/a/*", false},  {"/**", "/a/**", true},    {"/a*", "/a*b", true},
             {"/a*b", "/a*", false},   {"/*", "/**", false},      {"/a/*", "/b/*", false}};
  for (const auto& each : all)
    EXPECT_EQ(coversPath(each.outer, each.inner), each.covers) << each.outer << " " << each.inner;
}

TEST(Pattern, AHostilePathCostsNoMoreThanItsLength) {
  const std::string path = "/" + std::string(8'000, 'a');
  std::string pattern = "/";
  for (int i = 0; i < 60; ++i) pattern += "a*";
  EXPECT_FALSE(matchesPath(pattern + "b", path));
}

TEST(Target, EachPathHasOneReading) {
  const struct {
    const char *target, *path, *plain;
  } good[] = {{"/", "/", "/"},
              {"/a/b", "/a/b", "/a/b"},
              {"/a/", "/a/", "/a/"},
              {"/%61%2d%7E", "/a-~", "/a-~"},
              {"/a%20b", "/a%20b", "/a b"},
              {"/a%c3%a9", "/a%C3%A9", "/a\xc3\xa9"},
              {"/@types", "/@types", "/@types"},
              {"/%40types", "/%40types", "/@types"},
              {"/a{b}", "/a%7Bb%7D", "/a{b}"},
              {"/a;v=1", "/a;v=1", "/a;v=1"},
              {"/100%25", "/100%25", "/100%"},
              {"/a..b/...", "/a..b/...", "/a..b/..."}};
  for (const auto& each : good) {
    auto target = parseTarget("r", each.target, EncodedSlash::refused);
    ASSERT_TRUE(target) << each.target << ": " << target.error().message;
    EXPECT_EQ(target->path, each.path);
    EXPECT_EQ(target->plain, each.plain);
  }
  const std::pair<std::string, const char*> wrong[] = {
      {"", "does not begin"},
      {"a", "does not begin"},
      {"/..", "part '..'"},
      {"/a/../b", "part '..'"},
      {"/a/..", "part '..'"},
      {"/a/./b", "part '.'"},
      {"/%2e%2E/b", "part '..'"},
      {"/.%2e", "part '..'"},
      {"/..;x/b", "part '..'"},
      {"/a/%2e;/b", "part '.'"},
      {"//a", "empty part"},
      {"/a//b", "empty part"},
      {"/a/;/b", "empty part"},
      {"/a%2fb", "encoded '/'"},
      {"/a%2Fb", "encoded '/'"},
      {"/a\\b", "backslash"},
      {"/a%5cb", "backslash"},
      {"/%252e%252e/", "encoded twice"},
      {"/a%252fb", "encoded twice"},
      {"/%25%32%65%25%32e/", "encoded twice"},
      {"/a%25%32%66b", "encoded twice"},
      {"/a%00", "control character %00"},
      {"/a%0d%0ab", "control character %0d"},
      {"/a%7f", "control character %7f"},
      {"/a%", "hexadecimal"},
      {"/a%zz", "hexadecimal"},
      {"/a%2", "hexadecimal"},
      {"/a b", "must be encoded"},
      {"/a\r\nb", "must be encoded"},
      {"/\xc3\xa9", "must be encoded"},
      {std::string("/a\0b", 4), "must be encoded"},
      {"/a#b", "fragment"},
      {"/%c0%ae%c0%ae/", "not UTF-8"},
      {"/%ff", "not UTF-8"},
      {"/a?x=%0", "hexadecimal"},
      {"/a?x=%00", "control character"},
      {"/a?x#y", "must be encoded"},
      {"/a?x y", "must be encoded"},
      {"/a?" + std::string(9'000, 'x'), "longer than"},
  };
  for (const auto& [target, fault] : wrong) {
    auto parsed = parseTarget("r", target, EncodedSlash::refused);
    ASSERT_FALSE(parsed) << target;
    EXPECT_THAT(parsed.error().message, HasSubstr(fault)) << target;
    EXPECT_EQ(parsed.error().rule, "r.target");
  }
  std::string many = "/a?";
  for (size_t i = 0; i <= kQueryPartsMax; ++i) many += "x&";
  EXPECT_FALSE(parseTarget("r", many, EncodedSlash::refused));
}

TEST(Target, AnEncodedSlashIsABorderAndALetter) {
  auto target = parseTarget("r", "/@types%2fnode", EncodedSlash::allowed);
  ASSERT_TRUE(target);
  EXPECT_EQ(target->path, "/@types%2Fnode");
  EXPECT_EQ(target->plain, "/@types/node");
  EXPECT_EQ(target->letter, "/@types\x01node");
  for (const char* wrong : {"/a%2f..", "/..%2fa", "/a%2f%2e%2e%2fb", "/a%2f/b", "/a/%2fb"})
    EXPECT_FALSE(parseTarget("r", wrong, EncodedSlash::allowed)) << wrong;
}

TEST(Target, AQueryIsEncodedAnew) {
  auto target = parseTarget("r", "/a?x=1+2%2b3&flag&filter[n]=%E9&&e=%0a", EncodedSlash::refused);
  ASSERT_TRUE(target) << target.error().message;
  EXPECT_EQ(target->queryText(), "?x=1%202%2B3&flag&filter%5Bn%5D=%E9&e=%0A");
  EXPECT_EQ(target->query.size(), 4u);
}

TEST(HttpRules, ARequestIsAllowedOrRefusedByItsRule) {
  const Grant api = grantOf("api");
  const struct {
    const char *method, *target, *said;
  } all[] = {
      {"GET", "/models/gpt", "GET https://api.example.org/v1/models/gpt"},
      {"POST", "/chat/completions", "POST https://api.example.org/v1/chat/completions"},
      {"GET", "/files/a/b/c?limit=5", "GET https://api.example.org/v1/files/a/b/c?limit=5"},
      {"GET",
       "/models/x?order=abc&limit=", "GET https://api.example.org/v1/models/x?order=abc&limit="},
      {"DELETE", "/models/gpt", "403 http.api.methods"},
      {"get", "/models/gpt", "403 http.api.methods"},
      {"GET\r\nX: y", "/models/gpt", "403 http.api.methods"},
      {"CONNECT", "/models/gpt", "403 http.api.methods"},
      {"GET", "/models", "403 http.api.paths"},
      {"GET", "/models/a/b", "403 http.api.paths"},
      {"GET", "/", "403 http.api.paths"},
      {"GET", "/MODELS/gpt", "403 http.api.paths"},
      {"GET", "/files/../admin", "400 http.api.target"},
      {"GET", "/models/gpt%2f..%2f..%2fadmin", "400 http.api.target"},
      {"GET", "http://evil/models/gpt", "400 http.api.target"},
      {"GET", "/models/x?admin=1", "403 http.api.query"},
      {"GET", "/models/x?limit=1;admin=1", "403 http.api.query"},
      {"GET", "/models/x?order=abd", "403 http.api.query"},
      {"GET", "/models/x?Limit=1", "403 http.api.query"},
      {"GET", "/models/x?order=abc&order=x", "403 http.api.query"},
  };
  for (const auto& each : all)
    EXPECT_EQ(said(ask(api, each.method, each.target)), each.said) << each.target;
  EXPECT_EQ(said(ask(api, "POST", "/chat/completions", {}, 1'001)), "413 http.api.request_max");
  EXPECT_EQ(ask(api, "POST", "/chat/completions", {}, -1)->write, true);
  EXPECT_EQ(ask(api, "GET", "/models/x")->write, false);
  EXPECT_EQ(ask(api, "DELETE", "/").error().code, base::Code::permissionDenied);
}

TEST(HttpRules, ANarrowedGrantAllowsLess) {
  const Grant narrow = grantOf("api", "methods=GET,paths=/models/a*|/files/x/**");
  EXPECT_EQ(said(ask(narrow, "GET", "/models/ab")), "GET https://api.example.org/v1/models/ab");
  EXPECT_EQ(said(ask(narrow, "GET", "/models/b")), "403 http.api.paths");
  EXPECT_EQ(said(ask(narrow, "GET", "/files/y")), "403 http.api.paths");
  EXPECT_EQ(said(ask(narrow, "POST", "/models/ab")), "403 http.api.methods");
}

TEST(HttpRules, CredentialsAndHeadersOfOneConnectionAreDropped) {
  const Headers sent = {{"Accept", "*/*"},
                        {"AUTHORIZATION", "Bearer stolen"},
                        {"Cookie", "a=b"},
                        {"X-Api-Key", "placeholder"},
                        {"x_api_key", "placeholder"},
                        {"Host", "evil.example.org"},
                        {"Proxy-Authorization", "Basic x"},
                        {"Connection", "close, X-Client-Gone"},
                        {"X-Client-Gone", "1"},
                        {"X-Client-Lang", "py"},
                        {"Transfer-Encoding", "chunked"},
                        {"Content-Length", "5"},
                        {"TE", "trailers"},
                        {"Upgrade", "h2c"},
                        {"Expect", "100-continue"},
                        {"X-Forwarded-For", "10.0.0.1"},
                        {"X-HTTP-Method-Override", "DELETE"},
                        {"X-Original-URL", "/admin"},
                        {"X-Version", "1"},
                        {"Accept-Encoding", "gzip"},
                        {"X-Unlisted", "1"}};
  auto call = ask(grantOf("api"), "GET", "/models/x", sent);
  ASSERT_TRUE(call) << call.error().message;
  std::string names;
  for (const Header& h : call->headers) names += h.name + "=" + h.value + " ";
  EXPECT_EQ(names, "accept=*/* x-client-lang=py accept-encoding=identity x-version=7 ");
}

TEST(HttpRules, NoControlCharacterPassesIntoAHeader) {
  const Grant api = grantOf("api");
  for (const std::string& value :
       {std::string("a\r\nX: y"), std::string("a\nb"), std::string("a\0b", 3), std::string("\x7f"),
        std::string("\x01"), std::string(9'000, 'a')})
    EXPECT_EQ(said(ask(api, "GET", "/models/x", {{"Accept", value}})), "400 http.api.headers");
  for (const char* name : {"", "a b", "a:b", "a\r\nb", "\xc3\xa9"})
    EXPECT_EQ(said(ask(api, "GET", "/models/x", {{name, "x"}})), "400 http.api.headers");
  EXPECT_EQ(said(ask(api, "GET", "/models/x", Headers(101, {"a", "b"}))), "431 http.api.headers");
  EXPECT_EQ(said(ask(api, "GET", "/models/x", Headers(10, {"a", std::string(8'000, 'x')}))),
            "431 http.api.headers");
}

TEST(HttpRules, AQueryCredentialOfTheTaskIsDropped) {
  EXPECT_EQ(said(ask(grantOf("maps"), "GET", "/a?key=stolen&KEY=x&q=1")),
            "GET https://maps.example.org/a?q=1");
}

TEST(HttpRules, ARedirectIsFollowedWithinTheRuleToTheSameOriginOnly) {
  const Grant maps = grantOf("maps"), api = grantOf("api");
  const HttpCall call = *ask(maps, "GET", "/a");
  auto follow = [&](uint16_t status, const char* to) {
    auto next = decideRedirect(maps, call, status, to);
    return next ? next->method + " " + next->url() : std::string("returned");
  };
  EXPECT_EQ(follow(302, "/b?x=1"), "GET https://maps.example.org/b?x=1");
  EXPECT_EQ(follow(308, "https://maps.example.org/b#f"), "GET https://maps.example.org/b");
  EXPECT_EQ(follow(302, "/b?key=reflected"), "GET https://maps.example.org/b");
  for (const char* to : {"https://evil.org/b", "http://maps.example.org/b", "//evil.org/b",
                         "https://maps.example.org.evil.org/", "https://maps.example.org:444/b",
                         "https://maps.example.org@evil.org/", "relative", "", "/a/../b"})
    EXPECT_EQ(follow(302, to), "returned") << to;
  EXPECT_EQ(follow(200, "/b"), "returned");
  EXPECT_FALSE(decideRedirect(api, *ask(api, "GET", "/models/x"), 302, "/v1/models/y"))
      << "its redirects are returned";
}

TEST(HttpRules, AnAnswersHeadersAreCleaned) {
  const Grant api = grantOf("api");
  const HttpCall call = *ask(api, "GET", "/models/x");
  auto out = decideAnswer(api, call,
                          {{"Content-Type", "text/plain"},
                           {"Set-Cookie", "session=1"},
                           {"Connection", "x-hop"},
                           {"X-Hop", "1"},
                           {"Transfer-Encoding", "chunked"},
                           {"Alt-Svc", "h3"},
                           {"X-Bad", "a\rb"},
                           {"Location", "https://api.example.org/v1/models/y?limit=1"}});
  ASSERT_TRUE(out);
  ASSERT_EQ(out->size(), 2u);
  EXPECT_EQ((*out)[0].name, "content-type");
  EXPECT_EQ((*out)[1].value, "/cap/api/models/y?limit=1");
  auto location = [&](const char* to) {
    return (*decideAnswer(api, call, {{"location", to}}))[0].value;
  };
  EXPECT_EQ(location("https://cdn.example.org/x"), "https://cdn.example.org/x");
  EXPECT_EQ(location("/v1/models/y"), "/cap/api/models/y");
  EXPECT_EQ(location("//evil/v1/x"), "//evil/v1/x");
  EXPECT_EQ(decideAnswer(api, call, {{"Content-Encoding", "gzip"}}).error().rule, "http.api.scrub");
  EXPECT_EQ(decideAnswer(api, call, Headers(101, {"a", "b"})).error().http_status, 502);
}

TEST(Egress, AProxiedRequestIsUpgradedOrRefusedWithAdvice) {
  const std::vector<Grant> grants = {grantOf("api"), grantOf("git"), grantOf("pypi")};
  auto proxy = [&](const char* authority, const Headers& headers = {}) {
    return said(decideProxy(grants, authority, {"GET", "/simple/", headers, 0}));
  };
  EXPECT_EQ(proxy("pypi.org"), "GET https://pypi.org/simple/");
  EXPECT_EQ(proxy("PyPI.org:80"), "GET https://pypi.org/simple/");
  EXPECT_EQ(proxy("pypi.org:443"), "GET https://pypi.org/simple/");
  EXPECT_EQ(proxy("files.pythonhosted.org"), "GET https://files.pythonhosted.org/simple/");
  EXPECT_EQ(proxy("localhost:8443"), "GET https://localhost:8443/simple/");
  EXPECT_EQ(proxy("pypi.org", {{"Host", "pypi.org:80"}}), "GET https://pypi.org/simple/");
  EXPECT_EQ(proxy("pypi.org", {{"Host", "evil.org"}}), "400 egress");
  EXPECT_EQ(proxy("pypi.org", {{"Host", "pypi.org:8080"}}), "400 egress");
  for (const char* other : {"pythonhosted.org", "evilpythonhosted.org", "pypi.org:8443", "evil.org",
                            "api.example.org", "localhost"})
    EXPECT_EQ(proxy(other), "403 egress") << other;
  for (const char* wrong : {"", "127.0.0.1", "[::1]:80", "user@pypi.org", "pypi.org:", "pypi.org:x",
                            "pypi.org.", "*.pythonhosted.org", "127.1", "a b"})
    EXPECT_EQ(proxy(wrong), "400 egress") << wrong;
  EXPECT_EQ(proxy("github.com"), "403 egress.git.modes");
  auto call = decideProxy(grants, "pypi.org",
                          {"GET", "/", {{"Authorization", "x"}, {"Accept-Encoding", "gzip"}}, 0});
  ASSERT_TRUE(call);
  EXPECT_EQ(headerOf(*call, "authorization"), "");
  EXPECT_EQ(headerOf(*call, "accept-encoding"), "[gzip]");
}

TEST(Egress, ATunnelGoesToAListedHostInItsMode) {
  const std::vector<Grant> grants = {grantOf("git"), grantOf("pypi")};
  auto tunnel = [&](const char* host, uint16_t port) {
    auto grant = decideTunnel(grants, host, port);
    return grant ? (*grant)->name() : grant.error().rule + ": " + grant.error().advice;
  };
  EXPECT_EQ(tunnel("GitHub.com", 443), "git");
  EXPECT_THAT(tunnel("github.com", 22), HasSubstr("egress: "));
  EXPECT_THAT(tunnel("pypi.org", 443), HasSubstr("egress.pypi.modes: Use http:// in the URL"));
  EXPECT_THAT(tunnel("140.82.121.4", 443), HasSubstr("A host is a name"));
  const std::vector<Grant> narrow = {grantOf("pypi", "hosts=files.pythonhosted.org")};
  EXPECT_EQ(said(decideProxy(narrow, "pypi.org", {"GET", "/", {}, 0})), "403 egress");
  EXPECT_EQ(said(decideProxy(narrow, "files.pythonhosted.org", {"GET", "/", {}, 0})),
            "GET https://files.pythonhosted.org/");
}

TEST(Address, EachAddressHasItsClass) {
  const std::pair<const char*, AddressClass> all[] = {
      {"8.8.8.8", AddressClass::global},
      {"2606:4700::1111", AddressClass::global},
      {"::ffff:8.8.8.8", AddressClass::global},
      {"64:ff9b::808:808", AddressClass::global},
      {"0.0.0.0", AddressClass::unspecified},
      {"0.1.2.3", AddressClass::unspecified},
      {"::", AddressClass::unspecified},
      {"127.0.0.1", AddressClass::loopback},
      {"127.255.255.255", AddressClass::loopback},
      {"::1", AddressClass::loopback},
      {"::ffff:127.0.0.1", AddressClass::loopback},
      {"64:ff9b::7f00:1", AddressClass::loopback},
      {"::127.0.0.1", AddressClass::loopback},
      {"10.0.0.1", AddressClass::privateUse},
      {"172.16.0.1", AddressClass::privateUse},
      {"172.31.255.255", AddressClass::privateUse},
      {"172.32.0.1", AddressClass::global},
      {"192.168.1.1", AddressClass::privateUse},
      {"fd00::1", AddressClass::privateUse},
      {"fc00::1", AddressClass::privateUse},
      {"fec0::1", AddressClass::privateUse},
      {"64:ff9b::a00:1", AddressClass::privateUse},
      {"100.64.0.1", AddressClass::sharedNat},
      {"100.128.0.1", AddressClass::global},
      {"169.254.1.1", AddressClass::linkLocal},
      {"fe80::1", AddressClass::linkLocal},
      {"169.254.169.254", AddressClass::metadata},
      {"::ffff:169.254.169.254", AddressClass::metadata},
      {"64:ff9b::a9fe:a9fe", AddressClass::metadata},
      {"169.254.170.2", AddressClass::metadata},
      {"100.100.100.200", AddressClass::metadata},
      {"168.63.129.16", AddressClass::metadata},
      {"fd00:ec2::254", AddressClass::metadata},
      {"224.0.0.1", AddressClass::multicast},
      {"239.255.255.255", AddressClass::multicast},
      {"ff02::1", AddressClass::multicast},
      {"240.0.0.1", AddressClass::reserved},
      {"255.255.255.255", AddressClass::reserved},
      {"192.0.0.1", AddressClass::reserved},
      {"192.0.2.1", AddressClass::documentation},
      {"198.51.100.1", AddressClass::documentation},
      {"203.0.113.1", AddressClass::documentation},
      {"2001:db8::1", AddressClass::documentation},
      {"198.18.0.1", AddressClass::benchmarking},
      {"2001:2::1", AddressClass::benchmarking},
      {"2002:7f00:1::", AddressClass::tunnel},
      {"2001::1", AddressClass::tunnel},
      {"64:ff9b:1::1", AddressClass::tunnel},
      {"192.88.99.1", AddressClass::tunnel},
      {"::8.8.8.8", AddressClass::reserved},
      {"100::1", AddressClass::reserved},
      {"4000::1", AddressClass::reserved},
      {"1::1", AddressClass::reserved}};
  for (const auto& [text, kind] : all) {
    const auto address = config::parseAddress(text).value();
    EXPECT_EQ(name(classOf(address)), name(kind)) << text;
    EXPECT_EQ(isAllowed(address, {}), kind == AddressClass::global) << text;
  }
}

TEST(Address, OnlyNamedAddressesAreAllowedBesides) {
  auto allowed = [](const char* address, const char* named) {
    return isAllowed(*config::parseAddress(address), {*config::parseNetwork(named)});
  };
  EXPECT_TRUE(allowed("10.0.0.5", "10.0.0.0/8"));
  EXPECT_FALSE(allowed("192.168.0.1", "10.0.0.0/8"));
  EXPECT_FALSE(allowed("64:ff9b::a00:5", "10.0.0.0/8")) << "its NAT64 form is another address";
  EXPECT_FALSE(allowed("169.254.169.254", "169.254.0.0/16")) << "metadata must be named alone";
  EXPECT_TRUE(allowed("169.254.169.254", "169.254.169.254"));
  EXPECT_FALSE(allowed("127.0.0.2", "127.0.0.1"));
  auto refusal =
      checkAddress("http.api", "api.example.org", *config::parseAddress("127.0.0.1"), {});
  ASSERT_FALSE(refusal);
  EXPECT_EQ(refusal.error().rule, "http.api.allow_addresses");
  EXPECT_THAT(refusal.error().message, HasSubstr("127.0.0.1, which is a loopback address"));
}

}  // namespace
}  // namespace mayfly::broker
