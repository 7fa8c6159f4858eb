#include "rpc/server.h"

#include <malloc.h>
#include <spdlog/spdlog.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <unordered_map>

#include <fmt/format.h>

#include "edge/loop.h"
#include "rpc/calls.h"
#include "rpc/connection.h"

namespace mayfly::rpc {

using base::Code;
using base::Error;

namespace {

constexpr auto kAcceptRetryTime = 100 * kj::MILLISECONDS;
constexpr auto kRefusedTime = 5 * kj::SECONDS;  // a refused client has so long to read why
constexpr auto kRefusalSayTime = 1 * kj::SECONDS;
constexpr auto kTrimTime = 1 * kj::SECONDS;      // between two looks at what malloc keeps
constexpr size_t kKeptFreeBytesMax = 32u << 20;  // and of code and stacks; more goes back
constexpr uint32_t kRefusedConnectionsMax = 16;  // beyond: closed without a word

size_t residentBytes() {
  size_t pages = 0, resident_pages = 0;
  if (FILE* file = ::fopen("/proc/self/statm", "re")) {
    if (::fscanf(file, "%zu %zu", &pages, &resident_pages) != 2) resident_pages = 0;
    ::fclose(file);
  }
  return resident_pages * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

size_t inUseBytes() {
  auto info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

// Accepts and holds the connections. RPC thread.
class Acceptor final : kj::TaskSet::ErrorHandler {
 public:
  Acceptor(Hub& hub, kj::AsyncIoContext& io, int listener)
      : hub_(hub),
        timer_(hub.timer),
        listener_(io.lowLevelProvider->wrapListenSocketFd(
            listener, kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP)),
        tasks_(*this) {
    tasks_.add(accept());
  }

 private:
  void taskFailed(kj::Exception&& e) override {
    spdlog::error("rpc: {}", edge::errorOf(e).message);
  }

  kj::Promise<void> accept() {
    return listener_->accept().then(
        [this](kj::Own<kj::AsyncIoStream> stream) {
          // One client's socket that is gone already must not end the accepting.
          KJ_IF_MAYBE (e, kj::runCatchingExceptions([&] { admit(kj::mv(stream)); })) {
            spdlog::warn("rpc: a connection could not be served: {}", edge::errorOf(*e).message);
          }
          return accept();
        },
        [this](kj::Exception&& e) {
          spdlog::warn("rpc: cannot accept: {}; trying again", edge::errorOf(e).message);
          return timer_.afterDelay(kAcceptRetryTime).then([this] { return accept(); });
        });
  }

  std::optional<Error> refusalOf(const ucred& peer) const {
    const auto& allowed = hub_.options.uids_allowed;
    if (peer.uid != 0 && peer.uid != ::geteuid() &&
        std::find(allowed.begin(), allowed.end(), peer.uid) == allowed.end())
      return Error{Code::permissionDenied, fmt::format("uid {} may not use this daemon", peer.uid),
                   "Add the uid to `uids_allowed` in the daemon's configuration.", 0};
    if (connections_.size() - refused_ >= hub_.options.connections_max)
      return Error{Code::resourceExhausted,
                   fmt::format("{} connections are open", hub_.options.connections_max),
                   "Use one connection for many tasks, or try later.", 0, kRetryMs};
    return std::nullopt;
  }

  // Whoever connects in a loop does not fill the log.
  void sayRefused(const ucred& peer, const Error& refusal) {
    if (timer_.now() < refusal_said_ + kRefusalSayTime) {
      ++refusals_unsaid_;
      return;
    }
    spdlog::warn(
        "rpc: pid {}, uid {} refused: {}{}", peer.pid, peer.uid, refusal.message,
        refusals_unsaid_ > 0 ? fmt::format("; {} more since the last time", refusals_unsaid_) : "");
    refusal_said_ = timer_.now();
    refusals_unsaid_ = 0;
  }

  void admit(kj::Own<kj::AsyncIoStream> stream) {
    ucred peer{};
    kj::uint length = sizeof peer;
    stream->getsockopt(SOL_SOCKET, SO_PEERCRED, &peer, &length);
    auto refusal = refusalOf(peer);
    if (refusal) {
      sayRefused(peer, *refusal);
      if (refused_ >= kRefusedConnectionsMax) return;
      ++refused_;
    }
    bool was_refused = refusal.has_value();
    auto connection = kj::heap<Connection>(hub_, kj::mv(stream), peer.uid, std::move(refusal));
    sched::OwnerId owner = connection->id();
    auto end = connection->onEnd();
    if (was_refused) end = end.exclusiveJoin(timer_.afterDelay(kRefusedTime));
    connections_.emplace(owner, kj::mv(connection));
    // A step later, for a connection must not be destroyed by a promise of its own.
    tasks_.add(end.catch_([](kj::Exception&&) {}).then([this, owner, was_refused] {
      return kj::evalLater([this, owner, was_refused] {
        connections_.erase(owner);
        if (was_refused) --refused_;
        trimSoon();
      });
    }));
  }

  // What a client made the daemon hold was many small pieces; freed, malloc would keep their pages.
  void trimSoon() {
    if (trim_waits_) return;
    trim_waits_ = true;
    tasks_.add(timer_.afterDelay(kTrimTime).then([this] {
      trim_waits_ = false;
      if (residentBytes() > inUseBytes() + kKeptFreeBytesMax) ::malloc_trim(0);
    }));
  }

  Hub& hub_;
  kj::Timer& timer_;
  kj::Own<kj::ConnectionReceiver> listener_;
  uint32_t refused_ = 0;  // of connections_
  kj::TimePoint refusal_said_ = kj::origin<kj::TimePoint>();
  uint64_t refusals_unsaid_ = 0;
  bool trim_waits_ = false;
  std::unordered_map<sched::OwnerId, kj::Own<Connection>> connections_;
  kj::TaskSet tasks_;
};

}  // namespace

Hub::Hub(Options o, CoreLinkPtr l, kj::Timer& t)
    : options(std::move(o)),
      link(std::move(l)),
      timer(t),
      answers{options.answers_per_connection_max, options.answers_max},
      answers_unread{options.unsent_bytes_max, options.in_flight_own_bytes},
      requests(t, {options.in_flight_bytes_max, options.in_flight_own_bytes,
                   options.in_flight_bytes_per_connection_max,
                   options.message_ms_max * kj::MILLISECONDS}),
      leases(t,
             [this](uint64_t key) {
               auto task = tasks.by_key.find(key);
               if (task == tasks.by_key.end()) return;
               auto kept = kj::addRef(*task->second);
               kept->forget();
             }),
      users(*this),
      blobs(options, t) {}

void Hub::stop() {
  users.stop();
  blobs.stop();
  leases.stop();
  requests.stop();
}

struct OnLoop {
  std::optional<Hub> hub;
  std::optional<Acceptor> acceptor;
};

struct Server::Impl {
  explicit Impl(CoreLinkPtr l) : link(std::move(l)) {}
  CoreLinkPtr link;
  std::shared_ptr<OnLoop> on_loop;
  std::unique_ptr<edge::Loop> loop;  // ends before the hub
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() { stop(); }

base::Result<std::unique_ptr<Server>> Server::start(sched::Core& core,
                                                    boost::asio::any_io_executor core_executor,
                                                    base::Fd listener, Options options) {
  auto impl = std::make_unique<Impl>(std::make_shared<CoreLink>(core, std::move(core_executor)));
  auto on_loop = impl->on_loop = std::make_shared<OnLoop>();
  auto fd = std::make_shared<base::Fd>(std::move(listener));
  auto loop = edge::Loop::start(
      "mayfly-rpc",
      [link = impl->link, options = std::move(options), on_loop, fd](kj::AsyncIoContext& io) {
        on_loop->hub.emplace(options, link, io.provider->getTimer());
        on_loop->acceptor.emplace(*on_loop->hub, io, fd->release());
      },
      [on_loop] {
        on_loop->acceptor.reset();
        on_loop->hub->stop();
      });
  if (!loop) return base::fail(std::move(loop).error().in("cannot serve clients"));
  impl->loop = std::move(*loop);
  // Nobody reads it before: the core learns of this server by its clients' calls, whose jobs run
  // on this thread.
  impl->link->loop = impl->loop.get();
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

void Server::stop() {
  if (impl_->link->core == nullptr) return;
  impl_->link->core = nullptr;
  impl_->loop->stop();
}

}  // namespace mayfly::rpc
