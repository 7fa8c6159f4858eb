// The front's parts without sockets: what of HTTP is refused, where a request goes, JSON, answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "front/answer.h"
#include "front/json.h"
#include "front/request.h"
#include "front/route.h"

namespace mayfly::front {
namespace {

using namespace std::literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const Options kOptions;

struct Read {
  int status = 0;  // of the refusal; 0: none; -1: the bytes end before the request does
  Request request;
  std::string body;
  size_t used = 0;
};

// Reads the first request of `bytes`, which come in pieces of `step` bytes.
Read read(std::string_view bytes, size_t step = std::string_view::npos) {
  Read out;
  HeadScanner scanner(kOptions);
  RequestParser parser(kOptions);
  size_t begin = 0, end = 0;
  bool in_body = false;
  for (;;) {
    const std::string_view unread = bytes.substr(begin, end - begin);
    bool waits = true;
    if (!in_body) {
      auto size = scanner.look(unread);
      if (!size) return out.status = size.error().status, out;
      if (*size > 0) {
        auto head = parser.head(unread.substr(0, *size));
        if (!head) return out.status = head.error().status, out;
        out.request = *head;
        begin += *size;
        in_body = true;
        waits = false;
      }
    } else {
      auto used = parser.body(unread, out.body);
      if (!used) return out.status = used.error().status, out;
      begin += *used;
    }
    if (in_body && parser.done()) return out.used = begin, out;
    if (!waits) continue;
    if (end == bytes.size()) return out.status = -1, out;
    end += std::min(step, bytes.size() - end);
  }
}

std::string get(std::string_view fields, std::string_view line = "GET / HTTP/1.1") {
  return std::string(line) + "\r\nHost: 127.0.0.1\r\n" + std::string(fields) + "\r\n";
}
std::string chunked(std::string_view body) {
  return get("Transfer-Encoding: chunked\r\n", "POST /cap/a/ HTTP/1.1") + std::string(body);
}

std::string manyWords(int count) {
  std::string out = "a";
  for (int i = 1; i < count; ++i) out += ",a";
  return out;
}

struct Hostile {
  const char* name;
  std::string bytes;
  int status;
};

// Each is refused, whether its bytes come at once or one by one.
const std::vector<Hostile>& hostile() {
  static const std::vector<Hostile> all{
      // where a body ends
      {"length and coding", get("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), 400},
      {"coding and length", get("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), 400},
      {"two lengths that differ", get("Content-Length: 3\r\nContent-Length: 4\r\n"), 400},
      {"two lengths alike", get("Content-Length: 3\r\nContent-Length: 3\r\n"), 400},
      {"a list of lengths", get("Content-Length: 3, 3\r\n"), 400},
      {"a signed length", get("Content-Length: +3\r\n"), 400},
      {"a negative length", get("Content-Length: -3\r\n"), 400},
      {"a length in hex", get("Content-Length: 0x3\r\n"), 400},
      {"a length with a leading zero", get("Content-Length: 03\r\n"), 400},
      {"an empty length", get("Content-Length: \r\n"), 400},
      {"a length with a blank in it", get("Content-Length: 3 3\r\n"), 400},
      {"a length beyond 64 bits", get("Content-Length: 99999999999999999999\r\n"), 400},
      // A length that 64 bits hold is one (RFC 9110, 8.6), and too large, as nginx and Apache say.
      {"a huge length", get("Content-Length: 999999999999999999\r\n"), 413},
      {"a length beyond the bound by one", get("Content-Length: 1125899906842625\r\n"), 413},
      {"a coding that is not chunked", get("Transfer-Encoding: gzip\r\n"), 400},
      {"chunked, then another", get("Transfer-Encoding: chunked, gzip\r\n"), 400},
      {"another, then chunked", get("Transfer-Encoding: gzip, chunked\r\n"), 400},
      {"chunked twice", get("Transfer-Encoding: chunked, chunked\r\n"), 400},
      {"two codings", get("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), 400},
      {"identity", get("Transfer-Encoding: identity\r\n"), 400},
      {"chunked with a vertical tab", get("Transfer-Encoding: \vchunked\r\n"), 400},
      {"chunked in quotes", get("Transfer-Encoding: \"chunked\"\r\n"), 400},
      {"a coding in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      // lines
      {"a folded line", get("X: a\r\n b\r\n"), 400},
      {"a line folded by a tab", get("X: a\r\n\tb\r\n"), 400},
      {"a folded first header", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400},
      {"a folded coding", get("Transfer-Encoding:\r\n chunked\r\n"), 400},
      {"a bare line feed", get("X: a\nY: b\r\n"), 400},
      {"only line feeds", "GET / HTTP/1.1\nHost: a\n\n", 400},
      {"a bare carriage return", get("X: a\rY: b\r\n"), 400},
      {"a line feed before the blank line", "GET / HTTP/1.1\r\nHost: a\n\r\n", 400},
      {"a blank before the colon", get("Content-Length : 3\r\n"), 400},
      {"a tab before the colon", get("Content-Length\t: 3\r\n"), 400},
      {"a header without a colon", get("Content-Length\r\n"), 400},
      {"a header without a name", get(": a\r\n"), 400},
      {"a name with a blank", get("X Y: a\r\n"), 400},
      {"a name beyond ASCII", get("X\xc3\xa4: a\r\n"), 400},
      {"NUL in a value", get("X: a\0b\r\n"s), 400},
      {"NUL in a name", get("X\0: b\r\n"s), 400},
      {"NUL in the target", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"s, 400},
      {"escape in a value", get("X: \x1b[0m\r\n"), 400},
      {"DEL in a value", get("X: \x7f\r\n"), 400},
      {"an empty first line", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"a blank first", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      // the request line
      {"no version", "GET /\r\nHost: a\r\n\r\n", 400},
      {"HTTP/0.9", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505},
      {"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505},
      {"HTTP/2.0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {"another protocol", "GET / ICAP/1.0\r\nHost: a\r\n\r\n", 505},
      {"two blanks", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"a blank in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 505},
      {"a tab in the line", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"a blank behind the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 505},
      {"a method that is no token", "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"a long method", std::string(40, 'A') + " / HTTP/1.1\r\nHost: a\r\n\r\n", 501},
      {"a fragment", "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"a backslash", "GET /a\\..\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"a target beyond ASCII", "GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"CRLF in the target", "GET /a\r\nX: b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      // Host
      {"no Host", "GET / HTTP/1.1\r\n\r\n", 400},
      {"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
      {"a Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
      {"a Host with a user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400},
      {"a list of Hosts", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400},
      {"a Host with a blank", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
      {"a Host with an odd port", "GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n", 400},
      // other protocols
      {"an upgrade", get("Connection: upgrade\r\nUpgrade: websocket\r\n"), 501},
      {"h2c", get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"),
       501},
      {"an upgrade without Connection", get("Upgrade: h2c\r\n"), 501},
      {"Connection alone", get("Connection: upgrade\r\n"), 501},
      {"an odd Connection", get("Connection: (a\r\n"), 400},
      {"a Connection of many names", get("Connection: " + manyWords(33) + "\r\n"), 400},
      {"another Expect", get("Expect: 200-ok\r\n"), 417},
      // sizes
      {"a long target", "GET /" + std::string(8'200, 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
      {"an endless target", "GET /" + std::string(20'000, 'a'), 414},
      {"a large head", get("X: " + std::string(33'000, 'a') + "\r\n"), 431},
      {"an endless header", "GET / HTTP/1.1\r\nX: " + std::string(40'000, 'a'), 431},
      {"a long name", get(std::string(200, 'a') + ": b\r\n"), 431},
      // chunks
      {"no chunk size", chunked("\r\n"), 400},
      {"a chunk size that is no number", chunked("x\r\n"), 400},
      {"a signed chunk size", chunked("+5\r\nhello\r\n0\r\n\r\n"), 400},
      {"a negative chunk size", chunked("-5\r\nhello\r\n0\r\n\r\n"), 400},
      {"a chunk size with 0x", chunked("0x5\r\nhello\r\n0\r\n\r\n"), 400},
      {"a blank before a chunk size", chunked(" 5\r\nhello\r\n0\r\n\r\n"), 400},
      {"a blank behind a chunk size", chunked("5 \r\nhello\r\n0\r\n\r\n"), 400},
      {"a chunk line that ends with LF", chunked("5\nhello\r\n0\r\n\r\n"), 400},
      {"a chunk line with a bare CR", chunked("5\rhello\r\n0\r\n\r\n"), 400},
      {"a chunk larger than its size", chunked("5\r\nhello!\r\n0\r\n\r\n"), 400},
      {"a chunk smaller than its size", chunked("6\r\nhello\r\n0\r\n\r\n"), 400},
      {"a chunk without its CRLF", chunked("5\r\nhello0\r\n\r\n"), 400},
      {"a chunk that ends with LF", chunked("5\r\nhello\n0\r\n\r\n"), 400},
      {"a chunk beyond 64 bits", chunked("10000000000000005\r\nhello"), 400},
      {"a huge chunk", chunked("ffffffffffffffff\r\nhello"), 413},
      {"an odd extension", chunked("5;=x\r\nhello\r\n0\r\n\r\n"), 400},
      {"an extension without an end",
       chunked("5;a=\"\r\nhello\r\n0\r\n\r\n" + std::string(9'000, 'a')), 400},
      {"a long extension", chunked("5;a=" + std::string(5'000, 'a') + "\r\nhello\r\n0\r\n\r\n"),
       400},
      {"an endless chunk line", chunked("5;a=" + std::string(20'000, 'a')), 400},
      {"a length as trailer", chunked("0\r\nContent-Length: 5\r\n\r\n"), 400},
      {"a coding as trailer", chunked("0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400},
      {"an endless trailer", chunked("0\r\nX: " + std::string(20'000, 'a')), 400},
      {"a trailer without a colon", chunked("0\r\nX\r\n\r\n"), 400},
  };
  return all;
}

TEST(FrontRequest, EachHostileRequestIsRefused) {
  for (const Hostile& each : hostile())
    EXPECT_EQ(read(each.bytes).status, each.status) << each.name;
}

TEST(FrontRequest, ARefusalDoesNotDependOnHowTheBytesCome) {
  for (const Hostile& each : hostile())
    for (size_t step : {1, 2, 3, 7, 4'096})
      EXPECT_EQ(read(each.bytes, step).status, each.status) << each.name << " by " << step;
}

TEST(FrontRequest, TooManyHeadersAreRefusedAndAHundredAreNot) {
  auto with = [](int count) {
    std::string fields;
    for (int i = 1; i < count; ++i) fields += "X-" + std::to_string(i) + ": a\r\n";
    return read(get(fields));
  };
  EXPECT_EQ(with(100).status, 0);
  EXPECT_EQ(with(100).request.fields.size(), 100u);
  EXPECT_EQ(with(101).status, 431);
}

TEST(FrontRequest, TrailersAndShortExtensionsAreDropped) {
  const auto got = read(chunked("5;a=b;c=\"d\"\r\nhello\r\n6\r\n world\r\n0\r\nX: y\r\n\r\nGET"));
  EXPECT_EQ(got.status, 0);
  EXPECT_EQ(got.body, "hello world");
  EXPECT_EQ(got.request.field("x"), nullptr);
  std::string trailers;
  for (int i = 0; i < 40; ++i) trailers += "X: a\r\n";
  EXPECT_EQ(read(chunked("0\r\n" + trailers + "\r\n")).status, 400);
}

TEST(FrontRequest, TheNextRequestBeginsWhereTheBodyEnds) {
  for (size_t step : {1, 3, 100'000}) {
    const std::string first = get("Content-Length: 5\r\n", "POST /cap/a/ HTTP/1.1") + "hello";
    const auto got = read(first + "GET /next HTTP/1.1\r\n", step);
    EXPECT_EQ(got.status, 0);
    EXPECT_EQ(got.body, "hello");
    EXPECT_EQ(got.used, first.size());
    const std::string second = chunked("3\r\nabc\r\n0\r\n\r\n");
    EXPECT_EQ(read(second + "GET / ", step).used, second.size());
    const std::string third = get("");
    EXPECT_EQ(read(third + third, step).used, third.size());
  }
}

TEST(FrontRequest, WhatCommonClientsSendIsRead) {
  auto got = read(
      "POST /cap/openai/v1/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: curl/7.88.1\r\n"
      "Accept: */*\r\nContent-Length: 2\r\nExpect: 100-continue\r\n"
      "Cookie: a=b; c=\xc3\xa4\r\nX-Empty:\r\nX-Tab:\ta \r\n\r\n{}");
  EXPECT_EQ(got.status, 0);
  EXPECT_TRUE(got.request.keeps);
  EXPECT_TRUE(got.request.awaits_continue);
  EXPECT_EQ(*got.request.field("x-empty"), "");
  EXPECT_EQ(*got.request.field("X-TAB"), "a");
  got = read("GET / HTTP/1.0\r\n\r\n");
  EXPECT_EQ(got.status, 0);
  EXPECT_FALSE(got.request.keeps);
  EXPECT_TRUE(read("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").request.keeps);
  EXPECT_FALSE(read(get("Connection: foo, Close\r\n")).request.keeps);
  for (const char* host : {"a", "a:80", "[::1]", "[::1]:80", "a-b.example", ""})
    EXPECT_EQ(read("GET / HTTP/1.1\r\nHost: "s + host + "\r\n\r\n").status, 0) << host;
}

TEST(FrontRequest, HopByHopFieldsAndThoseOfConnectionGoNoFurther) {
  std::vector<Field> fields;
  for (const char* name : {"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization",
                           "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length",
                           "Expect", "HTTP2-Settings", "Proxy-Authenticate", "x-secret", "X-Other"})
    fields.push_back({name, name == "Connection"s ? "close, X-Secret ,, x-none" : "a"});
  const auto kept = endToEnd(fields);
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_EQ(kept[0]->name, "X-Other");
}

// --- routes ---

struct Went {
  int status = 0;
  Route route;
};
Went go(std::string_view line, std::string_view fields = "Host: 127.0.0.1\r\n") {
  const auto got = read(std::string(line) + " HTTP/1.1\r\n" + std::string(fields) + "\r\n");
  EXPECT_EQ(got.status, 0) << line;
  auto route = routeOf(got.request);
  return route ? Went{0, *route} : Went{route.error().status, {}};
}

TEST(FrontRoute, EveryPathGoesToItsCall) {
  using Kind = Route::Kind;
  EXPECT_EQ(go("GET /").route.kind, Kind::describe);
  EXPECT_EQ(go("HEAD /?a").route.kind, Kind::describe);
  EXPECT_EQ(go("GET /tools").route.kind, Kind::tools);
  auto cap = go("DELETE /cap/openai/v1/a%2Fb?x=1&y").route;
  EXPECT_EQ(cap.kind, Kind::cap);
  EXPECT_EQ(cap.name, "openai");
  EXPECT_EQ(cap.target, "/v1/a%2Fb?x=1&y") << "as sent";
  EXPECT_EQ(go("GET /cap/a").route.target, "/");
  EXPECT_EQ(go("GET /cap/a?q").route.target, "/?q");
  EXPECT_EQ(go("GET /cap/a//b/../c").route.target, "//b/../c") << "the vault judges paths";
  EXPECT_EQ(go("POST /sql/orders").route.kind, Kind::sql);
  EXPECT_EQ(go("POST /mint/s3").route.kind, Kind::mint);
  EXPECT_EQ(go("POST /tools/look-up").route.name, "look-up");
  auto proxy = go("GET http://Pypi.org/simple/?a", "Host: pypi.org\r\n").route;
  EXPECT_EQ(proxy.kind, Kind::proxy);
  EXPECT_EQ(proxy.host, "Pypi.org");
  EXPECT_EQ(proxy.target, "/simple/?a");
  EXPECT_EQ(go("GET HTTP://a:8080?q", "Host: a:8080\r\n").route.target, "/?q");
  EXPECT_EQ(go("GET http://127.0.0.1/cap/a/b").route.kind, Kind::cap) << "the broker itself";
  auto tunnel = go("CONNECT Pypi.org:443", "Host: pypi.org:443\r\n").route;
  EXPECT_EQ(tunnel.kind, Kind::tunnel);
  EXPECT_EQ(tunnel.host, "pypi.org");
  EXPECT_EQ(tunnel.port, 443);
  EXPECT_EQ(go("CONNECT a:443", "Host: a\r\n").status, 0);
}

TEST(FrontRoute, EveryOtherPathIsRefused) {
  for (const char* path :
       {"/x", "/cap", "/cap/", "/cap//a", "/cap/../a", "/cap/./a", "/cap/a%41/", "/sql", "/sql/",
        "/sql/a/b", "/mint/a/", "/tools/a/b", "/tools//", "/CAP/a/", "//", "/%63ap/a/"})
    EXPECT_EQ(go("POST "s + path).status, 404) << path;
  EXPECT_EQ(go("POST /cap/" + std::string(65, 'a') + "/").status, 404);
  for (const char* line : {"POST /", "POST /tools", "PUT /sql/a", "HEAD /sql/a", "GET /mint/a",
                           "GET /tools/a", "get /", "DELETE /mint/a"})
    EXPECT_EQ(go(line).status, 405) << line;
  for (const char* line :
       {"OPTIONS *", "GET a", "GET https://a/", "GET ftp://a/", "GET http:///a", "GET http://u@a/",
        "GET http://[::1]/", "GET ://a/", "CONNECT a", "CONNECT a:", "CONNECT :443", "CONNECT a:0",
        "CONNECT a:65536", "CONNECT a:0443", "CONNECT a:44x", "CONNECT u@a:443",
        "CONNECT [::1]:443", "CONNECT /a:443", "CONNECT http://a:443"})
    EXPECT_EQ(go(line, "Host:\r\n").status, 400) << line;
}

TEST(FrontRoute, AHostThatDiffersFromTheTargetIsRefused) {
  EXPECT_EQ(go("GET http://a/", "Host: b\r\n").status, 400);
  EXPECT_EQ(go("GET http://a:80/", "Host: a:81\r\n").status, 400);
  EXPECT_EQ(go("CONNECT a:443", "Host: b:443\r\n").status, 400);
  EXPECT_EQ(go("CONNECT a:443", "Host: a:444\r\n").status, 400);
  const auto body = read("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 3\r\n\r\nabc");
  EXPECT_FALSE(routeOf(body.request)) << "a CONNECT with a body";
}

TEST(FrontRoute, AQueryBecomesParameters) {
  auto sql = go("GET /sql/orders?a=1&b=%C3%A4+%2B&c&format=csv").route;
  EXPECT_TRUE(sql.csv);
  EXPECT_THAT(sql.query, ElementsAre(std::pair("a"s, "1"s), std::pair("b"s, "\xc3\xa4 +"s),
                                     std::pair("c"s, ""s)));
  EXPECT_TRUE(go("GET /sql/a", "Host: a\r\nAccept: text/csv\r\n").route.csv);
  EXPECT_FALSE(go("GET /sql/a", "Host: a\r\nAccept: application/json, text/csv\r\n").route.csv);
  EXPECT_TRUE(go("POST /sql/a?format=csv").route.csv);
  for (const char* bad : {"a=%", "a=%4", "a=%zz", "a=%00", "a=%ff", "a=1&a=2", "format=xml"})
    EXPECT_EQ(go("GET /sql/a?"s + bad).status, 400) << bad;
  EXPECT_EQ(go("POST /sql/a?b=1").status, 400);
  std::string many = "GET /sql/a?";
  for (int i = 0; i < 65; ++i) many += "p" + std::to_string(i) + "=1&";
  EXPECT_EQ(go(many).status, 400);
}

// --- JSON ---

std::string show(const Checked<std::vector<Param>>& params) {
  if (!params) return "refused";
  std::string out;
  for (const Param& param : *params) {
    struct Show {
      std::string operator()(std::monostate) { return "null"; }
      std::string operator()(bool v) { return v ? "true" : "false"; }
      std::string operator()(int64_t v) { return "i" + std::to_string(v); }
      std::string operator()(double v) { return "f" + std::to_string(v); }
      std::string operator()(const std::string& v) { return "'" + v + "'"; }
      std::string operator()(const std::vector<int64_t>& v) {
        return "ints" + std::to_string(v.size());
      }
      std::string operator()(const std::vector<std::string>& v) {
        return "texts" + std::to_string(v.size());
      }
    };
    out += param.name + "=" + std::visit(Show{}, param.value) + " ";
  }
  return out;
}

TEST(FrontJson, ParametersKeepTheirTypes) {
  EXPECT_EQ(show(paramsOf("")), "");
  EXPECT_EQ(show(paramsOf(" {} ")), "");
  EXPECT_EQ(show(paramsOf(
                R"({"a":1,"b":-2,"c":1.5,"d":"x","e":null,"f":true,"g":[1,2],"h":["a"],"i":[]})")),
            "a=i1 b=i-2 c=f1.500000 d='x' e=null f=true g=ints2 h=texts1 i=texts0 ");
  EXPECT_EQ(show(paramsOf(R"({"a":9223372036854775807,"b":-9223372036854775808})")),
            "a=i9223372036854775807 b=i-9223372036854775808 ");
  EXPECT_EQ(show(paramsOf(R"({"a":"\u00e4"})")), "a='\xc3\xa4' ");
}

TEST(FrontJson, WhatCannotBeKeptExactlyIsRefused) {
  for (const char* bad :
       {R"({"a":9223372036854775808})", R"({"a":-9223372036854775809})", R"({"a":1e400})",
        R"({"a":123456789012345678901234567890})", R"({"a":[9223372036854775808]})", R"({"a":NaN})",
        R"({"a":Infinity})", R"({"a":01})", R"({"a":+1})", R"({"a":.5})"})
    EXPECT_EQ(show(paramsOf(bad)), "refused") << bad;
  auto refused = paramsOf(R"({"a":9223372036854775808})");
  EXPECT_THAT(refused.error().advice, HasSubstr("text"));
}

TEST(FrontJson, WhatIsNoFlatObjectIsRefused) {
  for (const char* bad : {"[]",
                          "1",
                          "null",
                          "\"a\"",
                          "{",
                          "{}{}",
                          "{} x",
                          R"({"a":{}})",
                          R"({"a":[[1]]})",
                          R"({"a":[1,"b"]})",
                          R"({"a":["b",1]})",
                          R"({"a":[1.5]})",
                          R"({"a":[null]})",
                          R"({"a":[true]})",
                          R"({"a":1,"a":2})",
                          R"({"a":1,})",
                          R"({"":1})",
                          R"({"a":"\u0000"})",
                          R"({"a\u0000":1})",
                          "{\"a\":\"\xff\"}",
                          R"({"a":"\ud800"})",
                          "{'a':1}"})
    EXPECT_EQ(show(paramsOf(bad)), "refused") << bad;
  EXPECT_EQ(show(paramsOf("{\"" + std::string(65, 'a') + "\":1}")), "refused");
  std::string many = "{";
  for (int i = 0; i < 65; ++i) many += (i ? ",\"p" : "\"p") + std::to_string(i) + "\":1";
  EXPECT_EQ(show(paramsOf(many + "}")), "refused");
  std::string list = "{\"a\":[1";
  for (int i = 0; i < 10'000; ++i) list += ",1";
  EXPECT_EQ(show(paramsOf(list + "]}")), "refused");
}

TEST(FrontJson, AToolsArgumentsAreAnObjectOfBoundedDepth) {
  EXPECT_TRUE(checkObject(R"({"a":{"b":[1,{"c":null}]}})"));
  auto nested = [](int depth) {
    std::string text = "{\"a\":";
    for (int i = 1; i < depth; ++i) text += '[';
    for (int i = 1; i < depth; ++i) text += ']';
    return text + "}";
  };
  EXPECT_FALSE(checkObject("{\"a\":}"));
  EXPECT_TRUE(checkObject(nested(32).replace(5, 1, "[")));
  EXPECT_FALSE(checkObject(nested(33)));
  EXPECT_FALSE(checkObject(std::string(1'000'000, '[')));
  EXPECT_FALSE(checkObject(R"({"a":{"b":1,"b":2}})"));
  EXPECT_FALSE(checkObject("[]"));
  EXPECT_FALSE(checkObject(""));
  auto keys = [](int count) {
    std::string text = "{";
    for (int i = 0; i < count; ++i) text += (i ? ",\"" : "\"") + std::to_string(i) + "\":1";
    return text + "}";
  };
  EXPECT_TRUE(checkObject(keys(10'000)));
  EXPECT_FALSE(checkObject(keys(10'001))) << "each costs time on the thread of all doors";
}

TEST(FrontJson, AnErrorIsJsonWhateverItsText) {
  Refusal refusal;
  refusal.message = "a\"b\n\xff";
  refusal.rule = "r";
  EXPECT_EQ(jsonOf(refusal),
            "{\"error\":{\"code\":\"invalidArgument\",\"message\":\"a\\\"b\\n\xef\xbf\xbd\","
            "\"advice\":\"\",\"rule\":\"r\"}}\n");
  EXPECT_EQ(memberOf(R"({"tools":[{"name":"a"}]})", "tools"), R"([{"name":"a"}])");
  EXPECT_EQ(memberOf("{}", "tools"), "");
  EXPECT_EQ(memberOf("[", "tools"), "");
}

// --- answers ---

std::string answered(const char* request, uint16_t status, std::vector<Field> fields, int64_t bytes,
                     std::vector<std::string> pieces, bool body_done = true) {
  const auto got = read(request);
  Answer answer;
  auto head = answer.begin(got.request, status, fields, bytes, body_done);
  if (!head) return "refused";
  std::string out = *head;
  for (const std::string& piece : pieces)
    if (!answer.body(piece, out)) return "too long";
  if (!answer.end(out)) return "too short";
  return out + (answer.after() == After::close ? "|close" : "|keep");
}

constexpr const char* kGet = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
constexpr const char* kHead = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";

TEST(FrontAnswer, ABodyIsFramedByItsLengthOrInChunks) {
  EXPECT_EQ(answered(kGet, 200, {{"A", "b"}}, 5, {"he", "llo"}),
            "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\nhello|keep");
  EXPECT_EQ(answered(kGet, 200, {}, -1, {"hello", "", std::string(16, 'x')}),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n10\r\n" +
                std::string(16, 'x') + "\r\n0\r\n\r\n|keep");
  EXPECT_EQ(answered("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, {}, -1, {"a"}),
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\na|close");
  EXPECT_EQ(answered("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, {}, 1, {"a"}),
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\na|keep");
  EXPECT_THAT(answered(kGet, 200, {}, 1, {"a"}, false), HasSubstr("Connection: close"));
}

TEST(FrontAnswer, SomeAnswersHaveNoBody) {
  EXPECT_EQ(answered(kHead, 200, {}, 5, {"hello"}),
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n|keep");
  EXPECT_EQ(answered(kHead, 200, {}, -1, {"hello"}), "HTTP/1.1 200 OK\r\n\r\n|keep");
  EXPECT_EQ(answered(kGet, 204, {}, 0, {}), "HTTP/1.1 204 No Content\r\n\r\n|keep");
  EXPECT_EQ(answered(kGet, 304, {}, 5, {"hello"}), "HTTP/1.1 304 Not Modified\r\n\r\n|keep");
}

TEST(FrontAnswer, ALengthThatIsNotKeptIsFound) {
  EXPECT_EQ(answered(kGet, 200, {}, 3, {"hello"}), "too long");
  EXPECT_EQ(answered(kGet, 200, {}, 3, {"he"}), "too short");
  EXPECT_EQ(answered(kGet, 200, {}, 0, {"a"}), "too long");
}

TEST(FrontAnswer, AHeadThatNoClientMaySeeIsRefused) {
  EXPECT_EQ(answered(kGet, 101, {}, 0, {}), "refused");
  EXPECT_EQ(answered(kGet, 100, {}, 0, {}), "refused");
  EXPECT_EQ(answered(kGet, 600, {}, 0, {}), "refused");
  EXPECT_EQ(answered(kGet, 200, {{"A", "b\r\nSet-Cookie: c"}}, 0, {}), "refused");
  EXPECT_EQ(answered(kGet, 200, {{"A\r\nB", "c"}}, 0, {}), "refused");
  EXPECT_EQ(answered(kGet, 200, {{"A: b", "c"}}, 0, {}), "refused");
  EXPECT_EQ(answered(kGet, 200, {{"A", std::string(70'000, 'b')}}, 0, {}), "refused");
  EXPECT_THAT(answered(kGet, 200,
                       {{"Transfer-Encoding", "chunked"},
                        {"Content-Length", "9"},
                        {"Connection", "close, X"},
                        {"X", "y"},
                        {"Upgrade", "h2"},
                        {"Z", "z"}},
                       0, {}),
              "HTTP/1.1 200 OK\r\nZ: z\r\nContent-Length: 0\r\n\r\n|keep");
}

}  // namespace
}  // namespace mayfly::front
