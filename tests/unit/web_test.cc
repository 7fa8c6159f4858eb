// The HTTP server, by raw clients on loopback.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "web/server.h"
#include "web/shared.h"

namespace mayfly::web {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr int kPollMsMax = 20'000;

// One connection; every wait is for an event, and has a bound.
class Peer {
 public:
  explicit Peer(uint16_t port, int receive_bytes = 0) {
    fd_ = base::Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (receive_bytes > 0)
      ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  }
  void send(std::string_view bytes) {
    ASSERT_EQ(::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  // Until `end` has come, or the other side has closed. The rest stays for the next call.
  std::string readUntil(std::string_view end) {
    for (;;) {
      if (const size_t at = got_.find(end); at != std::string::npos) {
        std::string out = got_.substr(0, at + end.size());
        got_.erase(0, at + end.size());
        return out;
      }
      if (!more()) return std::exchange(got_, {});
    }
  }
  std::string readAll() {
    while (more()) {
    }
    return std::exchange(got_, {});
  }
  // A whole answer with Content-Length.
  std::string answer() {
    const std::string head = readUntil("\r\n\r\n");
    const size_t at = head.find("Content-Length: ");
    if (at == std::string::npos) return head;
    const size_t bytes = std::stoul(head.substr(at + 16));
    while (got_.size() < bytes && more()) {
    }
    const std::string body = got_.substr(0, bytes);
    got_.erase(0, bytes);
    return head + body;
  }
  // What is there, without waiting.
  size_t take() {
    char piece[64 << 10];
    size_t bytes = 0;
    for (ssize_t n; (n = ::recv(fd_.get(), piece, sizeof piece, MSG_DONTWAIT)) > 0;)
      bytes += static_cast<size_t>(n);
    return bytes;
  }
  int fd() const { return fd_.get(); }

 private:
  bool more() {
    pollfd p{fd_.get(), POLLIN, 0};
    if (::poll(&p, 1, kPollMsMax) != 1) {
      ADD_FAILURE() << "nothing came";
      return false;
    }
    char piece[4'096];
    const ssize_t n = ::recv(fd_.get(), piece, sizeof piece, 0);
    if (n > 0) got_.append(piece, static_cast<size_t>(n));
    return n > 0;
  }
  base::Fd fd_;
  std::string got_;
};

struct WebFixture : testing::Test {
  Options options;
  std::unique_ptr<Server> server;
  std::vector<std::shared_ptr<Reply>> kept;             // HTTP thread
  Channel channel;                                      // HTTP thread
  std::vector<std::shared_ptr<EventStream>> listeners;  // the channel's; HTTP thread
  std::shared_ptr<EventStream> raw;                     // HTTP thread

  void start() {
    auto listener = listenHttp({"127.0.0.1", 0, true}, 1'024);
    ASSERT_TRUE(listener) << listener.error().message;
    auto started = Server::start(std::move(*listener), options, [this](Server&, Router& r) {
      r.get("/hello", [](const Request& q, Reply reply) {
        reply.send(text(200, "hello " + q.param("name").value_or("nobody") + "\n"));
      });
      r.get(
          "/open", [](const Request&, Reply reply) { reply.send(text(200, "open\n")); },
          Access::open);
      r.get("/asset/", [](const Request& q, Reply reply) {
        Response asset = text(200, q.path);
        asset.etag = "\"1\"";
        reply.send(std::move(asset));
      });
      r.get("/drop", [](const Request&, Reply) {});
      r.get("/throw", [](const Request&, Reply) { throw std::runtime_error("broken"); });
      r.get("/never", [this](const Request&, Reply reply) {
        kept.push_back(std::make_shared<Reply>(std::move(reply)));
      });
      r.get("/large",
            [](const Request&, Reply reply) { reply.send(text(200, std::string(8u << 20, 'x'))); });
      r.get("/raw", [this](const Request&, Reply reply) { raw = reply.events(); });
      r.get("/events", [this](const Request&, Reply reply) {
        channel.add(listeners.emplace_back(reply.events()));
      });
    });
    ASSERT_TRUE(started) << started.error().message;
    server = std::move(*started);
  }
  void TearDown() override {
    if (server) {
      EXPECT_TRUE(server->stop(std::chrono::seconds(10)));
    }
  }
  std::string host() const { return "Host: 127.0.0.1:" + std::to_string(server->port()) + "\r\n"; }
  std::string request(const std::string& target, const std::string& more = "",
                      const std::string& method = "GET") const {
    return method + " " + target + " HTTP/1.1\r\n" + host() + more + "\r\n";
  }
  std::string ask(const std::string& target, const std::string& more = "",
                  const std::string& method = "GET") const {
    Peer peer(server->port());
    peer.send(request(target, more + "Connection: close\r\n", method));
    return peer.readAll();
  }
  // Runs it on the HTTP thread and waits for its end.
  void there(const std::function<void()>& work) {
    std::mutex mutex;
    std::condition_variable condition;
    bool done = false;
    server->post([&] {
      work();
      std::lock_guard lock(mutex);
      done = true;
      condition.notify_one();
    });
    std::unique_lock lock(mutex);
    ASSERT_TRUE(condition.wait_for(lock, std::chrono::seconds(20), [&] { return done; }));
  }
};

TEST_F(WebFixture, AnswersHaveTheirSecurityHeaders) {
  start();
  const std::string answer = ask("/hello?name=a%20b");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  for (const char* header :
       {"Content-Security-Policy: default-src 'none';", "X-Content-Type-Options: nosniff",
        "X-Frame-Options: DENY", "Referrer-Policy: no-referrer", "Cache-Control: no-store",
        "Cross-Origin-Resource-Policy: same-origin"})
    EXPECT_THAT(answer, HasSubstr(header));
  EXPECT_THAT(answer, Not(HasSubstr("unsafe")));
  EXPECT_THAT(answer, testing::EndsWith("\r\n\r\nhello a b\n"));
}

TEST_F(WebFixture, OneConnectionServesManyRequestsAndHeadHasNoBody) {
  start();
  Peer peer(server->port());
  peer.send(request("/hello") + request("/hello?name=2"));  // two at once
  EXPECT_THAT(peer.answer(), HasSubstr("hello nobody\n"));
  EXPECT_THAT(peer.answer(), HasSubstr("hello 2\n"));
  peer.send(request("/hello", "", "HEAD"));
  const std::string head = peer.readUntil("\r\n\r\n");
  EXPECT_THAT(head, HasSubstr("Content-Length: 13\r\n"));
  peer.send(request("/hello?name=3"));
  EXPECT_THAT(peer.answer(), StartsWith("HTTP/1.1 200")) << "no body stood between";
}

TEST_F(WebFixture, NothingButGetAndHeadExists) {
  start();
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"}) {
    const std::string answer = ask("/hello", "", method);
    EXPECT_THAT(answer, testing::AnyOf(StartsWith("HTTP/1.1 405"), StartsWith("HTTP/1.1 400")))
        << method;
  }
  EXPECT_THAT(ask("/hello", "Content-Length: 5\r\n", "POST"), StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(ask("/hello", "Content-Length: 5\r\n"), StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(ask("/hello", "Transfer-Encoding: chunked\r\n"), StartsWith("HTTP/1.1 413"));
}

TEST_F(WebFixture, WrongRequestsAreRefusedAndUnknownPagesNotFound) {
  start();
  EXPECT_THAT(ask("/none"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(ask("/assetx"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(ask("/asset/a/b.js"), testing::EndsWith("/asset/a/b.js"));
  EXPECT_THAT(ask("/hello", "X: " + std::string(20'000, 'x') + "\r\n"), StartsWith("HTTP/1.1 431"));
  EXPECT_THAT(ask("/" + std::string(3'000, 'x')), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(ask("http://evil/hello"), StartsWith("HTTP/1.1 400"));
  Peer peer(server->port());
  peer.send("\x16\x03\x01 this is TLS\r\n\r\n");
  EXPECT_THAT(peer.readAll(), StartsWith("HTTP/1.1 400"));
}

TEST_F(WebFixture, AForeignHostIsRefusedOnLoopback) {
  start();
  const auto with = [&](const std::string& hosts) {
    Peer peer(server->port());
    peer.send("GET /open HTTP/1.1\r\n" + hosts + "Connection: close\r\n\r\n");
    return peer.readAll();
  };
  const std::string port = ":" + std::to_string(server->port());
  for (const char* good : {"127.0.0.1", "localhost", "[::1]"}) {
    EXPECT_THAT(with("Host: " + std::string(good) + port + "\r\n"), StartsWith("HTTP/1.1 200"));
    EXPECT_THAT(with("Host: " + std::string(good) + "\r\n"), StartsWith("HTTP/1.1 200"));
  }
  for (const char* bad : {"evil.example", "127.0.0.1.evil.example", "localhost.evil", "127.0.0.2"})
    EXPECT_THAT(with("Host: " + std::string(bad) + port + "\r\n"), StartsWith("HTTP/1.1 421"));
  EXPECT_THAT(with("Host: 127.0.0.1:1\r\n"), StartsWith("HTTP/1.1 421"));
  EXPECT_THAT(with(""), StartsWith("HTTP/1.1 421"));
  EXPECT_THAT(with(host() + host()), Not(StartsWith("HTTP/1.1 200")));
  EXPECT_GT(server->counts().unauthorised, 0u);
}

TEST_F(WebFixture, TheTokenIsWantedAsBearerOrAsPassword) {
  options.token = "0123456789abcdef";
  start();
  EXPECT_THAT(ask("/hello"), StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(ask("/hello"), HasSubstr("WWW-Authenticate: Basic"));
  EXPECT_THAT(ask("/none"), StartsWith("HTTP/1.1 401")) << "which pages exist is nobody's to know";
  EXPECT_THAT(ask("/open"), StartsWith("HTTP/1.1 200"));
  const auto with = [&](const std::string& value) {
    return ask("/hello", "Authorization: " + value + "\r\n");
  };
  EXPECT_THAT(with("Bearer 0123456789abcdef"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(with("Basic YW55Ym9keTowMTIzNDU2Nzg5YWJjZGVm"), StartsWith("HTTP/1.1 200"));
  for (const char* bad : {"Bearer 0123456789abcdeF", "Bearer 0123456789abcde", "Bearer ", "Basic",
                          "Basic YW55Ym9keTo=", "Basic !!!", "0123456789abcdef"})
    EXPECT_THAT(with(bad), StartsWith("HTTP/1.1 401")) << bad;
}

TEST_F(WebFixture, AServerBeyondLoopbackNeedsAToken) {
  options.loopback = false;
  auto listener = listenHttp({"127.0.0.1", 0, true}, 4);
  ASSERT_TRUE(listener);
  auto started = Server::start(std::move(*listener), options, [](Server&, Router&) {});
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message, HasSubstr("token"));
}

TEST_F(WebFixture, AnUnchangedAssetIsNotSentAgain) {
  start();
  EXPECT_THAT(ask("/asset/x"), HasSubstr("ETag: \"1\""));
  const std::string again = ask("/asset/x", "If-None-Match: \"1\"\r\n");
  EXPECT_THAT(again, StartsWith("HTTP/1.1 304"));
  EXPECT_THAT(again, testing::EndsWith("\r\n\r\n"));
  EXPECT_THAT(ask("/asset/x", "If-None-Match: \"2\"\r\n"), StartsWith("HTTP/1.1 200"));
}

TEST_F(WebFixture, AHandlerThatFailsFailsItsRequestAlone) {
  start();
  EXPECT_THAT(ask("/drop"), StartsWith("HTTP/1.1 500"));
  EXPECT_THAT(ask("/throw"), StartsWith("HTTP/1.1 500"));
  EXPECT_THAT(ask("/hello"), StartsWith("HTTP/1.1 200"));
}

TEST_F(WebFixture, AnAnswerThatDoesNotComeIsGivenUpAndALateOneAnswersNothing) {
  options.answer_ms_max = 50;
  start();
  Peer peer(server->port());
  peer.send(request("/never"));
  EXPECT_THAT(peer.readAll(), StartsWith("HTTP/1.1 503")) << "and the connection ends";
  there([&] {
    for (auto& reply : kept) reply->send(text(200, "late\n"));
    kept.clear();
  });
  EXPECT_THAT(ask("/hello"), HasSubstr("hello nobody\n"));
}

TEST_F(WebFixture, SlowWritersAndIdleClientsAreDropped) {
  options.head_ms_max = 50;
  options.idle_ms_max = 50;
  start();
  Peer silent(server->port()), slow(server->port()), idle(server->port());
  slow.send("GET /hello HTTP/1.1\r\nHost");
  idle.send(request("/hello"));
  EXPECT_THAT(idle.answer(), HasSubstr("hello"));
  for (Peer* each : {&silent, &slow, &idle}) EXPECT_EQ(each->readAll(), "");
  while (server->counts().open != 0) there([] {});  // they are counted after their sockets' end
  EXPECT_EQ(server->counts().dropped_slow, 2u);
}

TEST_F(WebFixture, AClientThatDoesNotReadItsAnswerIsDropped) {
  options.write_ms_max = 50;
  start();
  Peer peer(server->port(), 4'096);
  peer.send(request("/large"));
  // Its kernel has bytes for it still; the server keeps nothing.
  while (server->counts().dropped_slow == 0 || server->counts().open != 0) there([] {});
  EXPECT_THAT(ask("/hello"), StartsWith("HTTP/1.1 200"));
}

TEST_F(WebFixture, EventsReachEachListenerWholeAndInOrder) {
  start();
  Peer one(server->port()), two(server->port());
  for (Peer* each : {&one, &two}) {
    each->send(request("/events"));
    const std::string head = each->readUntil("\r\n\r\n");
    EXPECT_THAT(head, HasSubstr("Content-Type: text/event-stream"));
    EXPECT_THAT(head, Not(HasSubstr("Content-Length")));
  }
  there([&] { EXPECT_EQ(channel.size(), 2u); });
  EXPECT_EQ(server->counts().streams, 2u);
  for (const char* data : {"first", "a\nb"}) {
    // A listener that is behind, if only by a word to this thread, would be left out.
    for (bool behind = true; behind;)
      there([&] { behind = listeners[0]->unsent() + listeners[1]->unsent() != 0; });
    there([&] { channel.publish(event("state", data, "7")); });
    for (Peer* each : {&one, &two})
      EXPECT_EQ(each->readUntil("\n\n"), std::string(data) == "first"
                                             ? "event: state\nid: 7\ndata: first\n\n"
                                             : "event: state\nid: 7\ndata: a\ndata: b\n\n");
  }
}

TEST_F(WebFixture, AListenerThatDoesNotReadLosesStatesThenItsConnectionAndDelaysNobody) {
  options.write_ms_max = 300;
  start();
  Peer stuck(server->port(), 4'096), good(server->port());
  for (Peer* each : {&stuck, &good}) {
    each->send(request("/events"));
    each->readUntil("\r\n\r\n");
  }
  const auto block = event("state", std::string(64 << 10, 'x'));
  size_t living = 2, bytes = 0;
  while (living == 2) {
    there([&] {
      channel.publish(block);
      living = channel.size();
    });
    bytes += good.take();
  }
  EXPECT_GT(bytes, 4u << 20) << "far more than the other one took";
  EXPECT_EQ(living, 1u);
  EXPECT_GE(server->counts().dropped_slow, 1u);
}

TEST_F(WebFixture, AStreamsQueueIsBoundedWhateverItsOwnerSends) {
  start();
  Peer stuck(server->port(), 4'096);
  stuck.send(request("/raw"));
  stuck.readUntil("\r\n\r\n");
  const auto block = event("", std::string(300 << 10, 'x'));
  size_t sent = 0;
  there([&] {
    while (sent < 100 && raw->send(block)) ++sent;
    EXPECT_FALSE(raw->alive());
  });
  EXPECT_LE(sent * block->size(), EventStream::kUnsentBytesMax + block->size());
  EXPECT_EQ(server->counts().dropped_slow, 1u);
}

TEST_F(WebFixture, AListenerThatGoesIsForgotten) {
  start();
  {
    Peer peer(server->port());
    peer.send(request("/events"));
    peer.readUntil("\r\n\r\n");
  }
  for (size_t living = 1; living != 0;) there([&] { living = channel.size(); });
  EXPECT_EQ(server->counts().streams, 0u);
}

TEST_F(WebFixture, AThousandClientsAreServedOrRefusedAndTheNextOneIsServed) {
  rlimit files{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  files.rlim_cur = files.rlim_max;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
  options.connections_max = 100;
  options.per_host_max = 60;
  start();
  {
    std::vector<std::unique_ptr<Peer>> peers;
    for (int i = 0; i < 1'000; ++i) peers.push_back(std::make_unique<Peer>(server->port()));
    // None asks for anything, so each further one takes the place of the one that waits longest.
    for (size_t i = 0; i < peers.size() - 60; ++i) EXPECT_EQ(peers[i]->readAll(), "") << i;
    while (server->counts().accepted != peers.size()) there([] {});
    EXPECT_EQ(server->counts().refused, 940u);
    EXPECT_EQ(server->counts().open, 60u);
    peers.back()->send(request("/hello"));
    EXPECT_THAT(peers.back()->answer(), HasSubstr("hello nobody"));
    EXPECT_THAT(ask("/hello"), StartsWith("HTTP/1.1 200"))
        << "who only holds places keeps nobody out";
  }
  for (;;) {
    if (server->counts().open == 0) break;
    there([] {});
  }
  EXPECT_THAT(ask("/hello"), StartsWith("HTTP/1.1 200"));
}

TEST_F(WebFixture, WhoIsAnsweredKeepsItsPlace) {
  options.connections_max = options.per_host_max = 2;
  start();
  Peer one(server->port()), two(server->port());
  for (Peer* each : {&one, &two}) each->send(request("/never"));
  for (size_t asked = 0; asked != 2;) there([&] { asked = kept.size(); });
  Peer three(server->port());
  EXPECT_THAT(three.readAll(), StartsWith("HTTP/1.1 503"));
  there([&] {
    for (auto& reply : kept) reply->send(text(200, "late\n"));
    kept.clear();
  });
  EXPECT_THAT(one.answer(), HasSubstr("late"));
  EXPECT_THAT(two.answer(), HasSubstr("late"));
}

TEST_F(WebFixture, AReplyThatNobodySendsHoldsNoPlace) {
  options.answer_ms_max = 20;
  options.connections_max = options.per_host_max = 4;
  start();
  for (int i = 0; i < 12; ++i) EXPECT_THAT(ask("/never"), StartsWith("HTTP/1.1 503")) << i;
  EXPECT_EQ(server->counts().refused, 0u);
  there([&] {
    EXPECT_EQ(kept.size(), 12u);
    kept.clear();
  });
}

TEST_F(WebFixture, AnEighthOfThePlacesIsForRequestsAlone) {
  options.connections_max = options.per_host_max = 8;
  start();
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 8; ++i) {
    peers.push_back(std::make_unique<Peer>(server->port()));
    peers.back()->send(request("/events"));
    EXPECT_THAT(peers.back()->readUntil("\r\n\r\n"),
                StartsWith(i < 7 ? "HTTP/1.1 200" : "HTTP/1.1 503"));
  }
  EXPECT_EQ(server->counts().streams, 7u);
  EXPECT_THAT(ask("/hello"), StartsWith("HTTP/1.1 200"));
}

TEST(Hosts, AreCountedByNetworkWhereOneHostHasMany) {
  const auto of = [](const char* text) { return hostOf(boost::asio::ip::make_address(text)); };
  EXPECT_EQ(of("127.0.0.1"), of("127.9.9.9"));
  EXPECT_EQ(of("127.0.0.1"), of("::1"));
  EXPECT_EQ(of("::ffff:127.0.0.2"), of("127.0.0.1"));
  EXPECT_EQ(of("::ffff:10.0.0.2"), of("10.0.0.2"));
  EXPECT_NE(of("10.0.0.1"), of("10.0.0.2"));
  EXPECT_EQ(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff:ffff:ffff:ffff"));
  EXPECT_NE(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
}

TEST_F(WebFixture, AStuckHandlerDoesNotHoldUpTheStop) {
  struct Gate {
    std::mutex mutex;
    std::condition_variable condition;
    bool in = false, open = false;
  };
  const auto gate = std::make_shared<Gate>();  // the thread may outlive the test
  start();
  server->post([gate] {
    std::unique_lock lock(gate->mutex);
    gate->in = true;
    gate->condition.notify_all();
    gate->condition.wait(lock, [&] { return gate->open; });
  });
  std::unique_lock lock(gate->mutex);
  gate->condition.wait(lock, [&] { return gate->in; });
  EXPECT_FALSE(server->stop(std::chrono::milliseconds(1)));
  EXPECT_TRUE(server->stop(std::chrono::milliseconds(1))) << "it has been given up";
  gate->open = true;
  gate->condition.notify_all();
}

TEST(Route, ParametersAreDecodedAndBrokenOnesAreNone) {
  Request q;
  q.query = "a=1&b=x%2Fy+z&c=%zz&d&e=%4";
  EXPECT_EQ(q.param("a"), "1");
  EXPECT_EQ(q.param("b"), "x/y z");
  EXPECT_EQ(q.param("c"), std::nullopt);
  EXPECT_EQ(q.param("d"), "");
  EXPECT_EQ(q.param("e"), std::nullopt);
  EXPECT_EQ(q.param("f"), std::nullopt);
  q.accept_encoding = "deflate, gzip;q=0.5, br;q=0";
  EXPECT_TRUE(q.accepts("gzip"));
  EXPECT_FALSE(q.accepts("br"));
  EXPECT_FALSE(q.accepts("zip"));
}

TEST(Address, IsAnIpAddressAndAPort) {
  const auto good = [](const char* text) { return parseAddress(text); };
  EXPECT_TRUE(good("127.0.0.1:9464")->loopback);
  EXPECT_TRUE(good("127.1.2.3:0")->loopback);
  EXPECT_TRUE(good("[::1]:80")->loopback);
  EXPECT_EQ(good("[::1]:80")->host, "::1");
  EXPECT_FALSE(good("0.0.0.0:1")->loopback);
  EXPECT_FALSE(good("[::]:1")->loopback);
  for (const char* bad :
       {"", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", ":80", "localhost:80",
        "::1:80", "[127.0.0.1]:80", "127.0.0.1:-1", "127.0.0.1:80 "}) {
    auto parsed = parseAddress(bad);
    ASSERT_FALSE(parsed) << bad;
    EXPECT_THAT(parsed.error().message, HasSubstr("http.listen"));
  }
}

TEST(Token, IsReadFromAFileThatOnlyItsOwnerMayRead) {
  char folder[] = "/tmp/mayfly-web-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/token";
  const auto put = [&](std::string_view content, mode_t mode) {
    ::unlink(path.c_str());
    base::Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(::write(fd.get(), content.data(), content.size()),
              static_cast<ssize_t>(content.size()));
    ::fchmod(fd.get(), mode);
  };
  put("0123456789abcdef\n", 0600);
  EXPECT_EQ(readToken(path).value(), "0123456789abcdef");
  put("0123456789abcdef\n", 0640);
  EXPECT_THAT(readToken(path).error().message, HasSubstr("read by others"));
  for (const char* bad : {"", "short\n", "0123456789 abcdef\n", "0123456789abcdef\nsecond\n"}) {
    put(bad, 0600);
    EXPECT_FALSE(readToken(path)) << bad;
  }
  put(std::string(257, 'x'), 0600);
  EXPECT_FALSE(readToken(path));
  ::unlink(path.c_str());
  EXPECT_FALSE(readToken(path)) << "it is missing";
  ASSERT_EQ(::symlink("/etc/hostname", path.c_str()), 0);
  EXPECT_FALSE(readToken(path)) << "a link";
  ::unlink(path.c_str());
  EXPECT_FALSE(readToken(folder)) << "a folder";
  ::rmdir(folder);
}

}  // namespace
}  // namespace mayfly::web
