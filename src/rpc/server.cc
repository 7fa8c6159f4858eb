#include "rpc/server.h"

#include <errno.h>
#include <kj/debug.h>
#include <malloc.h>
#include <spdlog/spdlog.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <unordered_map>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <fmt/format.h>

#include "edge/asio_port.h"
#include "edge/asio_stream.h"
#include "rpc/calls.h"
#include "rpc/connection.h"

namespace mayfly::rpc {

using base::Code;
using base::Error;

namespace {

constexpr auto kAcceptRetryTime = 100 * kj::MILLISECONDS;
constexpr int kAcceptsPerTurnMax = 8;
constexpr auto kRefusedPauseTime = 1 * kj::MILLISECONDS;
constexpr uint32_t kLastEventsMax = 100'000;    // that the loop still runs when the server ends
constexpr auto kRefusedTime = 5 * kj::SECONDS;  // for a refused client to read the reason
constexpr auto kRefusalTime = 1 * kj::SECONDS;  // between two reasons sent to one user
constexpr auto kTrimTime = 1 * kj::SECONDS;     // from a connection's end to a check of malloc
constexpr auto kDeliveredLookTime = 2 * kj::MILLISECONDS;
constexpr auto kQuietTime =
    200 * kj::MILLISECONDS;                      // a client that reads a result's files asks sooner
constexpr size_t kKeptFreeBytesMax = 32u << 20;  // freed memory, code and stacks; beyond: trimmed
constexpr uint32_t kRefusedConnectionsMax = 16;  // beyond: closed without a word
constexpr size_t kPeerGroupsMax = 65'536;        // the kernel's own bound

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

// The supplementary groups that the peer had when it connected; none if the kernel does not tell.
std::vector<gid_t> groupsOf(int socket) {
  std::vector<gid_t> groups(64);
  for (;;) {
    auto bytes = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes) == 0) {
      groups.resize(bytes / sizeof(gid_t));
      return groups;
    }
    const size_t count = bytes / sizeof(gid_t);  // ERANGE: all of them
    if (errno != ERANGE || count <= groups.size() || count > kPeerGroupsMax) return {};
    groups.resize(count);
  }
}

// Accepts and holds the connections.
class Acceptor final : kj::TaskSet::ErrorHandler {
 public:
  Acceptor(Hub& hub, base::Fd listener)
      : hub_(hub), timer_(hub.timer), listener_(hub.port.host(), listener.get()), tasks_(*this) {
    listener.release();
    awaitClients();
  }
  ~Acceptor() noexcept(false) { *self_ = nullptr; }

  void deliver(kj::Duration time_max, std::function<void()> done) {
    tasks_.add(
        delivered().exclusiveJoin(timer_.afterDelay(time_max)).then([done = std::move(done)] {
          done();
        }));
  }

 private:
  using Listener = boost::asio::posix::stream_descriptor;

  void taskFailed(kj::Exception&& e) override {
    spdlog::error("rpc: {}", edge::errorOf(e).message);
  }

  void awaitClients() {
    listener_.async_wait(Listener::wait_read, [self = self_](boost::system::error_code failed) {
      if (!failed && *self != nullptr) (*self)->acceptSome();
    });
  }

  // Clients beyond kAcceptsPerTurnMax stay in the kernel's queue until the host's other handlers
  // have run.
  void acceptSome() {
    int refused = 0;
    for (int i = 0; i < kAcceptsPerTurnMax; ++i) {
      base::Fd socket(
          ::accept4(listener_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket && errno == EAGAIN) break;
      if (!socket && (errno == EINTR || errno == ECONNABORTED)) continue;
      if (!socket) {
        spdlog::warn("rpc: {}; trying again", base::sysError(errno, "accept", "a client").message);
        tasks_.add(timer_.afterDelay(kAcceptRetryTime).then([this] { awaitClients(); }));
        return;
      }
      // A client that is already gone must not stop the acceptor.
      KJ_IF_MAYBE (e, kj::runCatchingExceptions([&] { refused += !admit(std::move(socket)); })) {
        spdlog::warn("rpc: a connection could not be served: {}", edge::errorOf(*e).message);
      }
    }
    if (refused < kAcceptsPerTurnMax) return awaitClients();
    // Refused users connect in a loop. During this pause the kernel's queue fills and blocks them.
    tasks_.add(timer_.afterDelay(kRefusedPauseTime).then([this] { awaitClients(); }));
  }

  kj::Promise<void> delivered() {
    if (std::all_of(connections_.begin(), connections_.end(),
                    [](auto& each) { return each.second->isServed(kQuietTime); }))
      return kj::READY_NOW;
    return timer_.afterDelay(kDeliveredLookTime).then([this] { return delivered(); });
  }

  // A group only opens the door: the peer's account is its uid's.
  bool mayConnect(int socket, const ucred& peer) const {
    const auto has = [](const auto& list, auto id) {
      return std::find(list.begin(), list.end(), id) != list.end();
    };
    const std::vector<gid_t>& groups = hub_.options.gids_allowed;
    if (peer.uid == 0 || peer.uid == ::geteuid() || has(hub_.options.uids_allowed, peer.uid))
      return true;
    if (groups.empty()) return false;
    if (has(groups, peer.gid)) return true;
    const std::vector<gid_t> others = groupsOf(socket);
    return std::any_of(others.begin(), others.end(), [&](gid_t gid) { return has(groups, gid); });
  }

  // The account's share of the connections, or the reason for refusing it one.
  base::Result<sched::Share> admission(int socket, const ucred& peer) const {
    const uid_t uid = peer.uid;
    if (!mayConnect(socket, peer))
      return base::fail(Code::permissionDenied, fmt::format("uid {} may not use this daemon", uid),
                        "Add the user to `uids_allowed`, or a group of its to `gids_allowed`, in "
                        "the daemon's settings.");
    MAYFLY_TRY(sched::AccountRef account, hub_.accounts.open(sched::Account::ofPeer(uid)));
    return hub_.accounts.take(account, sched::Resource::connections);
  }

  // Whether to tell the user the reason. A user that connects in a loop is told once per
  // kRefusalTime. Its other connections are closed without a word and without a log line, so that
  // they cost the thread little time.
  bool tells(const ucred& peer, const Error& refusal) {
    const kj::TimePoint now = timer_.now();
    std::erase_if(refused_until_, [&](const auto& user) { return user.second <= now; });
    if (refused_until_.contains(peer.uid) || refused_ >= kRefusedConnectionsMax) {
      ++untold_;
      return false;
    }
    refused_until_.insert_or_assign(peer.uid, now + kRefusalTime);
    spdlog::warn("rpc: pid {}, uid {} refused: {}{}", peer.pid, peer.uid, refusal.message,
                 untold_ > 0 ? fmt::format("; {} others were not told why", untold_) : "");
    untold_ = 0;
    return true;
  }

  // Returns false if it refused the client.
  bool admit(base::Fd socket) {
    ucred peer{};
    socklen_t length = sizeof peer;
    KJ_SYSCALL(::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length));
    auto admitted = admission(socket.get(), peer);
    if (admitted) {
      serve(std::move(socket), std::move(*admitted), std::nullopt);
      return true;
    }
    hub_.observer.connectionRefused(sched::Account::ofPeer(peer.uid).user,
                                    base::name(admitted.error().code));
    if (tells(peer, admitted.error())) serve(std::move(socket), {}, std::move(admitted).error());
    return false;
  }

  void serve(base::Fd socket, sched::Share admitted, std::optional<Error> refusal) {
    const bool is_refused = refusal.has_value();
    const std::string user(admitted.whose().userName());
    auto connection = kj::heap<Connection>(hub_, edge::asioStream(hub_.port, std::move(socket)),
                                           std::move(admitted), std::move(refusal));
    sched::OwnerId owner = connection->id();
    auto end = connection->onEnd();
    if (is_refused) end = end.exclusiveJoin(timer_.afterDelay(kRefusedTime));
    connections_.emplace(owner, kj::mv(connection));
    if (is_refused)
      ++refused_;
    else
      hub_.observer.connectionOpened(user);
    // One event later, because a connection must not be destroyed from within its own promise.
    tasks_.add(end.catch_([](kj::Exception&&) {}).then([this, owner, user, is_refused] {
      return kj::evalLater([this, owner, user, is_refused] {
        connections_.erase(owner);
        if (is_refused)
          --refused_;
        else
          hub_.observer.connectionEnded(user);
        trimSoon();
      });
    }));
  }

  // A client's memory was many small allocations, and malloc keeps their pages after they are
  // freed.
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
  Listener listener_;
  std::shared_ptr<Acceptor*> self_ = std::make_shared<Acceptor*>(this);  // null: destroyed
  uint32_t refused_ = 0;                                                 // among connections_
  std::unordered_map<uid_t, kj::TimePoint> refused_until_;  // users told; not told again until then
  uint64_t untold_ = 0;                                     // refusals since the last one told
  bool trim_waits_ = false;
  std::unordered_map<sched::OwnerId, kj::Own<Connection>> connections_;
  kj::TaskSet tasks_;
};

}  // namespace

Hub::Hub(Options o, sched::Core& c, edge::AsioPort& p, base::Observer& told)
    : options(std::move(o)),
      core(c),
      accounts(c.accounts()),
      observer(told),
      port(p),
      timer(p.timer()),
      requests(timer, {options.own_bytes, options.in_flight_bytes_per_connection_max,
                       options.message_ms_max * kj::MILLISECONDS}),
      leases(timer,
             [](TaskState& task) {
               auto kept = kj::addRef(task);
               kept->forget();
             }),
      users(*this),
      blobs(options, accounts, timer) {}

void Hub::stop() {
  users.stop();
  blobs.stop();
  leases.stop();
  requests.stop();
}

struct Server::Impl {
  Impl(sched::Core& core, boost::asio::io_context& io, base::Fd listener, Options options,
       base::Observer& observer)
      : port(kj::heap<edge::AsioPort>(io, edge::TurnBounds{}, &sayFault)),
        hub(std::move(options), core, *port, observer),
        acceptor(kj::heap<Acceptor>(hub, std::move(listener))) {}
  ~Impl() {
    KJ_IF_MAYBE (fault, kj::runCatchingExceptions([this] {
                   port->finish(kLastEventsMax);
                   acceptor = nullptr;
                   hub.stop();
                   port->finish(kLastEventsMax);
                   port = nullptr;  // before the hub, which the loop's last objects still use
                 })) {
      sayFault(kj::mv(*fault));
    }
  }
  static void sayFault(kj::Exception&& e) { spdlog::error("rpc: {}", edge::errorOf(e).message); }

  kj::Own<edge::AsioPort> port;
  Hub hub;
  kj::Own<Acceptor> acceptor;
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

edge::AsioPort& Server::port() { return *impl_->port; }

void Server::deliver(uint64_t ms_max, std::function<void()> done) {
  impl_->acceptor->deliver(ms_max * kj::MILLISECONDS, std::move(done));
}

base::Result<std::unique_ptr<Server>> Server::start(sched::Core& core, boost::asio::io_context& io,
                                                    base::Fd listener, Options options,
                                                    base::Observer& observer) {
  MAYFLY_CHECK(base::setNonblocking(listener.view()));
  std::unique_ptr<Impl> impl;
  KJ_IF_MAYBE (e, kj::runCatchingExceptions([&] {
                 impl = std::make_unique<Impl>(core, io, std::move(listener), std::move(options),
                                               observer);
               })) {
    return base::fail(edge::errorOf(*e).in("cannot serve clients"));
  }
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

}  // namespace mayfly::rpc
