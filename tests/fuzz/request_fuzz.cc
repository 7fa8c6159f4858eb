// libFuzzer on the whole request path: bytes on a real socket, MessageStream, Cap'n
// Proto's RPC, rpc::Server, and a core that checks tasks as the real one does.
//
// Finds: a crash, a sanitizer's finding, a connection that does not end.
// The bounds are small, so that inputs of a few KB can meet them.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "checking_core.h"
#include "rpc/server.h"

namespace {

using namespace mayfly;

constexpr int kEndMs = 20'000;  // a connection that has not ended by then never will

std::string socket_path;

void startServer() {
  static char folder[] = "/tmp/mayfly-fuzz-XXXXXX";
  if (::mkdtemp(folder) == nullptr) abort();
  socket_path = std::string(folder) + "/s";
  ::atexit([] {
    ::unlink(socket_path.c_str());
    ::rmdir(folder);
  });
  base::Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket_path.copy(address.sun_path, sizeof address.sun_path - 1);
  if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener.get(), 16) != 0)
    abort();
  spdlog::set_level(spdlog::level::off);
  // They serve until the process ends; its exit does not wait for them.
  auto* io = new boost::asio::io_context;
  auto* work = new auto(boost::asio::make_work_guard(*io));
  (void)work;
  auto* core = new fuzz::CheckingCore(*io);
  auto* observer = new base::Observer;
  rpc::Options options;
  options.tasks_per_connection_max = 8;
  options.calls_per_connection_max = 16;
  options.handles_per_connection_max = 16;
  options.result_lease_ms = 50;
  options.connection_idle_ms = 2'000;
  options.answers_per_connection_max = 64;
  options.unsent_bytes_per_connection_max = 64u << 10;
  options.in_flight_bytes_per_connection_max = 64u << 10;
  options.own_bytes = 8u << 10;
  options.message_ms_max = 1'000;
  options.blob_ttl_ms = 1'000;
  std::thread([=, listener = std::move(listener)]() mutable {
    auto server = rpc::Server::start(*core, *io, std::move(listener), options, *observer);
    if (!server) abort();
    io->run();
  }).detach();
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  startServer();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket_path.copy(address.sun_path, sizeof address.sun_path - 1);
  while (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    if (errno != EINTR) abort();
  ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
  static char buffer[64 << 10];
  bool writing = true;
  for (;;) {
    if (writing && size == 0) {
      writing = false;
      ::shutdown(fd.get(), SHUT_WR);
    }
    pollfd p{fd.get(), static_cast<short>(writing ? POLLIN | POLLOUT : POLLIN), 0};
    int ready = ::poll(&p, 1, kEndMs);
    if (ready < 0 && errno == EINTR) continue;  // the fuzzer's own alarm
    if (ready <= 0) abort();
    if (writing && (p.revents & POLLOUT) != 0) {
      ssize_t n = ::send(fd.get(), data, size, MSG_NOSIGNAL);
      if (n > 0) {
        data += n;
        size -= static_cast<size_t>(n);
      } else if (errno != EAGAIN) {
        writing = false;
      }
    }
    if ((p.revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
      ssize_t n = ::recv(fd.get(), buffer, sizeof buffer, 0);
      if (n == 0 || (n < 0 && errno != EAGAIN)) return 0;
    }
  }
}
