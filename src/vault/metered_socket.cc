#include "vault/metered_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/fd.h"

namespace mayfly::vault {

using base::Code;

namespace {

constexpr int kPairBufferBytes = 128 << 10;  // the kernel doubles it
constexpr int kPiecesPerTurnMax = 4;
static_assert(2 * kPairBufferBytes + MeteredSocket::kPieceBytes <= MeteredSocket::kOnItsWayBytes);

}  // namespace

base::Result<std::shared_ptr<MeteredSocket>> MeteredSocket::replace(boost::asio::io_context& io,
                                                                    int fd,
                                                                    std::function<void()> over) {
  int fault = 0, pair[2];
  socklen_t size = sizeof fault;
  if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &fault, &size) != 0 || fault != 0)
    return base::failSys(fault != 0 ? fault : errno, "connect", "an upstream");
  base::Fd server(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!server) return base::failSys(errno, "fcntl", "a socket");
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
    return base::failSys(errno, "socketpair", "a socket of libpq's");
  base::Fd ours(pair[0]), theirs(pair[1]);
  for (const base::Fd* end : {&ours, &theirs})
    if (::setsockopt(end->get(), SOL_SOCKET, SO_SNDBUF, &kPairBufferBytes,
                     sizeof kPairBufferBytes) != 0)
      return base::failSys(errno, "setsockopt", "a socket of libpq's");
  if (::dup3(theirs.get(), fd, O_CLOEXEC) < 0)
    return base::failSys(errno, "dup3", "a socket of libpq's");
  std::shared_ptr<MeteredSocket> self(new MeteredSocket(io, std::move(over)));
  boost::system::error_code failed;
  if (self->server_.assign(server.get(), failed))
    return base::fail(Code::unavailable, "a socket cannot be watched: " + failed.message());
  server.release();
  if (self->library_.assign(ours.get(), failed))
    return base::fail(Code::unavailable, "a socket cannot be watched: " + failed.message());
  ours.release();
  for (const Way way : {Way::down, Way::up})
    self->await(self->flow(way).from, Descriptor::wait_read, way);
  return self;
}

void MeteredSocket::await(Descriptor& descriptor, Descriptor::wait_type what, Way way) {
  descriptor.async_wait(what, [self = weak_from_this(), way](boost::system::error_code failed) {
    auto alive = self.lock();
    if (!failed && alive && alive->over_) alive->pump(way);
  });
}

void MeteredSocket::pump(Way way) {
  for (int i = 0; i < kPiecesPerTurnMax; ++i)
    if (take(way) == Step::waits || give(way) == Step::waits) return;
  await(flow(way).from, Descriptor::wait_read, way);
}

MeteredSocket::Step MeteredSocket::take(Way way) {
  Flow& its = flow(way);
  if (its.sent < its.piece.size()) return Step::more;
  const uint64_t allowed = way == Way::down ? left_ : kPieceBytes;
  its.piece.resize(static_cast<size_t>(std::clamp<uint64_t>(allowed, 1, kPieceBytes)));
  its.sent = 0;
  ssize_t n;
  do
    n = ::recv(its.from.native_handle(), its.piece.data(), its.piece.size(),
               MSG_DONTWAIT | (allowed == 0 ? MSG_PEEK : 0));
  while (n < 0 && errno == EINTR);
  const bool later = n < 0 && errno == EAGAIN;
  its.piece.resize(static_cast<size_t>(std::max<ssize_t>(n, 0)));
  if (later) {
    await(its.from, Descriptor::wait_read, way);
    return Step::waits;
  }
  if (n <= 0) {  // the end of this way
    ::shutdown(its.to.native_handle(), SHUT_WR);
    return Step::waits;
  }
  if (allowed == 0) {
    its.piece.clear();
    std::exchange(over_, nullptr)();
    return Step::waits;
  }
  if (way == Way::down) left_ -= static_cast<uint64_t>(n);
  return Step::more;
}

MeteredSocket::Step MeteredSocket::give(Way way) {
  Flow& its = flow(way);
  ssize_t n;
  do
    n = ::send(its.to.native_handle(), its.piece.data() + its.sent, its.piece.size() - its.sent,
               MSG_DONTWAIT | MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  if (n >= 0) {
    its.sent += static_cast<size_t>(n);
    if (its.sent == its.piece.size()) return Step::more;
  } else if (errno != EAGAIN) {
    ::shutdown(its.from.native_handle(), SHUT_RD);
    return Step::waits;
  }
  await(its.to, Descriptor::wait_write, way);
  return Step::waits;
}

void MeteredSocket::close() {
  over_ = nullptr;
  if (!server_.is_open()) return;
  for (int i = 0; i < kPiecesPerTurnMax; ++i) {
    if (up_.sent == up_.piece.size()) {
      up_.piece.resize(kPieceBytes);
      const ssize_t n =
          ::recv(library_.native_handle(), up_.piece.data(), kPieceBytes, MSG_DONTWAIT);
      up_.piece.resize(static_cast<size_t>(std::max<ssize_t>(n, 0)));
      up_.sent = 0;
      if (n <= 0) break;
    }
    const ssize_t n = ::send(server_.native_handle(), up_.piece.data() + up_.sent,
                             up_.piece.size() - up_.sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n <= 0) break;
    up_.sent += static_cast<size_t>(n);
  }
  boost::system::error_code ignored;
  server_.close(ignored);
  library_.close(ignored);
}

}  // namespace mayfly::vault
