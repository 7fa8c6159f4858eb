#include "web/server.h"

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "web/connection.h"
#include "web/shared.h"

namespace mayfly::web {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr int kAcceptsMax = 16;  // in one turn of the loop
constexpr auto kNoRoomPause = std::chrono::milliseconds(100);
constexpr int kNice = 10;  // the core's thread goes first
constexpr std::string_view kFull =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n"
    "Retry-After: 1\r\n\r\n";

}  // namespace

struct Server::Impl : std::enable_shared_from_this<Impl> {
  explicit Impl(base::Fd listener_fd, Options options)
      : shared(std::make_shared<Shared>()), acceptor(shared->io), pause(shared->io) {
    shared->options = std::move(options);
    shared->options.port = portOf(listener_fd.view());
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    ::getsockname(listener_fd.get(), reinterpret_cast<sockaddr*>(&address), &length);
    acceptor.assign(address.ss_family == AF_INET6 ? tcp::v6() : tcp::v4(), listener_fd.release());
  }

  void run(Server& server, const std::function<void(Server&, Router&)>& routes,
           std::promise<void>& ready) {
    ::prctl(PR_SET_NAME, "mayfly-http");
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNice);
    routes(server, shared->router);
    await();
    ready.set_value();  // `server` and `routes` may end from here on
    while (!stopped) {
      try {
        shared->io.run();
      } catch (const std::exception&) {
        continue;  // of one handler: the others go on
      }
      break;
    }
    acceptor.close();
    timers.clear();
    for (Connection* one : std::set(shared->connections)) one->close();
    shared->io.restart();
    shared->io.poll();  // what ends with them
    done.set_value();
  }

  void await() {
    acceptor.async_wait(tcp::acceptor::wait_read, [this](error_code failed) {
      if (failed) return;
      acceptSome();
    });
  }

  void acceptSome() {
    for (int i = 0; i < kAcceptsMax; ++i) {
      sockaddr_storage address{};
      socklen_t length = sizeof address;
      base::Fd fd(::accept4(acceptor.native_handle(), reinterpret_cast<sockaddr*>(&address),
                            &length, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (fd) {
        try {
          admit(std::move(fd), address, length);
        } catch (const std::exception&) {  // this client's connection is closed; others wait
        }
        continue;
      }
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EAGAIN) break;
      // No descriptor or memory is free: the client waits in the backlog.
      pause.expires_after(kNoRoomPause);
      pause.async_wait([this](error_code failed) {
        if (!failed) await();
      });
      return;
    }
    await();
  }

  void admit(base::Fd fd, const sockaddr_storage& address, socklen_t length) {
    tcp::endpoint peer;
    peer.resize(std::min<size_t>(length, peer.capacity()));
    ::memcpy(peer.data(), &address, peer.size());
    std::string host = hostOf(peer.address());
    if (!makeRoom(host)) {
      ++shared->refused;
      (void)!::send(fd.get(), kFull.data(), kFull.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      return;
    }
    ++shared->accepted;
    tcp::socket socket(shared->io);
    error_code failed;
    socket.assign(peer.protocol(), fd.get(), failed);
    if (failed) return;
    (void)fd.release();
    std::make_shared<Connection>(shared, std::move(socket), std::move(host))->read();
  }

  // Who has nothing to do goes first: a client that only holds places keeps nobody out.
  bool makeRoom(const std::string& host) {
    const auto at = shared->of_host.find(host);
    const bool host_full =
        at != shared->of_host.end() && at->second.connections >= shared->options.per_host_max;
    if (!host_full && shared->open < shared->options.connections_max) return true;
    const uint64_t now_ns = base::monotonicNs();
    Connection* longest = nullptr;
    for (Connection* one : shared->connections)
      if (one->mayGo(now_ns) && (!host_full || one->host() == host) &&
          (longest == nullptr || one->since_ns() < longest->since_ns()))
        longest = one;
    if (longest == nullptr) return false;
    ++shared->refused;
    longest->close();
    return true;
  }

  void tick(const std::shared_ptr<asio::steady_timer>& timer, std::chrono::milliseconds period,
            std::function<void()> work) {
    timer->expires_after(period);
    timer->async_wait([this, timer, period, work = std::move(work)](error_code failed) mutable {
      if (failed || stopped) return;
      tick(timer, period, work);
      work();
    });
  }

  std::shared_ptr<Shared> shared;
  tcp::acceptor acceptor;
  asio::steady_timer pause;
  std::vector<std::shared_ptr<asio::steady_timer>> timers;
  std::thread thread;
  std::promise<void> done;
  std::future<void> ended = done.get_future();
  std::atomic<bool> stopped{false};
};

Server::Server(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() { stop(std::chrono::seconds(1)); }

base::Result<std::unique_ptr<Server>> Server::start(base::Fd listener, Options options,
                                                    std::function<void(Server&, Router&)> routes) {
  if (options.token.empty() && !options.loopback)
    return base::fail(base::Code::invalidArgument, "an HTTP server beyond loopback needs a token",
                      "Set http.token_file.");
  auto impl = std::make_shared<Impl>(std::move(listener), std::move(options));
  std::unique_ptr<Server> server(new Server(impl));
  std::promise<void> ready;
  std::future<void> runs = ready.get_future();
  // Signals are the main thread's, but for the one by which a refused system call is told.
  sigset_t all, before;
  ::sigfillset(&all);
  ::sigdelset(&all, SIGSYS);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    impl->thread =
        std::thread([impl, &server, &routes, &ready] { impl->run(*server, routes, ready); });
  } catch (const std::system_error& e) {
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    impl->stopped = true;
    return base::fail(base::Code::internal, std::string("cannot start a thread: ") + e.what());
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  runs.wait();
  return server;
}

bool Server::stop(std::chrono::milliseconds wait) {
  if (!impl_ || !impl_->thread.joinable()) return true;
  impl_->stopped = true;
  impl_->shared->io.stop();
  if (impl_->ended.wait_for(wait) == std::future_status::ready) {
    impl_->thread.join();
    return true;
  }
  impl_->thread.detach();
  return false;
}

void Server::post(std::function<void()> work) {
  if (!impl_->stopped) boost::asio::post(impl_->shared->io, std::move(work));
}

void Server::every(std::chrono::milliseconds period, std::function<void()> work) {
  auto timer = std::make_shared<asio::steady_timer>(impl_->shared->io);
  impl_->timers.push_back(timer);
  impl_->tick(timer, period, std::move(work));
}

Counts Server::counts() const {
  const Shared& s = *impl_->shared;
  return {s.accepted, s.refused, s.requests, s.unauthorised, s.dropped_slow, s.open, s.streams};
}

uint16_t Server::port() const { return impl_->shared->options.port; }

}  // namespace mayfly::web
