// The front as boxes meet it: real sockets, a vault that plays its part (front_rig.h).
#include <arpa/inet.h>
#include <errno.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <fstream>
#include <functional>
#include <optional>
#include <sstream>

#include "base/call_filter.h"
#include "front_rig.h"

namespace mayfly::front {
namespace {

using namespace std::literals;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

constexpr auto kLong = 20s;  // what has not come by then never will

template <class Is>
bool until(Is is, std::chrono::milliseconds time = kLong) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (!is() && std::chrono::steady_clock::now() < end) ::usleep(2'000);
  return is();
}

struct Response {
  int status = 0;
  std::string head, body;
  std::string field(const std::string& name) const {
    const size_t at = head.find("\r\n" + name + ": ");
    if (at == std::string::npos) return "-";
    const size_t begin = at + name.size() + 4;
    return head.substr(begin, head.find("\r\n", begin) - begin);
  }
};

class Client {
 public:
  enum class Door { local, tcp };
  explicit Client(const FrontRig::Ends& ends, Door door = Door::tcp) {
    if (door == Door::tcp) {
      fd_ = base::Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      address.sin_port = htons(ends.port);
      connected_ = ::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    } else {
      fd_ = base::Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      ends.path.copy(address.sun_path, sizeof address.sun_path - 1);
      connected_ = ::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    }
    const timeval wait{20, 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
  }
  bool connected() const { return connected_; }
  base::FdView fd() const { return fd_.view(); }

  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  void finishSending() { ::shutdown(fd_.get(), SHUT_WR); }
  void close() { fd_.reset(); }

  // One more read. False: the end, a reset or nothing for kLong (`error` says which).
  bool readMore() {
    char buffer[65'536];
    const ssize_t n = ::recv(fd_.get(), buffer, sizeof buffer, 0);
    error = n < 0 ? errno : 0;
    if (n > 0) in.append(buffer, static_cast<size_t>(n));
    return n > 0;
  }
  bool readUntil(std::string_view what) {
    while (in.find(what) == std::string::npos)
      if (!readMore()) return false;
    return true;
  }
  std::string readToEnd() {
    while (readMore()) {
    }
    return in;
  }
  // A whole answer. Status 0: the connection ended before the answer did.
  Response response(bool to_head = false) {
    Response r;
    if (!readUntil("\r\n\r\n")) return r;
    const size_t end = in.find("\r\n\r\n") + 4;
    r.head = in.substr(0, end);
    in.erase(0, end);
    const int status = std::stoi(r.head.substr(9, 3));
    if (to_head || status == 204 || status == 304 || status == 100) {
      r.status = status;
    } else if (r.field("Transfer-Encoding") == "chunked") {
      for (;;) {
        if (!readUntil("\r\n")) return r;
        const size_t size = std::stoul(in, nullptr, 16), line = in.find("\r\n") + 2;
        while (in.size() < line + size + 2)
          if (!readMore()) return r;
        r.body += in.substr(line, size);
        in.erase(0, line + size + 2);
        if (size == 0) break;
      }
      r.status = status;
    } else if (r.field("Content-Length") != "-") {
      const size_t size = std::stoul(r.field("Content-Length"));
      while (in.size() < size)
        if (!readMore()) return r.body = in, r;
      r.body = in.substr(0, size);
      in.erase(0, size);
      r.status = status;
    } else {
      r.body = readToEnd();
      if (error == 0) r.status = status;
    }
    return r;
  }
  Response ask(std::string_view request) {
    send(request);
    return response();
  }

  std::string in;
  int error = 0;

 private:
  base::Fd fd_;
  bool connected_ = false;
};

std::string get(const std::string& target, const std::string& fields = {}) {
  return "GET " + target + " HTTP/1.1\r\nHost: 127.0.0.1\r\n" + fields + "\r\n";
}
std::string post(const std::string& target, const std::string& body,
                 const std::string& fields = {}) {
  return "POST " + target +
         " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
         fields + "\r\n" + body;
}

class FrontTest : public ::testing::Test {
 protected:
  FrontRig rig;
  FrontRig::Ends door = rig.openDoor(7);
};

// --- routes ---

TEST_F(FrontTest, BothDoorsAnswerWhatTheTaskHas) {
  for (auto way : {Client::Door::local, Client::Door::tcp}) {
    Client client(door, way);
    const auto r = client.ask(get("/"));
    EXPECT_EQ(r.status, 200);
    EXPECT_EQ(r.field("Content-Type"), "application/json");
    EXPECT_THAT(r.body, HasSubstr("\"task\":7"));
    EXPECT_EQ(client.ask(get("/tools")).body, "[{\"name\":\"look\"}]\n")
        << "on the same connection";
  }
  EXPECT_THAT(rig.stage.noted(), Contains("describe 7")) << "with the door's session";
}

TEST_F(FrontTest, ARequestReachesTheVaultAsSentButForHopByHopFields) {
  Client client(door);
  const auto r = client.ask(get("/cap/fixed/v1/a%2Fb?x=%20&y",
                                "Authorization: Bearer x\r\nConnection: keep-alive, X-Mine\r\n"
                                "X-Mine: 1\r\nTE: trailers\r\nAccept: */*\r\n"
                                "Proxy-Authorization: Basic x\r\n"));
  EXPECT_EQ(r.status, 200);
  EXPECT_EQ(r.body, "hello");
  EXPECT_THAT(rig.stage.noted(),
              Contains("http fixed GET /v1/a%2Fb?x=%20&y "
                       "Host=127.0.0.1;Authorization=Bearer x;Accept=*/*; body=0"));
}

TEST_F(FrontTest, ABodyFlowsThroughWhateverItsFraming) {
  const std::string large(300'000, 'b');
  Client client(door, Client::Door::local);
  EXPECT_EQ(client.ask(post("/cap/echo/", large)).body, large);
  std::string chunked = "POST /cap/echo/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 50; ++i) chunked += "7;a=b\r\n" + std::string("chunk") + "\r\n" + "\r\n";
  chunked += "0\r\nTrailer: x\r\n\r\n";
  const auto r = client.ask(chunked);
  EXPECT_EQ(r.status, 200);
  EXPECT_EQ(r.body.size(), 50u * 7);
  EXPECT_EQ(client.ask(post("/cap/sink/", large)).body, std::to_string(2 * large.size() + 350));
  EXPECT_EQ(client.ask(post("/cap/sink/", "")).status, 200);
  EXPECT_EQ(rig.stage.ended, 4u) << "each body's end was told";
  EXPECT_EQ(rig.stage.given_up, 0u);
}

TEST_F(FrontTest, ParametersAndToolsAndCredentialsHaveTheirTypes) {
  Client client(door);
  EXPECT_EQ(
      client.ask(post("/sql/orders?format=csv", R"({"a":1,"b":"x","c":[1,2],"d":null})")).status,
      200);
  EXPECT_EQ(client.ask(get("/sql/orders?a=1&b=x+y")).body, "[{\"a\":1}]");
  const auto minted = client.ask(post("/mint/s3", ""));
  EXPECT_THAT(minted.body, HasSubstr("\"credential\":\"opaque\""));
  EXPECT_EQ(minted.field("Cache-Control"), "no-store");
  EXPECT_EQ(client.ask(post("/tools/look", R"({"id":7})")).body, R"({"got":{"id":7}})");
  EXPECT_THAT(rig.stage.noted(), ::testing::ElementsAre("sql orders csv a:i1 b:'x' c:ints2 d:null",
                                                        "sql orders json a:'1' b:'x y'", "mint s3",
                                                        "tool look {\"id\":7}"));
}

TEST_F(FrontTest, AnAbsoluteTargetGoesToTheProxyAndTheBrokersOwnDoesNot) {
  Client client(door);
  EXPECT_EQ(client.ask("GET http://pypi.org/simple/ HTTP/1.1\r\nHost: pypi.org\r\n\r\n").body,
            "hello");
  EXPECT_EQ(client.ask("GET http://127.0.0.1/cap/fixed/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").body,
            "hello");
  EXPECT_EQ(
      client.ask("GET http://refuse.example/ HTTP/1.1\r\nHost: refuse.example\r\n\r\n").status,
      403);
  EXPECT_THAT(rig.stage.noted(), Contains("proxy@pypi.org  GET /simple/ Host=pypi.org; body=0"));
  EXPECT_THAT(rig.stage.noted(), Contains("http fixed GET /x Host=127.0.0.1; body=0"));
}

TEST_F(FrontTest, ErrorsAreTypedAndTheConnectionGoesOnIfItCan) {
  Client client(door);
  auto r = client.ask(get("/cap/refuse/x"));
  EXPECT_EQ(r.status, 403);
  EXPECT_EQ(r.field("Retry-After"), "2");
  EXPECT_EQ(r.body,
            "{\"error\":{\"code\":\"permissionDenied\",\"message\":\"the rule forbids this\","
            "\"advice\":\"Ask for less.\",\"rule\":\"http.refuse.paths\"}}\n");
  for (const char* target : {"/sql/refuse", "/nothing", "/sql/orders?a=%"})
    EXPECT_EQ(client.ask(get(target)).field("Connection"), "-") << target;
  r = client.ask(get("/mint/refuse"));
  EXPECT_EQ(r.status, 405);
  EXPECT_EQ(r.field("Allow"), "POST");
  EXPECT_EQ(client.ask(post("/mint/refuse", "")).status, 403);
  EXPECT_EQ(client.ask(post("/tools/x", "[]")).status, 400);
  EXPECT_EQ(client.ask(post("/tools/x", "{\"a\":12345678901234567890}")).status, 400);
  EXPECT_EQ(client.ask(post("/sql/x", "{\"a\":{}}")).status, 400);
  EXPECT_EQ(client.ask(post("/tools/x", "x", "Content-Encoding: gzip\r\n")).field("Connection"),
            "close")
      << "the body was not read";
  const auto event = rig.closeDoor(7);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->accepted, 1u);
  EXPECT_EQ(event->refused, 7u) << "those that the front refused, not the vault's";
}

TEST_F(FrontTest, AHeadRequestHasNoBody) {
  Client client(door);
  for (const char* target : {"/cap/fixed/", "/", "/nothing"}) {
    client.send("HEAD "s + target + " HTTP/1.1\r\nHost: a\r\n\r\n");
    const auto r = client.response(true);
    EXPECT_GT(r.status, 0);
    EXPECT_NE(r.field("Content-Length"), "-");
    EXPECT_THAT(client.in, IsEmpty());
  }
  EXPECT_EQ(client.ask(get("/cap/fixed/")).body, "hello") << "the next answer begins with its head";
}

// --- hostile requests ---

TEST_F(FrontTest, AHostileRequestIsAnsweredOnceAndTheConnectionCloses) {
  const std::string smuggled = get("/cap/fixed/smuggled");
  const std::vector<std::pair<std::string, int>> all{
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: "
       "chunked\r\n\r\n0\r\n\r\n",
       400},
      {"POST /cap/sink/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400},
      {"POST /cap/sink/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
       400},
      {"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400},
      {"GET / HTTP/1.1\nHost: a\n\n", 400},
      {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 501},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", 400},
      {"CONNECT a:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", 400},
      {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"s + std::string(100, 'x'), 400},
      {"POST /cap/sink/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n",
       400},
      {"POST /tools/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n", 413},
      {"POST /tools/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n" +
           std::string(1'100'000, 'x'),
       413},
  };
  for (const auto& [bytes, status] : all) {
    Client client(door);
    client.send(bytes);
    client.send(smuggled);
    const auto r = client.response();
    EXPECT_EQ(r.status, status) << bytes.substr(0, 100);
    EXPECT_EQ(r.field("Connection"), "close") << bytes.substr(0, 100);
    EXPECT_EQ(client.readToEnd(), "") << bytes.substr(0, 100);
  }
  for (const std::string& call : rig.stage.noted()) EXPECT_THAT(call, Not(HasSubstr("smuggled")));
}

TEST_F(FrontTest, PipelinedRequestsAreServedInTheirOrderOneAfterTheOther) {
  std::string all;
  for (int i = 0; i < 200; ++i)
    all += post("/cap/echo/", "body " + std::to_string(i)) + (i % 3 ? "" : get("/nothing"));
  Client client(door);
  std::thread writer([&] { client.send(all); });
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(client.response().body, "body " + std::to_string(i));
    if (i % 3 == 0) {
      EXPECT_EQ(client.response().status, 404);
    }
  }
  writer.join();
  EXPECT_LE(rig.stage.running_max, 2u) << "the last one's objects may be on their way back";
}

TEST_F(FrontTest, ContinueIsSaidOnceTheBodyIsWanted) {
  Client client(door);
  client.send(
      "POST /cap/sink/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.response().status, 100);
  client.send("hello");
  EXPECT_EQ(client.response().body, "5");
  client.send(
      "POST /cap/refuse/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.response().status, 403) << "instead of 100";
  Client other(door);
  other.send(
      "POST /tools/a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(other.response().status, 100);
  EXPECT_EQ(other.ask("{}").status, 200);
  EXPECT_EQ(other
                .ask("POST /tools/a HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n"
                     "Expect: 100-continue\r\n\r\n")
                .status,
            413)
      << "instead of 100";
}

TEST_F(FrontTest, TheUnixDoorRefusesHttp10BecauseItCannotReset) {
  Client local(door, Client::Door::local);
  EXPECT_EQ(local.ask("GET /cap/fixed/ HTTP/1.0\r\n\r\n").status, 505);
  Client tcp(door);
  EXPECT_EQ(tcp.ask("GET /cap/fixed/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").body, "hello");
  EXPECT_EQ(tcp.ask("GET /cap/cut-chunked/ HTTP/1.0\r\n\r\n").status, 0);
  EXPECT_EQ(tcp.error, ECONNRESET) << "without a length, a clean end would look whole";
}

// --- streams ---

TEST_F(FrontTest, TokensFlowOneByOne) {
  Client client(door);
  client.send(get("/cap/sse/"));
  ASSERT_TRUE(client.readUntil("\r\n\r\n")) << "the head comes before the first token";
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(client.in, Not(HasSubstr("data: " + std::to_string(i))));
    rig.stage.release("token" + std::to_string(i));
    ASSERT_TRUE(client.readUntil("data: " + std::to_string(i) + "\n\n"));
  }
  EXPECT_TRUE(client.readUntil("\r\n0\r\n\r\n"));
  client.in.clear();
  EXPECT_EQ(client.ask(get("/cap/fixed/")).status, 200) << "on the same connection";
}

TEST_F(FrontTest, AReaderThatStopsHoldsTheVaultUp) {
  Client client(door);
  client.send(get("/cap/flood/"));
  ASSERT_TRUE(client.readUntil("\r\n\r\n"));
  uint64_t before = 0;
  // The kernel's buffers fill; then nothing more may be taken.
  ASSERT_TRUE(until([&] {
    const uint64_t now = rig.stage.written;
    const bool still = now > 0 && now == before;
    before = now;
    ::usleep(200'000);
    return still;
  }));
  EXPECT_LT(rig.stage.written, 16u << 20);
  const size_t target = client.in.size() + (4u << 20);
  while (client.in.size() < target && client.readMore()) {
  }
  EXPECT_TRUE(until([&] { return rig.stage.written > before; })) << "reading goes on";
  client.close();
  EXPECT_TRUE(until([&] { return rig.stage.running == 0; })) << "the vault learns at once";
}

TEST_F(FrontTest, AVaultThatStopsHoldsTheWriterUp) {
  Client client(door);
  client.send("POST /cap/slow/ HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n");
  const std::string piece(65'536, 'x');
  const timeval soon{0, 300'000};
  ::setsockopt(client.fd().get(), SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon);
  size_t sent = 0;
  while (sent < 50'000'000 && client.send(piece)) sent += piece.size();
  EXPECT_LT(sent, 16u << 20);
  EXPECT_LE(rig.stage.received, 64u << 10);
  rig.stage.release("slow");
  EXPECT_TRUE(until([&] { return rig.stage.received > (1u << 20); }));
}

TEST_F(FrontTest, AnAnswerThatIsCutOffNeverLooksWhole) {
  for (const char* action : {"cut", "cut-chunked", "long", "short", "two-heads"})
    for (auto way : {Client::Door::tcp, Client::Door::local}) {
      Client client(door, way);
      client.send(get("/cap/"s + action + "/"));
      EXPECT_EQ(client.response().status, 0) << action;
      if (way == Client::Door::tcp) {
        EXPECT_EQ(client.error, ECONNRESET) << action;
      }
    }
  // Before the answer has begun, the client gets a typed error.
  const std::vector<std::pair<const char*, int>> errors{{"end-error", 504},  {"bad-head", 502},
                                                        {"bad-status", 502}, {"no-head", 502},
                                                        {"throw", 502},      {"drop", 502}};
  for (const auto& [action, status] : errors) {
    Client client(door);
    const auto r = client.ask(get("/cap/"s + action + "/"));
    EXPECT_EQ(r.status, status) << action;
    EXPECT_THAT(r.body, HasSubstr("{\"error\":{\"code\":")) << action;
    EXPECT_THAT(r.head, Not(HasSubstr("Set-Cookie")));
  }
}

TEST_F(FrontTest, AnAnswerBeforeTheBodysEndEndsTheConnection) {
  Client client(door);
  client.send("POST /cap/early/ HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc");
  const auto r = client.response();
  EXPECT_EQ(r.status, 413);
  EXPECT_EQ(r.field("Connection"), "close");
  EXPECT_EQ(client.readToEnd(), "");
  EXPECT_EQ(client.error, 0);
  EXPECT_TRUE(until([&] { return rig.stage.given_up == 1; }));
  Client other(door);
  EXPECT_EQ(other.ask(post("/cap/refuse-body/", "abc")).status, 413);
}

TEST_F(FrontTest, AClientThatGoesEndsItsCall) {
  Client client(door);
  client.send(get("/cap/sse/"));
  ASSERT_TRUE(until([&] { return rig.stage.running > 0; }));
  client.close();
  EXPECT_TRUE(until([&] { return rig.stage.running == 0; }));
  Client half(door);
  half.send("POST /cap/sink/ HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
  ASSERT_TRUE(until([&] { return rig.stage.received == 3; }));
  half.close();
  EXPECT_TRUE(until([&] { return rig.stage.given_up == 1; }));
}

TEST_F(FrontTest, AClientThatGoesDuringASlowUploadFreesItsConnection) {
  const auto narrow = rig.openDoor(8, 1);
  Client client(narrow);
  client.send("POST /cap/slow/ HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
  ASSERT_TRUE(until([&] { return rig.stage.received == 3; }));
  client.close();
  EXPECT_EQ(Client(narrow).ask(get("/")).status, 200) << "though the vault has not taken the bytes";
}

// --- tunnels ---

std::string helloFor(const std::string& name) {
  auto u16 = [](size_t n) { return std::string{static_cast<char>(n >> 8), static_cast<char>(n)}; };
  const std::string entry = "\0"s + u16(name.size()) + name;
  const std::string sni = "\0\0"s + u16(entry.size() + 2) + u16(entry.size()) + entry;
  std::string body = "\x03\x03"s + std::string(32, 'r') + "\0"s + u16(2) + "\x13\x01" + "\x01\0"s +
                     u16(sni.size()) + sni;
  body = "\x01\0"s + u16(body.size()) + body;
  return "\x16\x03\x01"s + u16(body.size()) + body;
}

TEST_F(FrontTest, ATunnelCarriesBytesOnceTheHelloNamesItsHost) {
  Client client(door);
  client.send("CONNECT Pypi.org:443 HTTP/1.1\r\nHost: pypi.org:443\r\n\r\n");
  ASSERT_TRUE(client.readUntil("\r\n\r\n"));
  EXPECT_THAT(client.in, StartsWith("HTTP/1.1 200 "));
  client.in.clear();
  const std::string hello = helloFor("pypi.org");
  client.send(hello.substr(0, 20));
  ::usleep(50'000);
  EXPECT_EQ(rig.stage.received, 0u) << "half a hello goes nowhere";
  client.send(hello.substr(20) + "more");
  ASSERT_TRUE(client.readUntil("more"));
  EXPECT_EQ(client.in, hello + "more") << "echoed";
  client.finishSending();
  EXPECT_EQ(client.readToEnd(), hello + "more");
  EXPECT_EQ(client.error, 0);
  EXPECT_THAT(rig.stage.noted(), Contains("tunnel pypi.org:443"));
}

TEST_F(FrontTest, ATunnelForAnotherNameEndsBeforeAByteIsPassedOn) {
  for (const std::string& first : {helloFor("evil.example"), helloFor("pypi.org.evil.example"),
                                   get("/"), "\x16\x03\x01\x00\x00"s, helloFor("")}) {
    Client client(door);
    client.send("CONNECT pypi.org:443 HTTP/1.0\r\n\r\n");
    ASSERT_TRUE(client.readUntil("\r\n\r\n"));
    client.in.clear();
    client.send(first);
    EXPECT_EQ(client.readToEnd(), "\x15\x03\x01\x00\x02\x02\x70"s);
  }
  EXPECT_EQ(rig.stage.received, 0u);
  Client client(door);
  EXPECT_EQ(
      client.ask("CONNECT refuse.example:443 HTTP/1.1\r\nHost: refuse.example\r\n\r\n").status,
      403);
}

// --- ends ---

TEST_F(FrontTest, AClosedDoorHasNoConnectionLeft) {
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(
        std::make_unique<Client>(door, i % 2 ? Client::Door::tcp : Client::Door::local));
    clients.back()->send(i % 3 == 0 ? get("/cap/flood/") : i % 3 == 1 ? get("/cap/sse/") : "GET /");
  }
  ASSERT_TRUE(until([&] { return rig.stage.running == 14; }));
  const auto event = rig.closeDoor(7);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->session, 7u);
  EXPECT_EQ(event->accepted, 20u);
  for (int i = 0; i < 20; ++i) {
    clients[i]->readToEnd();
    if (i % 2 == 1) {
      EXPECT_EQ(clients[i]->error, ECONNRESET) << i;
    }
  }
  EXPECT_TRUE(until([&] { return rig.stage.running == 0; }));
  EXPECT_FALSE(Client(door).connected()) << "connection refused";
  EXPECT_FALSE(Client(door, Client::Door::local).connected());
  const auto unknown = rig.closeDoor(99);
  ASSERT_TRUE(unknown);
  EXPECT_EQ(unknown->session, 99u);
}

TEST_F(FrontTest, AVaultThatDiesFailsItsCallsAndTheNextOneServes) {
  Client waiting(door), streaming(door);
  waiting.send(post("/tools/never", "{}"));
  streaming.send(get("/cap/sse/"));
  ASSERT_TRUE(streaming.readUntil("\r\n\r\n"));
  ASSERT_TRUE(until([&] { return rig.stage.noted().size() == 2; }));
  rig.endVault();
  const auto r = waiting.response();
  EXPECT_EQ(r.status, 502);
  EXPECT_THAT(r.body, HasSubstr("\"code\":\"unavailable\""));
  EXPECT_EQ(r.field("Retry-After"), "1");
  streaming.readToEnd();
  EXPECT_EQ(streaming.error, ECONNRESET);
  EXPECT_EQ(waiting.ask(get("/")).status, 503) << "on the same connection";
  rig.newVault();
  EXPECT_TRUE(until([&] { return waiting.ask(get("/")).status == 200; }));
  EXPECT_EQ(waiting.ask(get("/cap/die/")).status, 502);
}

TEST_F(FrontTest, WhatIsNoDoorRequestEndsTheFront) {
  wire::DoorRequest request;
  request.kind = wire::DoorRequest::Kind::open;
  request.session = 9;
  request.connections_max = 10;
  ASSERT_TRUE(base::sendMessage(rig.doorLink(), base::bytesOf(request), {}));
  EXPECT_TRUE(until([&] { return !rig.whyEnded().empty(); }));
  EXPECT_THAT(rig.whyEnded(), HasSubstr("descriptors"));
}

TEST(Front, ADescriptorThatIsNoListeningSocketEndsTheFront) {
  FrontRig rig;
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  base::Fd a(pair[0]), b(pair[1]);
  rig.sendOpen(3, 10, a, b);
  EXPECT_TRUE(until([&] { return !rig.whyEnded().empty(); }));
  EXPECT_THAT(rig.whyEnded(), HasSubstr("listening"));
}

// --- times ---

TEST(Front, ASlowRequestEndsInTimeWhateverPartIsSlow) {
  Options options = quickOptions();
  options.head_time = Options::Time(300);
  options.idle_time = Options::Time(300);
  options.stall_time = Options::Time(300);
  options.body_time = Options::Time(600);
  FrontRig rig(options);
  const auto door = rig.openDoor(1);
  struct Case {
    const char* name;
    std::string first;
    std::string again;  // sent every 50 ms
    int status;
  };
  for (const Case& each : {
           Case{"nothing", "", "", 0},
           Case{"half a head", "GET / HTTP/1.1\r\nHost: a\r\n", "", 408},
           Case{"endless headers", "GET / HTTP/1.1\r\nHost: a\r\n", "X: a\r\n", 408},
           Case{"a body that stops",
                "POST /tools/a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{", "", 408},
           Case{"a body that trickles",
                "POST /tools/a HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n{", " ", 408},
           Case{"a stream that trickles",
                "POST /cap/sink/ HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n", "x", 408},
       }) {
    Client client(door);
    client.send(each.first);
    std::atomic<bool> over{false};
    std::thread trickle([&] {
      while (!over && !each.again.empty()) {
        client.send(each.again);
        ::usleep(50'000);
      }
    });
    const auto begun = std::chrono::steady_clock::now();
    EXPECT_EQ(client.response().status, each.status) << each.name;
    EXPECT_LT(std::chrono::steady_clock::now() - begun, 10s) << each.name;
    over = true;
    trickle.join();
  }
  // Idle after an answer.
  Client client(door);
  EXPECT_EQ(client.ask(get("/")).status, 200);
  EXPECT_EQ(client.readToEnd(), "");
}

TEST(Front, AReaderThatTakesNothingIsReset) {
  Options options = quickOptions();
  options.write_time = Options::Time(400);
  FrontRig rig(options);
  const auto door = rig.openDoor(1);
  Client client(door);
  client.send(get("/cap/flood/"));
  ASSERT_TRUE(client.readUntil("\r\n\r\n"));
  EXPECT_TRUE(until([&] { return rig.stage.running == 0; }));
}

// --- many ---

TEST(Front, OneDoorsConnectionsAreBoundedAndTheOthersWait) {
  FrontRig rig;
  const auto door = rig.openDoor(1, 10);
  std::vector<std::unique_ptr<Client>> held;
  for (int i = 0; i < 10; ++i) {
    held.push_back(std::make_unique<Client>(door));
    ASSERT_EQ(held.back()->ask(get("/")).status, 200);
  }
  Client waiting(door);
  ASSERT_TRUE(waiting.connected()) << "in the kernel's queue";
  waiting.send(get("/"));
  pollfd p{waiting.fd().get(), POLLIN, 0};
  EXPECT_EQ(::poll(&p, 1, 300), 0);
  held.pop_back();
  EXPECT_EQ(waiting.response().status, 200);
}

TEST(Gate, ADoorWaitsForOneTurnPerOtherDoorHoweverManyConnectionsThoseHave) {
  constexpr uint32_t kStarts = 16, kHostile = 1'000;
  boost::asio::io_context host{1};
  edge::AsioPort port(host, {},
                      [](kj::Exception&& e) { ADD_FAILURE() << e.getDescription().cStr(); });
  Gate gate(port, kStarts);
  Gate::Queue hostile(gate, 1), good(gate, 1);
  uint64_t passed = 0;
  // Each of its connections asks again at once, for ever.
  std::function<kj::Promise<void>()> again = [&] {
    return hostile.pass().then([&] {
      ++passed;
      return again();
    });
  };
  std::vector<kj::Promise<void>> flood;
  for (uint32_t i = 0; i < kHostile; ++i) flood.push_back(again().eagerlyEvaluate(nullptr));
  const auto runUntil = [&](auto is) {
    const auto end = std::chrono::steady_clock::now() + kLong;
    while (!is() && std::chrono::steady_clock::now() < end) host.run_one_for(100ms);
    return is();
  };
  ASSERT_TRUE(runUntil([&] { return passed > 10 * kHostile; }));
  for (int i = 0; i < 20; ++i) {
    // Counted when its turn comes: the flood goes on until the test sees it.
    std::optional<uint64_t> at;
    const uint64_t before = passed;
    auto pass = good.pass().then([&] { at = passed; }).eagerlyEvaluate(nullptr);
    ASSERT_TRUE(runUntil([&] { return at.has_value(); }));
    EXPECT_LE(*at - before, 2 * kStarts);
  }
}

TEST(Front, HundredsOfConnectionsOfOneDoorDoNotStarveAnother) {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  const int count = static_cast<int>(std::min<rlim_t>(1'000, (files.rlim_max - 200) / 2));
  ASSERT_GE(count, 100) << "RLIMIT_NOFILE is too low for this test";
  FrontRig rig;
  const auto hostile = rig.openDoor(1, 1'000), good = rig.openDoor(2);
  std::vector<std::unique_ptr<Client>> all;
  std::string flood;
  for (int i = 0; i < 50; ++i) flood += get("/nothing" + std::string(500, 'x'));
  for (int i = 0; i < count; ++i) {
    all.push_back(std::make_unique<Client>(hostile));
    // No one reads the answers: each connection holds what it may.
    (void)!::send(all.back()->fd().get(), flood.data(), flood.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  Client client(good);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(client.ask(get("/cap/fixed/")).status, 200);
  all.clear();
  EXPECT_EQ(client.ask(get("/")).status, 200);
  const auto event = rig.closeDoor(1);
  ASSERT_TRUE(event);
  EXPECT_GT(event->accepted, 100u);
}

TEST(Front, ADoorHasItsGuaranteedConnectionsWhenTheFrontIsFull) {
  Options options = quickOptions();
  options.connections_max = 20;
  options.connections_guaranteed = 4;
  FrontRig rig(options);
  const auto greedy = rig.openDoor(1, 100), late = rig.openDoor(2, 100);
  std::vector<std::unique_ptr<Client>> held;
  for (int i = 0; i < 30; ++i) {
    held.push_back(std::make_unique<Client>(greedy));
    held.back()->send(get("/"));
  }
  const auto served = [&] {
    int count = 0;
    for (auto& client : held) {
      pollfd p{client->fd().get(), POLLIN, 0};
      count += ::poll(&p, 1, 0) == 1;
    }
    return count;
  };
  EXPECT_TRUE(until([&] { return served() == 16; }));
  ::usleep(300'000);
  EXPECT_EQ(served(), 16);
  std::vector<std::unique_ptr<Client>> few;
  for (int i = 0; i < 4; ++i) {
    few.push_back(std::make_unique<Client>(late));
    EXPECT_EQ(few.back()->ask(get("/")).status, 200) << i;
  }
  held.clear();
  Client fifth(late);
  EXPECT_EQ(fifth.ask(get("/")).status, 200) << "once there is room";
  // A door for which nothing is guaranteed any more is closed at once.
  for (uint64_t session = 3; session < 8; ++session) rig.openDoor(session);
  const auto event = rig.nextEvent();
  ASSERT_TRUE(event);
  EXPECT_GE(event->session, 5u);
}

TEST(Front, CallsOfOneDoorAreBoundedAndTheOthersWaitForTheirTurn) {
  Options options = quickOptions();
  options.calls_per_door_max = 3;
  options.turn_time = Options::Time(2'000);
  FrontRig rig(options);
  const auto door = rig.openDoor(1);
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<Client>(door));
    clients.back()->send(get("/cap/sse/"));
  }
  ASSERT_TRUE(until([&] { return rig.stage.running == 3; }));
  Client late(door);
  EXPECT_EQ(late.ask(get("/cap/fixed/")).status, 429);
  Client next(door);
  next.send(get("/cap/fixed/"));
  clients.pop_back();
  EXPECT_EQ(next.response().status, 200);
  EXPECT_EQ(rig.stage.running_max, 3u);
}

TEST(Front, AnswersThatABoxLeavesInTheUnixDoorsKernelBufferCountForItsDoor) {
  Options options = quickOptions();
  options.write_time = options.idle_time = Options::Time(100);
  FrontRig rig(options);
  const auto door = rig.openDoor(1, 5);
  std::vector<std::unique_ptr<Client>> held;
  for (int i = 0; i < 5; ++i) {
    held.push_back(std::make_unique<Client>(door, Client::Door::local));
    held.back()->send(get("/cap/large/"));
  }
  ASSERT_TRUE(until([&] { return rig.stage.noted().size() == 5; }));
  ASSERT_TRUE(until([&] { return rig.stage.running == 0; })) << "nobody reads: they are reset";
  Client sixth(door, Client::Door::local);
  sixth.send(get("/"));
  pollfd p{sixth.fd().get(), POLLIN, 0};
  EXPECT_EQ(::poll(&p, 1, 500), 0) << "their bytes are still in the host's memory";
  size_t bytes = 0;
  for (auto& client : held) bytes += client->readToEnd().size();
  EXPECT_LT(bytes, 5u * 512 * 1'024);
  EXPECT_EQ(sixth.response().status, 200);
}

TEST(Front, AKernelBufferHoldsLittleOfAnAnswer) {
  FrontRig rig;
  const auto door = rig.openDoor(1);
  Client client(door);
  client.send(get("/cap/flood/"));
  ASSERT_TRUE(client.readUntil("\r\n\r\n"));
  uint64_t before = 0;
  // Until a while passes in which nothing more is taken.
  while (rig.stage.written != before) {
    before = rig.stage.written;
    ::usleep(200'000);
  }
  EXPECT_LT(before, 6u << 20) << "this test's own receive buffer is most of it";
  FrontRig::Ends other = rig.openDoor(2);
  Client local(other, Client::Door::local);
  local.send(get("/cap/large/"));
  ASSERT_TRUE(local.readUntil("\r\n\r\n"));
}

TEST(Front, BuffersOfOneDoorAreBounded) {
  Options options = quickOptions();
  options.buffer_bytes_per_door_max = 100u << 10;
  FrontRig rig(options);
  const auto door = rig.openDoor(1), other = rig.openDoor(2);
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 5; ++i) {
    clients.push_back(std::make_unique<Client>(door));
    clients.back()->send("GET / HTTP/1.1\r\nX: " + std::string(20'000, 'a'));
  }
  EXPECT_TRUE(until([&] {
    int refused = 0;
    for (auto& client : clients) {
      pollfd p{client->fd().get(), POLLIN, 0};
      refused += ::poll(&p, 1, 0) == 1;
    }
    return refused == 3;
  }));
  int answered = 0;
  for (auto& client : clients) {
    pollfd p{client->fd().get(), POLLIN, 0};
    if (::poll(&p, 1, 0) != 1) continue;
    ++answered;
    EXPECT_EQ(client->response().status, 503);
  }
  EXPECT_EQ(answered, 3);
  Client client(other);
  EXPECT_EQ(client.ask(get("/", "X: " + std::string(20'000, 'a') + "\r\n")).status, 200);
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(client.ask(post("/tools/a", "{\"a\":\"" + std::string(40'000, 'a') + "\"}")).status,
              200)
        << "what a request held is free again";
}

// --- real clients ---

struct Ran {
  int code = -1;
  std::string out;
};
Ran shell(const std::string& command) {
  Ran ran;
  FILE* pipe = ::popen(("exec 2>&1; " + command).c_str(), "r");
  if (pipe == nullptr) return ran;
  char buffer[4'096];
  for (size_t n; (n = ::fread(buffer, 1, sizeof buffer, pipe)) > 0;) ran.out.append(buffer, n);
  ran.code = ::pclose(pipe);
  return ran;
}

TEST_F(FrontTest, CurlWorksAsItComes) {
  if (shell("curl --version").code != 0) GTEST_SKIP() << "there is no curl";
  for (auto way : {0, 1}) {
    const std::string url = way == 0 ? "http://127.0.0.1:" + std::to_string(door.port)
                                     : "--unix-socket " + door.path + " http://broker";
    const std::string curl = "curl -sS --noproxy '*' --max-time 20 ";
    EXPECT_EQ(shell(curl + url + "/cap/fixed/a").out, "hello");
    EXPECT_EQ(shell(curl + "-d '{\"id\":7}' " + url + "/tools/look").out, "{\"got\":{\"id\":7}}");
    EXPECT_EQ(
        shell("head -c 2000000 /dev/zero | " + curl + "-T - " + url + "/cap/echo/ | wc -c").out,
        "2000000\n")
        << "chunked, with Expect";
    EXPECT_EQ(shell(curl + "-o /dev/null -w '%{http_code} %{num_connects}\\n' " + url +
                    "/cap/refuse/ -o /dev/null " + url + "/")
                  .out,
              "403 1\n200 0\n");
    EXPECT_NE(shell(curl + url + "/cap/cut/").code, 0);
    EXPECT_NE(shell(curl + url + "/cap/cut-chunked/").code, 0);
    EXPECT_THAT(shell(curl + "-I " + url + "/cap/fixed/").out, HasSubstr("Content-Length: 5"));
  }
  const std::string proxy =
      "curl -sS --max-time 20 -x http://127.0.0.1:" + std::to_string(door.port);
  EXPECT_EQ(shell(proxy + " http://pypi.org/simple/").out, "hello");
  EXPECT_THAT(shell(proxy + " https://refuse.example/").out, HasSubstr("403"));
}

TEST_F(FrontTest, PythonsClientsWorkAsTheyCome) {
  const std::string script = "/tmp/mayfly-front-" + std::to_string(::getpid()) + ".py";
  std::ofstream(script) << R"(
import http.client, json, sys, urllib.request
port = int(sys.argv[1])
c = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
def ask(method, path, body=None, headers={}, **more):
    c.request(method, path, body, headers, **more)
    r = c.getresponse()
    return r.status, r.read()
assert ask("GET", "/cap/fixed/") == (200, b"hello")
assert ask("POST", "/cap/echo/", b"x" * 100000) == (200, b"x" * 100000)
assert ask("POST", "/cap/echo/", iter([b"ab", b"cd"]), encode_chunked=True,
           headers={"Transfer-Encoding": "chunked"}) == (200, b"abcd")
assert ask("POST", "/tools/look", json.dumps({"a": [1, 2.5, None]}))[0] == 200
assert ask("GET", "/cap/refuse/")[0] == 403
try:
    ask("GET", "/cap/cut/")
    raise SystemExit("a cut-off answer looked whole")
except (http.client.IncompleteRead, ConnectionError):
    pass
urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))
assert urllib.request.urlopen("http://127.0.0.1:%d/" % port).status == 200
try:
    import requests
except ImportError:
    from pip._vendor import requests
s = requests.Session()
s.trust_env = False
base = "http://127.0.0.1:%d" % port
assert s.get(base + "/cap/fixed/").text == "hello"
assert s.post(base + "/tools/look", json={"id": 7}).json() == {"got": {"id": 7}}
r = s.get(base + "/cap/refuse/")
assert r.status_code == 403 and r.json()["error"]["rule"] == "http.refuse.paths"
assert s.get("http://pypi.org/x", proxies={"http": base}).text == "hello"
try:
    s.get(base + "/cap/cut-chunked/").content
    raise SystemExit("a cut-off answer looked whole")
except requests.exceptions.RequestException:
    pass
print("with requests")
)";
  const Ran ran = shell("/usr/bin/python3 " + script + " " + std::to_string(door.port));
  EXPECT_EQ(ran.code, 0) << ran.out;
  ::unlink(script.c_str());
}

// --- walls ---

// The program itself, in a process of its own, behind its walls.
TEST(Front, ServesBehindItsWallsWithoutACallThatTheyRefuse) {
  auto supervisor = base::makeSeqpacketPair(), doors = base::makeSeqpacketPair();
  auto log = base::makePipe();
  ASSERT_TRUE(supervisor && doors && log);
  const pid_t child = ::fork();
  if (child == 0) {
    supervisor->ours.reset();
    doors->ours.reset();
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    ::_exit(runFront(std::move(supervisor->theirs), std::move(doors->theirs), log->write.view()));
  }
  log->write.reset();
  doors->theirs.reset();
  supervisor->theirs.reset();

  // No vault: 503 by the front itself, and a link to one that never answers.
  base::Fd tcp(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  base::Fd local(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof in;
  ASSERT_EQ(::bind(tcp.get(), reinterpret_cast<sockaddr*>(&in), sizeof in), 0);
  ASSERT_EQ(::getsockname(tcp.get(), reinterpret_cast<sockaddr*>(&in), &bytes), 0);
  FrontRig::Ends ends;
  ends.port = ntohs(in.sin_port);
  ends.path = "/tmp/mayfly-front-walls-" + std::to_string(::getpid());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ends.path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(local.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(tcp.get(), 16), 0);
  ASSERT_EQ(::listen(local.get(), 16), 0);
  wire::DoorRequest request;
  request.kind = wire::DoorRequest::Kind::open;
  request.session = 1;
  request.connections_max = 10;
  const int fds[] = {local.get(), tcp.get()};
  ASSERT_TRUE(base::sendMessage(doors->ours.view(), base::bytesOf(request), fds));
  EXPECT_EQ(Client(ends).ask(get("/")).status, 503);
  EXPECT_EQ(Client(ends, Client::Door::local).ask("x\n").status, 400);
  int vault[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, vault), 0);
  wire::FrontMessage message;
  message.kind = wire::FrontMessage::Kind::vault;
  ASSERT_TRUE(base::sendMessage(supervisor->ours.view(), base::bytesOf(message),
                                std::span<const int>(&vault[1], 1)));
  ::close(vault[1]);
  Client client(ends);
  client.send(post("/cap/a/", "abc"));
  char byte;
  EXPECT_EQ(::recv(vault[0], &byte, 1, 0), 1) << "the call is made";
  ::close(vault[0]);
  EXPECT_EQ(client.response().status, 502);
  request.kind = wire::DoorRequest::Kind::close;
  ASSERT_TRUE(base::sendMessage(doors->ours.view(), base::bytesOf(request), {}));
  wire::DoorEvent event;
  EXPECT_TRUE(base::receiveMessage(doors->ours.view(), base::writableBytesOf(event)));
  EXPECT_EQ(event.session, 1u);

  // Neither a file nor a process: the limits of the living process say so.
  std::ifstream limits("/proc/" + std::to_string(child) + "/limits");
  std::stringstream text;
  text << limits.rdbuf();
  EXPECT_THAT(text.str(), ::testing::ContainsRegex("Max file size +0 +0"));
  EXPECT_THAT(text.str(), ::testing::ContainsRegex("Max processes +0 +0"));
  EXPECT_THAT(text.str(), ::testing::ContainsRegex("Max core file size +0 +0"));
  if (!base::kSanitized) {
    std::ifstream status("/proc/" + std::to_string(child) + "/status");
    std::stringstream lines;
    lines << status.rdbuf();
    EXPECT_THAT(lines.str(), HasSubstr("Seccomp:\t2"));
  }
  doors->ours.reset();
  std::string said;
  char buffer[512];
  for (ssize_t n; (n = ::read(log->read.get(), buffer, sizeof buffer)) > 0;)
    said.append(buffer, static_cast<size_t>(n));
  EXPECT_THAT(said, Not(HasSubstr("refused itself")));
  EXPECT_THAT(said, HasSubstr("mayfly-broker front: ends"));
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  ::unlink(ends.path.c_str());
}

}  // namespace
}  // namespace mayfly::front
