// Clients for the server's tests: one of raw bytes, and one with KJ's own stream and a sink whose
// calls return when the test lets them.
#pragma once

#include <capnp/message.h>
#include <capnp/rpc-twoparty.h>
#include <capnp/rpc.capnp.h>
#include <capnp/serialize.h>
#include <kj/async-io.h>
#include <mayfly/mayfly.capnp.h>
#include <poll.h>

#include <optional>
#include <string>
#include <vector>

#include "edge/convert.h"
#include "rpc_fake_core.h"

namespace mayfly::test {

inline base::Fd rawConnect(const std::string& path) {
  base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  return fd;
}

// Records the calls of a sink, and decides when they return.
struct SinkLog {
  std::string out, err;
  uint64_t writes = 0;
  bool started = false;
  bool hold = false;  // write returns when release() is called
  bool fail = false;
  std::vector<kj::Own<kj::PromiseFulfiller<void>>> held;
  void release() {
    hold = false;
    for (auto& each : held) each->fulfill();
    held.clear();
  }
};

class Sink final : public schema::OutputSink::Server {
 public:
  explicit Sink(SinkLog& log) : log_(log) {}
  kj::Promise<void> started(StartedContext) override {
    log_.started = true;
    return kj::READY_NOW;
  }
  kj::Promise<void> write(WriteContext context) override {
    auto params = context.getParams();
    (params.getStream() == schema::Stream::STDOUT ? log_.out : log_.err) +=
        edge::str(params.getData());
    ++log_.writes;
    if (log_.fail) return KJ_EXCEPTION(FAILED, "no more");
    if (!log_.hold) return kj::READY_NOW;
    auto paf = kj::newPromiseAndFulfiller<void>();
    log_.held.push_back(kj::mv(paf.fulfiller));
    return kj::mv(paf.promise);
  }

 private:
  SinkLog& log_;
};

// A client with KJ's own stream, on the test's thread: like the clients of other languages.
struct Peer {
  explicit Peer(const std::string& path) : Peer(path, nullptr) {}
  // A second connection on the same thread.
  Peer(const std::string& path, Peer& sharing) : Peer(path, &sharing.io) {}
  Peer(const std::string& path, kj::AsyncIoContext* shared)
      : own_io(shared == nullptr ? std::optional(kj::setupAsyncIo()) : std::nullopt),
        io(shared == nullptr ? *own_io : *shared),
        stream(io.provider->getNetwork()
                   .parseAddress("unix:" + path)
                   .wait(io.waitScope)
                   ->connect()
                   .wait(io.waitScope)),
        client(*stream),
        mayfly(client.bootstrap().castAs<schema::Mayfly>()) {}

  auto submitRequest(const char* name, std::string code = "") {
    auto request = mayfly.submitRequest();
    auto spec = request.initSpec();
    spec.setTemplate(name);
    spec.getCode().setString(edge::data(code));
    return request;
  }
  // Runs the loop until `is()`. Returns false after kEventTime.
  template <class Is>
  bool until(Is is) {
    auto deadline = std::chrono::steady_clock::now() + kEventTime;
    while (!is()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      io.provider->getTimer().afterDelay(1 * kj::MILLISECONDS).wait(io.waitScope);
    }
    return true;
  }

  std::optional<kj::AsyncIoContext> own_io;
  kj::AsyncIoContext& io;
  kj::Own<kj::AsyncIoStream> stream;
  capnp::TwoPartyClient client;
  schema::Mayfly::Client mayfly;
};

// Whether the daemon ends this connection. Ignores the bytes that it sends before.
inline bool isEnded(base::FdView fd) {
  char buffer[4096];
  for (;;) {
    pollfd wait{fd.get(), POLLIN, 0};
    if (::poll(&wait, 1, 20'000) <= 0) return false;
    if (::read(fd.get(), buffer, sizeof buffer) <= 0) return true;
  }
}

inline void appendMessage(std::string& to, capnp::MessageBuilder& message) {
  auto words = capnp::messageToFlatArray(message);
  auto bytes = words.asBytes();
  to.append(reinterpret_cast<const char*>(bytes.begin()), bytes.size());
}

}  // namespace mayfly::test
