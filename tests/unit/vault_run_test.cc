// Whole calls of the vault, against an upstream on this thread. The test is the front, and mostly
// one that was taken over: it says what no sound front would.
#include <curl/curl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sodium.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>

#include "base/clock.h"
#include "edge/asio_port.h"
#include "edge/convert.h"
#include "vault/metered_socket.h"
#include "vault/server.h"
#include "vault/transfer.h"

namespace mayfly::vault {
namespace {

using namespace std::literals;
using boost::asio::ip::tcp;
using testing::HasSubstr;
using testing::Not;

// --- the upstream ----------------------------------------------------------------------

class Upstream {
 public:
  // Called with all that a connection has sent; returns bytes to answer, or none.
  using Answers = std::function<std::string(const std::string&)>;

  explicit Upstream(boost::asio::io_context& io)
      : acceptor_(io, tcp::endpoint(boost::asio::ip::address_v4::loopback(), 0)) {
    accept();
  }
  uint16_t port() const { return acceptor_.local_endpoint().port(); }
  // From now on a connection stays in the making: the kernel's queue of ready ones is full.
  void letNobodyIn() {
    acceptor_.cancel();
    acceptor_.listen(0);
    queued_.emplace(acceptor_.get_executor()).connect(acceptor_.local_endpoint());
  }

  std::string received;  // on all connections
  uint32_t connections = 0, ended = 0;
  Answers answers = [](const std::string&) { return std::string(); };

 private:
  struct Peer {
    explicit Peer(tcp::socket s) : socket(std::move(s)) {}
    tcp::socket socket;
    char buffer[4'096];
    std::string in, out;
  };
  void accept() {
    acceptor_.async_accept([this](boost::system::error_code failed, tcp::socket socket) {
      if (failed) return;
      ++connections;
      read(std::make_shared<Peer>(std::move(socket)));
      accept();
    });
  }
  void read(const std::shared_ptr<Peer>& peer) {
    peer->socket.async_read_some(boost::asio::buffer(peer->buffer),
                                 [this, peer](boost::system::error_code failed, size_t n) {
                                   if (failed == boost::asio::error::operation_aborted) return;
                                   if (failed) return void(++ended);
                                   received.append(peer->buffer, n);
                                   peer->in.append(peer->buffer, n);
                                   peer->out = answers(peer->in);
                                   if (peer->out.empty()) return read(peer);
                                   peer->in.clear();
                                   boost::asio::async_write(
                                       peer->socket, boost::asio::buffer(peer->out),
                                       [this, peer](boost::system::error_code broken, size_t) {
                                         if (!broken) read(peer);
                                       });
                                 });
  }
  tcp::acceptor acceptor_;
  std::optional<tcp::socket> queued_;
};

// --- a call ------------------------------------------------------------------------------

struct Told {
  int status = 0;
  std::string headers;  // "name: value\n" each
  std::string body;
  bool ended = false;
  uint16_t code = 0;  // of the end
  std::string rule;
};

class DownServer final : public schema::Down::Server {
 public:
  explicit DownServer(std::shared_ptr<Told> told) : told_(std::move(told)) {}

 private:
  kj::Promise<void> head(HeadContext context) override {
    told_->status = context.getParams().getStatus();
    for (auto each : context.getParams().getHeaders())
      told_->headers += edge::str(each.getName()) + ": " + edge::str(each.getValue()) + "\n";
    told_->body += edge::str(context.getParams().getData());
    told_->ended = context.getParams().getEnded();
    return kj::READY_NOW;
  }
  kj::Promise<void> write(WriteContext context) override {
    told_->body += edge::str(context.getParams().getData());
    return kj::READY_NOW;
  }
  kj::Promise<void> end(EndContext context) override {
    auto error = context.getParams().getError();
    told_->ended = true;
    told_->code = error.getCode();
    told_->rule = edge::str(error.getRule());
    return kj::READY_NOW;
  }
  std::shared_ptr<Told> told_;
};

struct Call {
  std::shared_ptr<Told> told = std::make_shared<Told>();
  bool returned = false;
  bool answered = false;  // by the return
  std::string rule;       // of the call's own error
  uint16_t code = 0;
  kj::Maybe<schema::Up::Client> up;
  std::vector<uint16_t> written;  // the codes of the writes
  std::vector<std::string> rules;
  std::vector<kj::Promise<void>> waits;

  void take(schema::Answer::Reader whole) {
    EXPECT_FALSE(told->ended) << "it came by `down`, too";
    answered = told->ended = true;
    told->status = whole.getStatus();
    for (auto each : whole.getHeaders())
      told->headers += edge::str(each.getName()) + ": " + edge::str(each.getValue()) + "\n";
    told->body = edge::str(whole.getData());
  }
};

constexpr const char* kPolicy = R"(
[bounds]
held_max = "1MiB"
[http.api]
upstream = "http://127.0.0.1:@PORT@"
plaintext = true
methods = ["GET", "POST"]
paths = ["/**"]
users = ["*"]
allow_addresses = ["127.0.0.1"]
[http.record]
upstream = "http://127.0.0.1:@PORT@"
plaintext = true
methods = ["POST"]
paths = ["/**"]
write = ["POST"]
users = ["*"]
allow_addresses = ["127.0.0.1"]
[http.named]
upstream = "http://localhost:@PORT@"
plaintext = true
paths = ["/**"]
users = ["*"]
allow_addresses = ["127.0.0.1"]
[secrets.key]
file = "/etc/key"
[http.keyed]
upstream = "http://127.0.0.1:@PORT@"
plaintext = true
paths = ["/**"]
users = ["*"]
allow_addresses = ["127.0.0.1"]
[http.keyed.auth]
kind = "header"
prefix = "Bearer "
secret = "key"
[egress.net]
hosts = ["localhost:@PORT@"]
modes = ["connect"]
users = ["*"]
allow_addresses = ["127.0.0.1", "::1"]
)";

class RunTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_GE(::sodium_init(), 0);
    ASSERT_EQ(::curl_global_init(CURL_GLOBAL_DEFAULT), 0);
    char name[] = "/tmp/mayfly-vault-run-XXXXXX";
    folder_ = ::mkdtemp(name);
    base::Fd audit(::open((folder_ + "/audit").c_str(), O_WRONLY | O_APPEND | O_CREAT, 0600));
    auto journal = Journal::open(folder_ + "/journal");
    ASSERT_TRUE(audit && journal);
    port = std::make_unique<edge::AsioPort>(io, edge::TurnBounds{}, [](kj::Exception&& e) {
      ADD_FAILURE() << e.getDescription().cStr();
    });
    hub = std::make_unique<Hub>(*port, std::move(audit), std::move(*journal), 100);
    faces = std::make_unique<Faces>(Faces{*hub, {}, {}, 0});
    calls = std::make_unique<schema::Calls::Client>(callsFace(*faces));
    upstream = std::make_unique<Upstream>(io);
    std::string text = kPolicy;
    for (size_t at; (at = text.find("@PORT@")) != std::string::npos;)
      text.replace(at, 6, std::to_string(upstream->port()));
    auto policy = config::parsePolicy(text, "policy.toml");
    ASSERT_TRUE(policy) << policy.error().message;
    hub->limits.setBounds(policy->bounds);
    hub->book.setPolicy(std::make_shared<const config::Policy>(std::move(*policy)));
  }
  void TearDown() override {
    made_.clear();
    settle();
    calls.reset();
    settle();
    upstream.reset();
    faces.reset();
    hub.reset();
    port->finish(100'000);
    port.reset();
    std::filesystem::remove_all(folder_);
  }

  template <class Is>
  bool until(Is is) {
    const auto end = std::chrono::steady_clock::now() + 20s;
    while (!is() && std::chrono::steady_clock::now() < end) {
      io.restart();
      io.run_one_for(10ms);
    }
    return is();
  }
  void settle() {
    for (int i = 0; i < 50; ++i) {
      io.restart();
      io.poll();
    }
  }

  uint64_t session(uint32_t uid = 1'000) {
    auto opened =
        hub->book.open({{uid, ""},
                        0,
                        1,
                        {{"api", ""}, {"record", ""}, {"keyed", ""}, {"named", ""}, {"net", ""}},
                        {}});
    EXPECT_TRUE(opened) << opened.error().message;
    const uint64_t number = (*opened)->number;
    EXPECT_TRUE(hub->book.activate(number, ++tasks_, base::monotonicNs() + 600'000'000'000));
    return number;
  }

  Call& call() {
    made_.push_back(std::make_unique<Call>());
    return *made_.back();
  }
  // Returns once the vault has answered the call itself.
  Call& http(uint64_t number, const std::string& action, const std::string& method,
             const std::string& target, int64_t body_bytes) {
    Call& c = call();
    auto request = calls->httpRequest();
    request.setSession(number);
    auto r = request.initRequest();
    r.setAction(action);
    r.setMethod(method);
    r.setTarget(target);
    r.setBodyBytes(body_bytes);
    request.setDown(kj::heap<DownServer>(c.told));
    await(c, request.send());
    return c;
  }
  Call& tunnel(uint64_t number, const std::string& host, uint16_t to) {
    Call& c = call();
    auto request = calls->tunnelRequest();
    request.setSession(number);
    request.setHost(host);
    request.setPort(to);
    request.setDown(kj::heap<DownServer>(c.told));
    await(c, request.send());
    return c;
  }
  template <class Sent>
  void await(Call& c, Sent sent) {
    c.waits.push_back(sent.then([&c](auto&& answer) {
                            c.code = answer.getError().getCode();
                            c.rule = edge::str(answer.getError().getRule());
                            if constexpr (requires { answer.getAnswer(); })
                              if (answer.hasAnswer()) c.take(answer.getAnswer());
                            if (answer.hasUp()) c.up = schema::Up::Client(answer.getUp());
                            c.returned = true;
                          })
                          .eagerlyEvaluate([](kj::Exception&& e) {
                            ADD_FAILURE() << e.getDescription().cStr();
                          }));
    EXPECT_TRUE(until([&] { return c.returned; }));
  }
  // Returns the code of the vault's answer.
  uint16_t write(Call& c, const std::string& bytes) {
    KJ_IF_MAYBE (up, c.up) {
      auto request = up->writeRequest();
      request.setData(edge::data(bytes));
      const size_t before = c.written.size();
      c.waits.push_back(request.send()
                            .then([&c](auto&& answer) {
                              c.written.push_back(answer.getError().getCode());
                              c.rules.push_back(edge::str(answer.getError().getRule()));
                            })
                            .eagerlyEvaluate([](kj::Exception&& e) {
                              ADD_FAILURE() << e.getDescription().cStr();
                            }));
      EXPECT_TRUE(until([&] { return c.written.size() > before; }));
      return c.written.back();
    }
    ADD_FAILURE() << "the call was refused";
    return 999;
  }
  void end(Call& c) {
    KJ_IF_MAYBE (up, c.up)
      c.waits.push_back(up->endRequest().send().ignoreResult().eagerlyEvaluate(nullptr));
    settle();
  }
  std::vector<std::string> audit() {
    hub->audit.flush();  // as at the turn's end
    std::ifstream file(folder_ + "/audit");
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);)
      if (!line.empty()) lines.push_back(line);
    return lines;
  }

  boost::asio::io_context io{1};
  // Destructors of KJ's may throw, a fixture's must not.
  std::unique_ptr<edge::AsioPort> port;
  std::unique_ptr<Hub> hub;
  std::unique_ptr<Faces> faces;
  std::unique_ptr<schema::Calls::Client> calls;
  std::unique_ptr<Upstream> upstream;

 private:
  std::string folder_;
  uint64_t tasks_ = 0;
  std::vector<std::unique_ptr<Call>> made_;
};

// --- what a front that was taken over may not do --------------------------------------------

constexpr const char* kSmuggled = "GET /admin/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

TEST_F(RunTest, ABodyThatIsLongerThanItsAnnouncedLengthIsNoSecondRequest) {
  const uint64_t number = session();
  for (const bool at_once : {true, false}) {
    Call& c = http(number, "api", "POST", "/x", 3);
    if (!at_once) {
      EXPECT_EQ(write(c, "abc"), 0);
    }
    EXPECT_NE(write(c, at_once ? "abc"s + kSmuggled : kSmuggled), 0) << at_once;
    EXPECT_TRUE(until([&] { return c.told->ended; }));
    EXPECT_NE(c.told->code, 0);
    EXPECT_EQ(c.told->rule, "http.api.request");
  }
  // The next call has a connection of its own, and its answer.
  upstream->answers = [](const std::string& in) {
    return in.ends_with("\r\n\r\n") ? "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" : "";
  };
  Call& next = http(number, "api", "GET", "/next", 0);
  EXPECT_TRUE(until([&] { return next.told->ended; }));
  EXPECT_EQ(next.told->body, "ok");
  EXPECT_THAT(upstream->received, Not(HasSubstr("smuggled")));
}

TEST_F(RunTest, ABodyThatIsShorterThanItsAnnouncedLengthEndsItsConnection) {
  const uint64_t number = session();
  Call& c = http(number, "api", "POST", "/x", 10);
  EXPECT_EQ(write(c, "abc"), 0);
  ASSERT_TRUE(until([&] { return upstream->received.ends_with("abc"); }));
  end(c);
  EXPECT_TRUE(until([&] { return c.told->ended; }));
  EXPECT_NE(c.told->code, 0);
  EXPECT_TRUE(until([&] { return upstream->ended == 1; })) << "nothing may follow on it";
}

TEST_F(RunTest, ANegativeLengthIsNone) {
  Call& c = http(session(), "api", "POST", "/x", -7);
  EXPECT_EQ(c.rule, "http.api.request");
}

std::string helloFor(const std::string& name) {
  auto u16 = [](size_t n) { return std::string{static_cast<char>(n >> 8), static_cast<char>(n)}; };
  const std::string entry = "\0"s + u16(name.size()) + name;
  const std::string sni = "\0\0"s + u16(entry.size() + 2) + u16(entry.size()) + entry;
  std::string body = "\x03\x03"s + std::string(32, 'r') + "\0"s + u16(2) + "\x13\x01" + "\x01\0"s +
                     u16(sni.size()) + sni;
  body = "\x01\0"s + u16(body.size()) + body;
  return "\x16\x03\x01"s + u16(body.size()) + body;
}

TEST_F(RunTest, ATunnelIsNotEvenConnectedBeforeAGreetingForItsHost) {
  const uint64_t number = session();
  for (const std::string& bytes : {"GET / HTTP/1.1\r\n\r\n"s, helloFor("other.example.org")}) {
    Call& c = tunnel(number, "localhost", upstream->port());
    EXPECT_NE(write(c, bytes), 0);
    EXPECT_TRUE(until([&] { return c.told->ended; }));
    EXPECT_EQ(c.told->rule, "egress.net.modes");
  }
  Call& half = tunnel(number, "localhost", upstream->port());
  const std::string hello = helloFor("localhost");
  EXPECT_EQ(write(half, hello.substr(0, 30)), 0);
  settle();
  EXPECT_EQ(upstream->connections, 0u);
  EXPECT_EQ(write(half, hello.substr(30) + "more"), 0);
  EXPECT_TRUE(until([&] { return upstream->received == hello + "more"; }));
}

TEST_F(RunTest, AWriteBeforeTheLastWasTakenIsRefused) {
  const uint64_t number = session();
  upstream->letNobodyIn();
  Call& c = http(number, "api", "POST", "/x", -1);
  KJ_IF_MAYBE (up, c.up) {
    // The first waits for a connection.
    for (int i = 0; i < 3; ++i) {
      auto request = up->writeRequest();
      request.setData(edge::data(std::string(200'000, 'x')));
      c.waits.push_back(
          request.send()
              .then([&c](auto&& answer) { c.written.push_back(answer.getError().getCode()); })
              .eagerlyEvaluate(nullptr));
    }
  }
  EXPECT_TRUE(until([&] { return c.written.size() == 2; }));
  EXPECT_EQ(std::count(c.written.begin(), c.written.end(), 0), 0);
}

// --- an upstream that echoes -------------------------------------------------------------------

TEST_F(RunTest, AnEchoedSecretIsInNoPartOfTheAnswer) {
  const std::string key = "0123456789abcdef";
  hub->secrets.set("key", std::make_shared<const Secret>(Secret::joined({key})));
  upstream->answers = [&](const std::string& in) {
    if (!in.ends_with("\r\n\r\n")) return std::string();
    EXPECT_THAT(in, HasSubstr("authorization: Bearer " + key));
    return "HTTP/1.1 200 " + key + "\r\nX-" + key + ": a\r\nX-Value: b" + key +
           "c\r\nX-Kept: d\r\nContent-Length: 18\r\n\r\n<" + key + ">";
  };
  Call& c = http(session(), "keyed", "GET", "/x", 0);
  EXPECT_TRUE(until([&] { return c.told->ended; }));
  EXPECT_EQ(c.told->body, "<" + std::string(key.size(), '*') + ">");
  EXPECT_THAT(c.told->headers, HasSubstr("x-kept: d\n"));
  EXPECT_THAT(c.told->headers, Not(HasSubstr(key)));
  for (const std::string& line : audit()) EXPECT_THAT(line, Not(HasSubstr(key)));
}

// --- one task against others ------------------------------------------------------------------

TEST_F(RunTest, BodiesThatOneTaskHoldsLeaveRoomForThoseOfOthers) {
  const uint64_t hostile = session(1'000), good = session(1'001);
  Call& first = http(hostile, "record", "POST", "/a", -1);
  EXPECT_EQ(write(first, std::string(300'000, 'a')), 0);
  Call& second = http(hostile, "record", "POST", "/b", -1);
  EXPECT_NE(write(second, std::string(300'000, 'b')), 0);
  EXPECT_EQ(second.rules.back(), "bounds.held_max");
  upstream->answers = [](const std::string& in) {
    return in.ends_with("ccc") ? "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" : "";
  };
  Call& other = http(good, "record", "POST", "/c", -1);
  EXPECT_EQ(write(other, std::string(200'000, 'c')), 0);
  end(other);
  EXPECT_TRUE(until([&] { return other.told->ended; }));
  EXPECT_EQ(other.told->body, "ok");
  EXPECT_EQ(hub->held.all(), 300'000u);
  first.up = nullptr;
  EXPECT_TRUE(until([&] { return hub->held.all() == 0; }));
}

TEST_F(RunTest, RefusalsWithoutEndDoNotFillTheAudit) {
  const uint64_t number = session();
  constexpr int kCalls = 500;
  for (int i = 0; i < kCalls; ++i) {
    Call& c = http(number, "api", "DELETE", "/x", 0);
    EXPECT_EQ(c.rule, "http.api.methods");
  }
  EXPECT_LE(audit().size(), size_t{kCalls} / 2) << "a busy machine gives some more time";
  hub->revoke(number, {}, "test");
  settle();
  uint64_t all = 0;
  for (const std::string& line : audit()) {
    const size_t at = line.find("\"refused_before\":");
    if (at != std::string::npos) all += std::stoull(line.substr(at + 17));
    if (line.find("\"kind\":\"http\"") != std::string::npos) ++all;
  }
  EXPECT_EQ(all, uint64_t{kCalls}) << "each is counted";
}

TEST_F(RunTest, ATaskCannotAskWithoutEndWhatItHas) {
  const uint64_t number = session(), other = session();
  const auto describe = [&](uint64_t of) {
    auto request = calls->describeRequest();
    request.setSession(of);
    std::optional<uint16_t> status;
    auto wait = request.send()
                    .then([&](auto&& answer) { status = answer.getError().getHttpStatus(); })
                    .eagerlyEvaluate(nullptr);
    EXPECT_TRUE(until([&] { return status.has_value(); }));
    return *status;
  };
  int refused = 0;
  for (int i = 0; i < 400; ++i) refused += describe(number) == 429;
  EXPECT_GT(refused, 50);
  EXPECT_EQ(describe(other), 0);
}

// --- requests without a body ------------------------------------------------------------------

TEST_F(RunTest, ASmallAnswerComesWithTheReturnAndALargeOneFlows) {
  std::string body;
  upstream->answers = [&](const std::string&) {
    return fmt::format("HTTP/1.1 200 OK\r\nX-Kind: test\r\nContent-Length: {}\r\n\r\n{}",
                       body.size(), body);
  };
  const uint64_t number = session();
  for (size_t bytes : {size_t{0}, size_t{10}, size_t{1'000}, size_t{300'000}}) {
    body.assign(bytes, 'x');
    Call& c = http(number, "api", "GET", "/x", 0);
    EXPECT_TRUE(until([&] { return c.told->ended; }));
    EXPECT_EQ(c.told->status, 200);
    EXPECT_EQ(c.told->body.size(), bytes);
    EXPECT_THAT(c.told->headers, HasSubstr("x-kind: test"));
    EXPECT_EQ(c.answered, bytes <= 1'000) << bytes;
  }
  EXPECT_EQ(upstream->connections, 1u);
  settle();
  EXPECT_EQ(audit().size(), 4u);
}

TEST_F(RunTest, ARequestWithoutABodyEndsWithTheDroppedCall) {
  const uint64_t number = session();
  {
    auto request = calls->httpRequest();
    request.setSession(number);
    auto r = request.initRequest();
    r.setAction("api");
    r.setMethod("GET");
    r.setTarget("/x");
    request.setDown(kj::heap<DownServer>(std::make_shared<Told>()));
    auto sent = request.send();
    EXPECT_TRUE(until([&] { return !upstream->received.empty(); }));
    EXPECT_EQ(hub->running(), 1u);
  }
  EXPECT_TRUE(until([&] { return upstream->ended == 1; }));
  EXPECT_EQ(hub->running(), 0u);
  settle();
  ASSERT_EQ(audit().size(), 1u);
  EXPECT_THAT(audit()[0], HasSubstr("\"rule\":\"box\""));
}

// The numbers of sockets that libcurl closes in the middle of a connect are those of the next ones.
TEST_F(RunTest, CallsThatAreDroppedWhileTheyConnectHoldUpNoOther) {
  upstream->answers = [](const std::string&) {
    return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"s;
  };
  const uint64_t number = session();
  for (int turns = 1; turns <= 12; ++turns) {
    {
      auto request = calls->httpRequest();
      request.setSession(number);
      auto r = request.initRequest();
      r.setAction("named");
      r.setMethod("GET");
      r.setTarget("/x");
      request.setDown(kj::heap<DownServer>(std::make_shared<Told>()));
      auto sent = request.send();
      for (int i = 0; i < turns; ++i) {
        io.restart();
        io.poll_one();
      }
    }
    Call& c = http(number, "named", "GET", "/y", 0);
    EXPECT_TRUE(until([&] { return c.told->ended; })) << turns;
    EXPECT_EQ(c.told->body, "ok");
    const size_t kept = upstream->connections;
    EXPECT_LE(kept, 2u * static_cast<size_t>(turns));
  }
}

TEST_F(RunTest, ARevocationBeforeTheAnswerIsTheReturnsError) {
  const uint64_t number = session();
  Call& c = call();
  auto request = calls->httpRequest();
  request.setSession(number);
  auto r = request.initRequest();
  r.setAction("api");
  r.setMethod("GET");
  r.setTarget("/x");
  request.setDown(kj::heap<DownServer>(c.told));
  auto sent = request.send();
  EXPECT_TRUE(until([&] { return !upstream->received.empty(); }));
  hub->revoke(number, {}, "session.ended");
  await(c, kj::mv(sent));
  EXPECT_EQ(c.rule, "session.ended");
  EXPECT_FALSE(c.told->ended) << "`down` is not used";
}

// --- names ----------------------------------------------------------------------------------

// Names whose server does not answer before open() is called.
class SlowNames {
 public:
  Resolver::Addresses lookUp(const std::string& host) {
    if (host == "quick.test") return std::vector{*config::parseAddress("192.0.2.1")};
    std::unique_lock lock(mutex_);
    asked.push_back(host);
    most = std::max(most, ++at_once_);
    opened_.wait(lock, [this] { return open_; });
    --at_once_;
    return base::fail(base::Code::unavailable, "no answer");
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  std::vector<std::string> asked;  // once all have been answered
  uint32_t most = 0;

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
  uint32_t at_once_ = 0;
};

TEST(Resolver, NamesWithoutAnAnswerHoldUpThoseWhoChoseThem) {
  boost::asio::io_context io;
  const auto work = boost::asio::make_work_guard(io);  // threads post to it
  SlowNames names;
  Resolver resolver(io, [&names](const std::string& host) { return names.lookUp(host); });
  auto alive = std::make_shared<int>(0);
  uint32_t asked = 0, failed = 0, found = 0;
  const auto ask = [&](uint64_t session, uint32_t uid, const std::string& host) {
    ++asked;
    resolver.resolve(host, {session, uid, alive},
                     [&](const Resolver::Addresses& got) { got ? ++found : ++failed; });
  };
  const auto until = [&](auto is) {
    const auto end = std::chrono::steady_clock::now() + 20s;
    while (!is() && std::chrono::steady_clock::now() < end) io.run_one_for(10ms);
    return is();
  };
  const auto slow = [](uint64_t session, int i) { return fmt::format("{}-{}.test", session, i); };
  for (int i = 0; i < 20; ++i) ask(1, 5, slow(1, i));
  EXPECT_LT(resolver.atWork(), Resolver::kThreads / 2) << "one task's";
  for (uint64_t session = 2; session < 6; ++session)
    for (int i = 0; i < 20; ++i) ask(session, 5, slow(session, i));
  EXPECT_EQ(resolver.atWork(), Resolver::kThreads / 2) << "one user's";
  ask(7, 6, "quick.test");
  EXPECT_TRUE(until([&] { return found == 1; }));
  EXPECT_EQ(failed, 0u);

  for (int i = 0; i < 3; ++i) ask(8, 7, "same.test");  // one lookup
  for (uint32_t uid = 20; uid < 40; ++uid) ask(uid, uid, slow(uid, 0));
  EXPECT_EQ(resolver.atWork(), Resolver::kThreads);
  for (int i = 0; i < 100; ++i) ask(9, 8, slow(9, i));
  EXPECT_TRUE(until([&] { return failed == 100 - Resolver::kWaitingOfTaskMax; }));

  // Nobody asks for those whose caller has gone.
  auto gone = std::make_shared<int>(0);
  for (int i = 0; i < 10; ++i)
    resolver.resolve(fmt::format("gone-{}.test", i), {99, 99, gone},
                     [](const Resolver::Addresses&) { ADD_FAILURE(); });
  gone.reset();
  names.open();
  EXPECT_TRUE(until([&] { return found + failed == asked; }));
  EXPECT_EQ(resolver.atWork(), 0u);
  EXPECT_LE(names.most, Resolver::kThreads);
  EXPECT_EQ(std::count(names.asked.begin(), names.asked.end(), "same.test"), 1);
  for (const std::string& each : names.asked) EXPECT_THAT(each, Not(HasSubstr("gone")));
}

// libcurl starts none.
TEST_F(RunTest, NoThreadIsStartedForAName) {
  const auto threads = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"), {});
  };
  const auto before = threads();
  upstream->answers = [](const std::string&) {
    return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"s;
  };
  const uint64_t number = session();
  for (int i = 0; i < 3; ++i) {
    Call& c = http(number, "named", "GET", "/x", 0);
    EXPECT_TRUE(until([&] {
      EXPECT_EQ(threads(), before);
      return c.told->ended;
    }));
    EXPECT_EQ(c.told->body, "ok");
  }
  EXPECT_EQ(upstream->connections, 1u) << "a kept connection needs no name";
}

// --- a server that says more than it may ---------------------------------------------------------

class Metered : public testing::Test {
 protected:
  void SetUp() override {
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    server = base::Fd(pair[0]);
    library = base::Fd(pair[1]);
    auto made = MeteredSocket::replace(io, library.get(), [this] { ++over; });
    ASSERT_TRUE(made) << made.error().message;
    socket = std::move(*made);
  }
  std::string received(const base::Fd& at) {
    std::string all, piece(1u << 20, 0);
    for (int i = 0; i < 50; ++i) {
      io.restart();
      io.poll();
      const ssize_t n = ::recv(at.get(), piece.data(), piece.size(), 0);
      if (n > 0) all.append(piece, 0, static_cast<size_t>(n));
      ended = n == 0;
    }
    return all;
  }
  // Returns how many bytes went.
  size_t say(const base::Fd& from, const std::string& text) {
    const ssize_t n = ::send(from.get(), text.data(), text.size(), MSG_NOSIGNAL);
    return static_cast<size_t>(std::max<ssize_t>(n, 0));
  }
  boost::asio::io_context io;
  base::Fd server, library;
  std::shared_ptr<MeteredSocket> socket;
  int over = 0;
  bool ended = false;
};

TEST_F(Metered, BytesPassBothWaysWithinTheAllowance) {
  socket->allow(10);
  say(library, "SELECT 1");
  EXPECT_EQ(received(server), "SELECT 1");
  say(server, "0123456789");
  EXPECT_EQ(received(library), "0123456789");
  EXPECT_EQ(over, 0) << "not before there is more";
  socket->allow(3);
  say(server, "abcdef");
  EXPECT_EQ(received(library), "abc");
  EXPECT_EQ(over, 1);
  socket->allow(100);
  EXPECT_EQ(received(library), "");
  EXPECT_EQ(over, 1);
}

TEST_F(Metered, AnyNumberOfBytesPassesInOrderPieceByPiece) {
  socket->allow(UINT64_MAX);
  std::string sent, got;
  for (size_t i = 0; i < 3'000'000; ++i) sent += static_cast<char>(i * 31 % 251);
  for (size_t at = 0; got.size() < sent.size() && at <= sent.size();) {
    const size_t gone = say(server, sent.substr(at, 300'000));
    at += gone;
    const size_t before = got.size();
    got += received(library);
    ASSERT_TRUE(gone > 0 || got.size() > before);
  }
  EXPECT_TRUE(got == sent);
}

TEST_F(Metered, TheEndOfEachSideIsSeenAndLastWordsAreSent) {
  socket->allow(100);
  say(server, "bye");
  ::shutdown(server.get(), SHUT_WR);
  EXPECT_EQ(received(library), "bye");
  EXPECT_TRUE(ended);
  say(library, "X");
  library.reset();
  socket->close();
  EXPECT_EQ(received(server), "X");
  EXPECT_TRUE(ended);
}

TEST(MeteredSocket, ASocketThatDidNotConnectIsRefused) {
  boost::asio::io_context io;
  tcp::acceptor closed(io, tcp::endpoint(boost::asio::ip::address_v4::loopback(), 0));
  const tcp::endpoint nobody = closed.local_endpoint();
  closed.close();
  base::Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  (void)::connect(fd.get(), nobody.data(), static_cast<socklen_t>(nobody.size()));
  pollfd connecting{fd.get(), POLLOUT, 0};
  ASSERT_EQ(::poll(&connecting, 1, 10'000), 1);
  EXPECT_FALSE(MeteredSocket::replace(io, fd.get(), [] {}));
}

// --- connections to a database ------------------------------------------------------------------

TEST_F(RunTest, OneUsersTasksLeaveOthersAConnectionToTheDatabase) {
  auto policy = std::make_shared<config::Policy>();
  config::Database database;
  database.name = "shop";
  database.host = "127.0.0.1";
  database.port = upstream->port();  // accepts, and never answers
  database.database = database.user = "shop";
  database.plaintext = true;
  database.connections_max = 4;
  database.connect_ms_max = 12'000;
  database.allow_addresses = {*config::parseNetwork("127.0.0.1")};
  policy->databases.push_back(database);
  SqlPools pools(io, hub->resolver, hub->secrets);
  auto alive = std::make_shared<int>(0);
  uint32_t refused = 0;
  const auto ask = [&](uint64_t number, uint32_t uid, std::shared_ptr<const void> caller) {
    pools.acquire(policy, policy->databases[0], {number, uid, caller},
                  [&](base::Result<std::unique_ptr<SqlPools::Lease>> got) { refused += !got; });
    settle();
  };
  const auto opened = [&](uint32_t count) {
    until([&] { return upstream->connections >= count; });
    settle();
    return upstream->connections;
  };
  for (int i = 0; i < 10; ++i) ask(1, 5, alive);
  EXPECT_EQ(opened(2), 2u) << "half of them for one task";
  for (int i = 0; i < 10; ++i) ask(2, 5, alive);
  EXPECT_EQ(opened(3), 3u) << "all but one for one user";
  ask(3, 6, alive);
  EXPECT_EQ(opened(4), 4u);
  // Those that have gone take nobody's place in the queue.
  EXPECT_EQ(refused, 0u);
  for (int i = 0; i < 200; ++i) ask(4, 7, std::make_shared<int>(0));
  EXPECT_EQ(refused, 0u);
  for (int i = 0; i < 100; ++i) ask(4, 7, alive);
  EXPECT_EQ(refused, 100 - SqlPools::kWaitingOfUserMax);
  // What is no answer of a database ends a connection at once; the first four end by their time.
  upstream->answers = [](const std::string&) { return std::string("X"); };
  EXPECT_TRUE(until([&] { return refused == 121; })) << refused;
}

}  // namespace
}  // namespace mayfly::vault
