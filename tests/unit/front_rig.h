// A front with a vault that plays a part: for tests and for the fuzzer.
//
// Front and vault run on one thread of their own; the tests talk to the doors with plain sockets.
// The name of the action says which part the vault plays.
#pragma once

#include <broker/broker.capnp.h>
#include <capnp/rpc-twoparty.h>
#include <kj/async.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "edge/asio_stream.h"
#include "edge/convert.h"
#include "edge/message_stream.h"
#include "front/front.h"
#include "wire/door_check.h"
#include "wire/front.h"

namespace mayfly::front {

// What the vault has seen, and what it waits for. Shared by all vaults of a rig and the test.
struct Stage {
  std::mutex lock;
  std::vector<std::string> calls;  // "http echo GET /x a=b;c=d body=-1"
  std::set<std::string> released;
  std::atomic<uint64_t> written{0};   // bytes that `flood` has got rid of
  std::atomic<uint64_t> received{0};  // bytes of bodies
  std::atomic<uint32_t> given_up{0};  // `Up` dropped before its end
  std::atomic<uint32_t> failed_writes{0};
  std::atomic<uint32_t> ended{0};  // Up.end
  std::atomic<uint32_t> running{0}, running_max{0};

  void note(std::string call) {
    std::lock_guard guard(lock);
    if (calls.size() < 10'000) calls.push_back(std::move(call));
  }
  std::vector<std::string> noted() {
    std::lock_guard guard(lock);
    return calls;
  }
  void release(const std::string& what) {
    std::lock_guard guard(lock);
    released.insert(what);
  }
  bool isReleased(const std::string& what) {
    std::lock_guard guard(lock);
    return released.contains(what);
  }
};

class FakeVault final : public schema::Calls::Server {
 public:
  FakeVault(Stage& stage, kj::Timer& timer, std::function<void()> die)
      : stage_(stage), timer_(timer), die_(std::move(die)) {}

 private:
  static std::string str(capnp::Text::Reader text) { return edge::str(text); }

  // One call's answer, and its request's body.
  struct Part : kj::Refcounted {
    Part(Stage& its_stage, kj::Timer& its_timer, schema::Down::Client its_down)
        : stage(its_stage), timer(its_timer), down(kj::mv(its_down)) {
      const uint32_t now = ++stage.running;
      if (now > stage.running_max) stage.running_max = now;
    }
    ~Part() noexcept(false) { --stage.running; }

    kj::Promise<void> head(uint16_t status, int64_t bytes,
                           std::vector<std::pair<std::string, std::string>> fields = {}) {
      auto request = down.headRequest();
      request.setStatus(status);
      request.setBodyBytes(bytes);
      auto list = request.initHeaders(static_cast<unsigned>(fields.size()));
      for (unsigned i = 0; i < fields.size(); ++i) {
        list[i].setName(edge::text(fields[i].first));
        list[i].setValue(edge::text(fields[i].second));
      }
      return request.send().ignoreResult();
    }
    kj::Promise<void> write(std::string data) {
      auto request = down.writeRequest();
      request.setData(edge::data(data));
      return request.send().ignoreResult();
    }
    kj::Promise<void> end(uint16_t code = 0) {
      auto request = down.endRequest();
      if (code != 0) {
        request.initError().setCode(code);
        request.getError().setMessage("the upstream broke off");
      }
      return request.send().ignoreResult();
    }
    kj::Promise<void> whole(uint16_t status, std::string body) {
      const auto bytes = static_cast<int64_t>(body.size());
      return head(status, bytes, {{"Content-Type", "text/plain"}})
          .then([this, body = std::move(body)]() mutable { return write(std::move(body)); })
          .then([this] { return end(); });
    }
    kj::Promise<void> until(std::string what) {
      if (stage.isReleased(what)) return kj::READY_NOW;
      return timer.afterDelay(5 * kj::MILLISECONDS).then([this, what] { return until(what); });
    }
    kj::Promise<void> flood() {
      return write(std::string(64 << 10, 'f')).then([this] {
        stage.written += 64 << 10;
        return flood();
      });
    }
    kj::Promise<void> tokens(int from, int count) {
      if (from == count) return end();
      return until("token" + std::to_string(from))
          .then([this, from] { return write("data: " + std::to_string(from) + "\n\n"); })
          .then([this, from, count] { return tokens(from + 1, count); });
    }
    void begin(kj::Promise<void> promise) {
      work = promise.eagerlyEvaluate([this](kj::Exception&&) { ++stage.failed_writes; });
    }

    Stage& stage;
    kj::Timer& timer;
    schema::Down::Client down;
    kj::Promise<void> work = nullptr;
  };

  class UpServer final : public schema::Up::Server {
   public:
    UpServer(kj::Own<Part> part, std::string kind) : part_(kj::mv(part)), kind_(std::move(kind)) {}
    ~UpServer() noexcept(false) {
      if (!ended_) ++part_->stage.given_up;
    }
    // Of a request whose body is none.
    void endAtOnce() {
      last_ = finish().eagerlyEvaluate([](kj::Exception&&) {});
    }

   private:
    kj::Promise<void> write(WriteContext context) override {
      std::string data = edge::str(context.getParams().getData());
      part_->stage.received += data.size();
      if (kind_ == "echo") return part_->write(std::move(data));
      if (kind_ == "slow") return part_->until("slow");
      if (kind_ == "refuse-body") {
        auto error = context.getResults().initError();
        error.setCode(static_cast<uint16_t>(base::Code::invalidArgument));
        error.setHttpStatus(413);
        error.setMessage("the body is too large for this rule");
      }
      return kj::READY_NOW;
    }
    kj::Promise<void> end(EndContext) override { return finish(); }
    kj::Promise<void> finish() {
      ended_ = true;
      ++part_->stage.ended;
      if (kind_ == "echo") return part_->end();
      if (kind_ == "sink" || kind_ == "slow")
        return part_->whole(200, std::to_string(part_->stage.received));
      return kj::READY_NOW;
    }
    kj::Own<Part> part_;
    std::string kind_;
    bool ended_ = false;
    kj::Promise<void> last_ = nullptr;
  };

  static void refuse(schema::Error::Builder error) {
    error.setCode(static_cast<uint16_t>(base::Code::permissionDenied));
    error.setHttpStatus(403);
    error.setMessage("the rule forbids this");
    error.setAdvice("Ask for less.");
    error.setRule("http.refuse.paths");
    error.setRetryAfterMs(1'500);
  }

  // Starts the answer of the part; returns false if the call is refused.
  void play(Part& part, const std::string& kind) {
    auto& p = part;
    if (kind == "fixed") p.begin(p.whole(200, "hello"));
    if (kind == "echo" || kind == "tunnel-echo")
      p.begin(kind == "echo" ? p.head(200, -1) : kj::Promise<void>(kj::READY_NOW));
    if (kind == "early") p.begin(p.whole(413, "too much"));
    if (kind == "sse")
      p.begin(p.head(200, -1, {{"Content-Type", "text/event-stream"}}).then([&p] {
        return p.tokens(0, 3);
      }));
    if (kind == "flood") p.begin(p.head(200, -1).then([&p] { return p.flood(); }));
    if (kind == "cut")
      p.begin(p.head(200, 100).then([&p] { return p.write("0123456789"); }).then([&p] {
        return p.end(static_cast<uint16_t>(base::Code::unavailable));
      }));
    if (kind == "cut-chunked")
      p.begin(p.head(200, -1).then([&p] { return p.write("0123456789"); }).then([&p] {
        return p.end(static_cast<uint16_t>(base::Code::unavailable));
      }));
    if (kind == "end-error") p.begin(p.end(static_cast<uint16_t>(base::Code::deadlineExceeded)));
    if (kind == "long") p.begin(p.head(200, 3).then([&p] { return p.write("0123456789"); }));
    if (kind == "short")
      p.begin(p.head(200, 10).then([&p] { return p.write("012"); }).then([&p] { return p.end(); }));
    if (kind == "bad-head") p.begin(p.head(200, 0, {{"A", "b\r\nSet-Cookie: c"}}));
    if (kind == "bad-status") p.begin(p.head(101, 0));
    if (kind == "two-heads") p.begin(p.head(200, -1).then([&p] { return p.head(200, -1); }));
    if (kind == "no-head") p.begin(p.write("x"));
    if (kind == "large") p.begin(p.whole(200, std::string(1 << 20, 'l')));
  }

  template <class Context>
  kj::Promise<void> serve(Context& context, const std::string& kind) {
    auto params = context.getParams();
    if (kind == "refuse") {
      refuse(context.getResults().initError());
      return kj::READY_NOW;
    }
    if (kind == "die") {
      die_();
      return kj::NEVER_DONE;
    }
    if (kind == "throw") return KJ_EXCEPTION(FAILED, "a fault of the vault");
    auto part = kj::refcounted<Part>(stage_, timer_, params.getDown());
    if (kind != "drop") play(*part, kind);
    if (kind == "drop") {
      context.getResults().setUp(
          kj::heap<UpServer>(kj::refcounted<Part>(stage_, timer_, nullptr), kind));
      return kj::READY_NOW;
    }
    auto up = kj::heap<UpServer>(kj::mv(part), kind);
    if (params.getRequest().getBodyBytes() == 0) up->endAtOnce();
    context.getResults().setUp(kj::mv(up));
    return kj::READY_NOW;
  }

  void noteRequest(const char* call, schema::HttpRequest::Reader request) {
    std::string line = std::string(call) + " " + str(request.getAction()) + " " +
                       str(request.getMethod()) + " " + str(request.getTarget()) + " ";
    for (auto header : request.getHeaders())
      line += str(header.getName()) + "=" + str(header.getValue()) + ";";
    stage_.note(line + " body=" + std::to_string(request.getBodyBytes()));
  }

  kj::Promise<void> describe(DescribeContext context) override {
    context.getResults().setJson("{\"task\":7,\"tools\":[{\"name\":\"look\"}]}");
    stage_.note("describe " + std::to_string(context.getParams().getSession()));
    return kj::READY_NOW;
  }
  kj::Promise<void> http(HttpContext context) override {
    auto request = context.getParams().getRequest();
    noteRequest("http", request);
    return serve(context, str(request.getAction()));
  }
  kj::Promise<void> proxy(ProxyContext context) override {
    auto request = context.getParams().getRequest();
    noteRequest(("proxy@" + str(context.getParams().getAuthority())).c_str(), request);
    const std::string authority = str(context.getParams().getAuthority());
    return serve(context, authority == "refuse.example" ? "refuse" : "fixed");
  }
  kj::Promise<void> tunnel(TunnelContext context) override {
    const std::string host = str(context.getParams().getHost());
    stage_.note("tunnel " + host + ":" + std::to_string(context.getParams().getPort()));
    if (host == "refuse.example") {
      refuse(context.getResults().initError());
      return kj::READY_NOW;
    }
    auto part = kj::refcounted<Part>(stage_, timer_, context.getParams().getDown());
    context.getResults().setUp(kj::heap<UpServer>(kj::mv(part), "echo"));
    return kj::READY_NOW;
  }
  kj::Promise<void> sql(SqlContext context) override {
    auto params = context.getParams();
    std::string line = "sql " + str(params.getName()) + (params.getCsv() ? " csv" : " json");
    for (auto param : params.getParams()) {
      line += " " + str(param.getName()) + ":";
      auto value = param.getValue();
      if (value.isNull()) line += "null";
      if (value.isBool()) line += value.getBool() ? "true" : "false";
      if (value.isInteger()) line += "i" + std::to_string(value.getInteger());
      if (value.isNumber()) line += "f" + std::to_string(value.getNumber());
      if (value.isText()) line += "'" + str(value.getText()) + "'";
      if (value.isIntegers()) line += "ints" + std::to_string(value.getIntegers().size());
      if (value.isTexts()) line += "texts" + std::to_string(value.getTexts().size());
    }
    stage_.note(line);
    const std::string kind = str(params.getName());
    if (kind == "refuse") {
      refuse(context.getResults().initError());
      return kj::READY_NOW;
    }
    auto part = kj::refcounted<Part>(stage_, timer_, params.getDown());
    auto& p = *part;
    return p.whole(200, "[{\"a\":1}]").attach(kj::mv(part));
  }
  kj::Promise<void> mint(MintContext context) override {
    stage_.note("mint " + str(context.getParams().getName()));
    if (str(context.getParams().getName()) == "refuse") {
      refuse(context.getResults().initError());
      return kj::READY_NOW;
    }
    auto results = context.getResults();
    results.setCredential("opaque");
    results.setExpiresMs(60'000);
    results.setAudience("a");
    results.setScope("s");
    return kj::READY_NOW;
  }
  kj::Promise<void> tool(ToolContext context) override {
    auto params = context.getParams();
    stage_.note("tool " + str(params.getName()) + " " + str(params.getJson()));
    const std::string name = str(params.getName());
    if (name == "never") return kj::NEVER_DONE;
    if (name == "die") {
      die_();
      return kj::NEVER_DONE;
    }
    context.getResults().setJson("{\"got\":" + str(params.getJson()) + "}");
    return kj::READY_NOW;
  }

  Stage& stage_;
  kj::Timer& timer_;
  std::function<void()> die_;
};

// Bounds of a test: small, so that it meets them soon.
inline Options quickOptions() {
  Options options;
  options.sweep_time = Options::Time(20);
  return options;
}

class FrontRig {
 public:
  explicit FrontRig(Options options = quickOptions()) {
    std::promise<void> ready;
    thread_ = std::thread([this, options, &ready] { serve(options, ready); });
    ready.get_future().get();
  }
  ~FrontRig() noexcept {
    onLoop([this] { host_->stop(); });
    thread_.join();
  }
  FrontRig(const FrontRig&) = delete;

  struct Ends {
    std::string path;  // of the unix door
    uint16_t port = 0;
  };
  // A door with new listening sockets.
  Ends openDoor(uint64_t session, uint32_t connections_max = 100) {
    Ends ends;
    ends.path = "/tmp/mayfly-front-" + std::to_string(::getpid()) + "-" + std::to_string(session) +
                "-" + std::to_string(++doors_made_);
    base::Fd local(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    ends.path.copy(address.sun_path, sizeof address.sun_path - 1);
    ::unlink(ends.path.c_str());
    if (::bind(local.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) ::abort();
    base::Fd tcp(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof in;
    if (::bind(tcp.get(), reinterpret_cast<sockaddr*>(&in), sizeof in) != 0 ||
        ::getsockname(tcp.get(), reinterpret_cast<sockaddr*>(&in), &bytes) != 0)
      ::abort();
    ends.port = ntohs(in.sin_port);
    if (::listen(local.get(), 4'096) != 0 || ::listen(tcp.get(), 4'096) != 0) ::abort();
    sendOpen(session, connections_max, local, tcp);
    paths_.push_back(ends.path);
    return ends;
  }
  void sendOpen(uint64_t session, uint32_t connections_max, const base::Fd& local,
                const base::Fd& tcp) {
    wire::DoorRequest request;
    request.kind = wire::DoorRequest::Kind::open;
    request.session = session;
    request.connections_max = connections_max;
    const int fds[] = {local.get(), tcp.get()};
    if (!base::sendMessage(doors_.view(), base::bytesOf(request), fds)) ::abort();
  }
  // Closes the door; returns the front's answer.
  std::optional<wire::DoorEvent> closeDoor(uint64_t session) {
    wire::DoorRequest request;
    request.kind = wire::DoorRequest::Kind::close;
    request.session = session;
    if (!base::sendMessage(doors_.view(), base::bytesOf(request), {})) ::abort();
    return nextEvent();
  }
  std::optional<wire::DoorEvent> nextEvent() {
    wire::DoorEvent event;
    auto got = base::receiveMessage(doors_.view(), base::writableBytesOf(event));
    if (!got || wire::check(event, got->bytes, got->fds).fault != wire::Checked::Fault::none)
      return std::nullopt;
    return event;
  }
  // A new vault takes the place of the old one, whose link ends.
  void newVault() {
    onLoop([this] { startVault(); });
  }
  void endVault() {
    onLoop([this] { vault_ = nullptr; });
  }
  base::FdView doorLink() const { return doors_.view(); }
  std::string whyEnded() {
    std::lock_guard guard(stage.lock);
    return why_ended_;
  }

  Stage stage;

 private:
  struct Vault {
    Vault(edge::AsioPort& port, base::Fd socket, Stage& stage, std::function<void()> die)
        : stream(edge::asioStream(port, std::move(socket))),
          messages(*stream),
          network(messages, capnp::rpc::twoparty::Side::SERVER, edge::readerOptions()),
          rpc(capnp::makeRpcServer(network, schema::Calls::Client(kj::heap<FakeVault>(
                                                stage, port.timer(), std::move(die))))) {}
    kj::Own<kj::AsyncIoStream> stream;
    edge::MessageStream messages;
    capnp::TwoPartyVatNetwork network;
    capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc;
  };

  void startVault() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) ::abort();
    base::Fd ours(fds[0]), theirs(fds[1]);
    vault_ = nullptr;
    vault_ = kj::heap<Vault>(*port_, std::move(ours), stage,
                             [this] { boost::asio::post(*host_, [this] { vault_ = nullptr; }); });
    wire::FrontMessage message;
    message.kind = wire::FrontMessage::Kind::vault;
    const int fd = theirs.get();
    if (!base::sendMessage(supervisor_.view(), base::bytesOf(message), std::span(&fd, 1)))
      ::abort();
  }

  void serve(Options options, std::promise<void>& ready) {
    auto supervisor = base::makeSeqpacketPair(), doors = base::makeSeqpacketPair();
    supervisor_ = std::move(supervisor->ours);
    doors_ = std::move(doors->ours);
    const timeval wait{20, 0};
    ::setsockopt(doors_.get(), SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    boost::asio::io_context host{1};
    auto work = boost::asio::make_work_guard(host);
    host_ = &host;
    {
      edge::AsioPort port(host, {}, [](kj::Exception&& e) {
        ::fprintf(stderr, "front rig: %s\n", e.getDescription().cStr());
      });
      port_ = &port;
      auto front = kj::heap<Front>(port, std::move(supervisor->theirs), std::move(doors->theirs),
                                   options, [this](std::string why) {
                                     std::lock_guard guard(stage.lock);
                                     why_ended_ = std::move(why);
                                   });
      startVault();
      ready.set_value();
      host.run();
      front = nullptr;
      vault_ = nullptr;
      port.finish(100'000);
    }
    for (const std::string& path : paths_) ::unlink(path.c_str());
  }

  template <class Run>
  void onLoop(Run run) {
    std::promise<void> done;
    boost::asio::post(*host_, [&] {
      run();
      done.set_value();
    });
    done.get_future().get();
  }

  boost::asio::io_context* host_ = nullptr;
  edge::AsioPort* port_ = nullptr;
  kj::Own<Vault> vault_;
  base::Fd supervisor_, doors_;
  std::string why_ended_;
  std::vector<std::string> paths_;
  int doors_made_ = 0;
  std::thread thread_;
};

}  // namespace mayfly::front
