#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::base {

void Fd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Result<Pipe> makePipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return failSys(errno, "pipe2", "a new pipe");
  return Pipe{Fd(fds[0]), Fd(fds[1])};
}

Result<Pair> makeSeqpacketPair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0)
    return failSys(errno, "socketpair", "a new message channel");
  return Pair{Fd(fds[0]), Fd(fds[1])};
}

Status setNonblocking(FdView fd) {
  int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0)
    return failSys(errno, "fcntl(O_NONBLOCK)", "a descriptor");
  return Unit{};
}

Result<Fd> openAt(FdView dir, const std::string& path, int flags, unsigned mode) {
  for (;;) {
    int fd = ::openat(dir ? dir.get() : AT_FDCWD, path.c_str(), flags | O_CLOEXEC, mode);
    if (fd >= 0) return Fd(fd);
    if (errno != EINTR) return failSys(errno, "open", path);
  }
}

Result<std::string> readSmallFile(FdView dir, const std::string& path, size_t bytes_max) {
  MAYFLY_TRY(Fd fd, openAt(dir, path, O_RDONLY));
  std::string text;
  char buffer[4096];
  for (;;) {
    ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failSys(errno, "read", path);
    if (n == 0) return text;
    if (text.size() + static_cast<size_t>(n) > bytes_max)
      return fail(Code::invalidArgument,
                  "read '" + path + "': longer than " + std::to_string(bytes_max) + " bytes");
    text.append(buffer, static_cast<size_t>(n));
  }
}

Status writeSmallFile(FdView dir, const std::string& path, std::string_view text) {
  MAYFLY_TRY(Fd fd, openAt(dir, path, O_WRONLY));
  for (;;) {
    ssize_t n = ::write(fd.get(), text.data(), text.size());
    if (n == static_cast<ssize_t>(text.size())) return Unit{};
    if (n < 0 && errno == EINTR) continue;
    return failSys(n < 0 ? errno : EIO, "write", path);
  }
}

Result<Fd> openLockFile(const std::string& path) {
  MAYFLY_TRY(Fd fd, openAt(FdView(AT_FDCWD), path, O_RDWR | O_CREAT, 0600));
  if (::fchmod(fd.get(), 0600) != 0) return failSys(errno, "fchmod", path);
  return fd;
}

Result<Fd> makeMemfd(const char* name) {
  int fd = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return failSys(errno, "memfd_create", name);
  return Fd(fd);
}

Status sealMemfd(FdView fd) {
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0)
    return failSys(errno, "fcntl(F_ADD_SEALS)", "a memfd");
  return Unit{};
}

Status sendMessage(FdView socket, std::span<const std::byte> bytes, std::span<const int> fds) {
  if (fds.size() > kMessageFdsMax) return fail(Code::internal, "sendmsg: too many descriptors");
  iovec iov{const_cast<std::byte*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMessageFdsMax)];
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  if (!fds.empty()) {
    memset(control, 0, sizeof control);
    msg.msg_control = control;
    msg.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    memcpy(CMSG_DATA(c), fds.data(), sizeof(int) * fds.size());
  }
  for (;;) {
    ssize_t n = ::sendmsg(socket.get(), &msg, MSG_NOSIGNAL);
    if (n == static_cast<ssize_t>(bytes.size())) return Unit{};
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
      return fail(Error{Code::unavailable, "sendmsg: the peer's queue is full", {}, EAGAIN});
    return failSys(n < 0 ? errno : EMSGSIZE, "sendmsg", "a message channel");
  }
}

Result<Received> receiveMessage(FdView socket, std::span<std::byte> buffer) {
  iovec iov{buffer.data(), buffer.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMessageFdsMax)];
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control;
  msg.msg_controllen = sizeof control;
  ssize_t n;
  do {
    n = ::recvmsg(socket.get(), &msg, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK)
      return fail(Error{Code::unavailable, "recvmsg: nothing to read", {}, EAGAIN});
    return failSys(errno, "recvmsg", "a message channel");
  }
  Received got;
  got.bytes = static_cast<size_t>(n);
  for (cmsghdr* c = CMSG_FIRSTHDR(&msg); c != nullptr; c = CMSG_NXTHDR(&msg, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      if (got.fds < kMessageFdsMax)
        got.fd[got.fds++] = Fd(fd);
      else
        ::close(fd);
    }
  }
  if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
    return fail(Code::internal, "recvmsg: a message was longer than the protocol allows");
  return got;
}

}  // namespace mayfly::base
