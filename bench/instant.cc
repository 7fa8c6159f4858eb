// mayfly-bench-instant SOCKET: a daemon without boxes. Every task succeeds at once and prints "42".
// Load on it shows the cost of the client, the RPC and the load engine alone: how far they are from
// being the bottleneck of any other figure.
//
// Layer: bench. The daemon's own RPC room over a core that does nothing. Until SIGTERM.
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>

#include "base/clock.h"
#include "base/fd.h"
#include "rpc/server.h"
#include "sched/core.h"

namespace {

using namespace mayfly;

class InstantCore final : public sched::Core {
 public:
  explicit InstantCore(boost::asio::io_context& io) : io_(io) {}

  base::Result<base::TaskId> submit(sched::TaskSpec spec,
                                    std::shared_ptr<sched::TaskListener> listener) override {
    base::TaskId id = next_++;
    boost::asio::post(io_, [id, spec = std::move(spec), listener = std::move(listener)] {
      sched::TaskResult r;
      r.task = id;
      r.template_name = spec.template_name;
      r.verdict = base::Verdict::succeeded;
      r.receipt.complete = true;
      r.phases[static_cast<size_t>(base::Phase::queued)] = base::monotonicNs();
      listener->onStarted();
      if (spec.live_output)
        listener->onOutput(sched::Stream::out, "42\n");
      else
        r.captured[0] = "42\n";
      listener->onResult(std::move(r));
    });
    return id;
  }
  base::Status writeStdin(base::TaskId, std::string) override { return base::Unit{}; }
  base::Status closeStdin(base::TaskId) override { return base::Unit{}; }
  void acknowledgeOutput(base::TaskId, sched::Stream, uint64_t) override {}
  base::Status cancel(base::TaskId, const sched::AccountRef&, sched::Cancel) override {
    return base::Unit{};
  }
  void ownerGone(sched::OwnerId) override {}
  std::vector<sched::TaskInfo> tasks(const sched::AccountRef&) const override { return {}; }
  std::optional<sched::TaskInfo> info(base::TaskId) const override { return {}; }
  // Any template's task is taken; clients that ask first find this one.
  std::vector<sched::TemplateInfo> templates() const override {
    sched::TemplateInfo python;
    python.name = "python";
    python.mechanism = "instant";
    python.state = "ready";
    return {python};
  }

  sched::Accounts& accounts() override { return book_; }

 private:
  boost::asio::io_context& io_;
  sched::Accounts book_;
  base::TaskId next_ = 1;
};

int failed(const char* what) {
  std::fprintf(stderr, "mayfly-bench-instant: %s\n", what);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::string path = argc == 2 ? argv[1] : "";
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return failed("usage: mayfly-bench-instant SOCKET");
  path.copy(address.sun_path, path.size());
  base::Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener ||
      ::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener.get(), 16) != 0)
    return failed("can't listen there");
  boost::asio::io_context io{1};
  InstantCore core(io);
  base::Observer nobody;
  auto server = rpc::Server::start(core, io, std::move(listener), {}, nobody);
  if (!server) return failed(server.error().message.c_str());
  boost::asio::signal_set signals(io, SIGTERM, SIGINT);
  signals.async_wait([&](boost::system::error_code, int) { io.stop(); });
  std::printf("ready\n");
  std::fflush(stdout);
  io.run();
  server->reset();
  ::unlink(path.c_str());
  return 0;
}
