#include "base/bound_socket.h"

#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace mayfly::base {

namespace {

constexpr Code kCode = Code::internal;

Status checkStream(FdView socket, int domain, int protocol) {
  const auto is = [&](int option, int wanted) {
    int value = -1;
    socklen_t bytes = sizeof value;
    return ::getsockopt(socket.get(), SOL_SOCKET, option, &value, &bytes) == 0 && value == wanted;
  };
  if (!is(SO_DOMAIN, domain)) return fail(kCode, "it is not a socket of its domain");
  if (!is(SO_TYPE, SOCK_STREAM)) return fail(kCode, "it is not a stream socket");
  if (!is(SO_PROTOCOL, protocol)) return fail(kCode, "it has another protocol");
  if (!is(SO_ACCEPTCONN, 0)) return fail(kCode, "it listens already");
  sockaddr_storage peer;
  socklen_t bytes = sizeof peer;
  if (::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&peer), &bytes) == 0)
    return fail(kCode, "it is connected");
  return setNonblocking(socket);
}

template <class Address>
bool boundTo(FdView socket, const Address& wanted, socklen_t wanted_bytes) {
  Address bound{};
  socklen_t bytes = sizeof bound;
  return ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&bound), &bytes) == 0 &&
         bytes == wanted_bytes && ::memcmp(&bound, &wanted, wanted_bytes) == 0;
}

}  // namespace

Status checkBoundLocal(FdView socket, std::string_view path) {
  MAYFLY_CHECK(checkStream(socket, AF_UNIX, 0));
  sockaddr_un wanted{};
  wanted.sun_family = AF_UNIX;
  if (path.size() >= sizeof wanted.sun_path) return fail(kCode, "the path is too long");
  path.copy(wanted.sun_path, path.size());
  // The kernel counts the path's NUL.
  const size_t bytes = offsetof(sockaddr_un, sun_path) + path.size() + 1;
  if (boundTo(socket, wanted, static_cast<socklen_t>(bytes))) return Unit{};
  return fail(kCode, "it is not bound to '" + std::string(path) + "'");
}

Status checkBoundLoopback(FdView socket, uint16_t port) {
  MAYFLY_CHECK(checkStream(socket, AF_INET, IPPROTO_TCP));
  sockaddr_in wanted{};
  wanted.sin_family = AF_INET;
  wanted.sin_port = htons(port);
  wanted.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (boundTo(socket, wanted, sizeof wanted)) return Unit{};
  return fail(kCode, "it is not bound to 127.0.0.1:" + std::to_string(port));
}

Status listenOn(FdView socket, int backlog) {
  if (::listen(socket.get(), backlog) != 0) return failSys(errno, "listen", "a door of a box");
  return Unit{};
}

}  // namespace mayfly::base
