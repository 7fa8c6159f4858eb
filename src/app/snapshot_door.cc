// Layer: app. See snapshot_door.h.
#include "app/snapshot_door.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

#include "wire/offer_check.h"

namespace mayfly::app {

using base::Fd;
using base::FdView;
using boost::asio::posix::descriptor_base;

constexpr auto kAcceptRetryTime = std::chrono::milliseconds(100);

base::Result<Fd> listenForSnapshots(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return base::fail(base::Code::invalidArgument,
                      "the path of the socket is too long: '" + path + "'",
                      "Use a shorter run_dir.");
  memcpy(address.sun_path, path.data(), path.size());
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return base::failSys(errno, "socket", path);
  struct stat st;
  if (::lstat(path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode)) ::unlink(path.c_str());
  // Before the bind, so that nobody else can connect at any time: a socket gets its mode then.
  const mode_t before = ::umask(0177);
  const int bound = ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
  const int error = errno;
  ::umask(before);
  if (bound != 0) return base::failSys(error, "bind", path);
  if (::listen(fd.get(), static_cast<int>(SnapshotDoor::kConnectionsMax)) != 0)
    return base::failSys(errno, "listen", path);
  return fd;
}

// One peer with its one offer. It lives until its answer is given, or the peer goes before.
class SnapshotDoor::Connection final : public MessageChannel::Handler,
                                       public std::enable_shared_from_this<Connection> {
 public:
  explicit Connection(SnapshotDoor& door) : door_(door), channel_(door.io_, *this) {}

  base::Status open(Fd socket) { return channel_.open(std::move(socket)); }

 private:
  base::Status receive(MessageChannel&, FdView socket) override {
    wire::Offer offer;
    MAYFLY_TRY(base::Received got, base::receiveMessage(socket, base::writableBytesOf(offer)));
    if (got.bytes == 0) return base::fail(base::Code::cancelled, "it is gone");
    if (std::exchange(offered_, true))
      return base::fail(base::Code::invalidArgument, "it sends a second offer");
    if (const char* fault = wire::faultOf(offer, got.bytes, got.fds)) {
      answer(base::fail(base::Code::invalidArgument, fault));
      return base::Unit{};
    }
    door_.take_(offer, std::move(got.fd[0]), [self = weak_from_this()](base::Status outcome) {
      if (auto connection = self.lock()) connection->answer(std::move(outcome));
    });
    return base::Unit{};
  }

  // The peer reads its answer and goes.
  void answer(base::Status outcome) {
    wire::OfferAnswer said;
    if (!outcome) {
      const base::Error& error = outcome.error();
      said.code = static_cast<int32_t>(error.code);
      error.message.copy(said.text, sizeof said.text - 1);
      error.advice.copy(said.advice, sizeof said.advice - 1);
    }
    channel_.send(said);
  }

  void onLost(MessageChannel&, const base::Error&) override {
    // From the loop: the channel's own handler is still on the stack.
    boost::asio::post(door_.io_,
                      [self = shared_from_this(), alive = std::weak_ptr<char>(door_.alive_)] {
                        if (!alive.expired()) std::erase(self->door_.connections_, self);
                      });
  }

  SnapshotDoor& door_;  // outlives its connections
  MessageChannel channel_;
  bool offered_ = false;
};

SnapshotDoor::SnapshotDoor(boost::asio::io_context& io, Fd listener, Take take)
    : io_(io), listener_(io), pause_(io), take_(std::move(take)) {
  listener_.assign(listener.release());
  listen();
}

SnapshotDoor::~SnapshotDoor() = default;

void SnapshotDoor::listen() {
  listener_.async_wait(descriptor_base::wait_read, [this, alive = std::weak_ptr<char>(alive_)](
                                                       boost::system::error_code failed) {
    if (failed || alive.expired()) return;
    if (acceptOne())
      listen();
    else
      listenLater();
  });
}

// A peer that cannot be accepted stays in the kernel's queue, and would be told again at once.
void SnapshotDoor::listenLater() {
  pause_.expires_after(kAcceptRetryTime);
  pause_.async_wait([this, alive = std::weak_ptr<char>(alive_)](boost::system::error_code failed) {
    if (!failed && !alive.expired()) listen();
  });
}

// False: there is no room for a peer.
bool SnapshotDoor::acceptOne() {
  Fd peer(::accept4(listener_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!peer) return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
  ucred who{};
  socklen_t size = sizeof who;
  const bool root = ::getsockopt(peer.get(), SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 &&
                    size == sizeof who && who.uid == 0;
  if (!root || connections_.size() >= kConnectionsMax) return true;
  auto connection = std::make_shared<Connection>(*this);
  if (connection->open(std::move(peer))) connections_.push_back(std::move(connection));
  return true;
}

}  // namespace mayfly::app
