// File descriptors with an owner: Fd owns, FdView borrows.
//
// Every fd of ours is O_CLOEXEC; assignment closes the fd held before.
//
// Layer: base. One owner at a time; no locks.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace mayfly::base {

class FdView {
 public:
  FdView() = default;
  explicit FdView(int fd) : fd_(fd) {}
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~Fd() { reset(); }

  int get() const { return fd_; }
  FdView view() const { return FdView(fd_); }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset();  // closes; ignores EINTR and EIO of close: the fd is gone anyway

 private:
  int fd_ = -1;
};

struct Pipe {
  Fd read, write;
};
struct Pair {
  Fd ours, theirs;
};

Result<Pipe> makePipe();           // O_CLOEXEC, blocking both ends
Result<Pair> makeSeqpacketPair();  // AF_UNIX SOCK_SEQPACKET, O_CLOEXEC
Status setNonblocking(FdView fd);
Result<Fd> openAt(FdView dir, const std::string& path, int flags, unsigned mode = 0);
Result<std::string> readSmallFile(FdView dir, const std::string& path, size_t bytes_max = 65536);
// One write() of the whole text, as cgroup and proc files expect.
Status writeSmallFile(FdView dir, const std::string& path, std::string_view text);
// A file for flock(), made if it does not exist. Only its owner may open it, because whoever can
// open it can hold the lock.
Result<Fd> openLockFile(const std::string& path);
// A memfd; sealMemfd() seals it against every change.
Result<Fd> makeMemfd(const char* name);
Status sealMemfd(FdView fd);

// --- fixed-size messages with passed fds over a SEQPACKET socket -------------
inline constexpr size_t kMessageFdsMax = 72;

// Sends one message; never blocks if the socket is non-blocking (EAGAIN is Code::unavailable). The
// fds stay the caller's.
Status sendMessage(FdView socket, std::span<const std::byte> bytes, std::span<const int> fds);

struct Received {
  size_t bytes = 0;  // 0: the peer closed its end
  size_t fds = 0;
  Fd fd[kMessageFdsMax];
};
// Receives one message into `buffer`. A truncated message or control part is an
// error. EAGAIN is Code::unavailable.
Result<Received> receiveMessage(FdView socket, std::span<std::byte> buffer);

template <class T>
std::span<const std::byte> bytesOf(const T& value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}
template <class T>
std::span<std::byte> writableBytesOf(T& value) {
  return std::as_writable_bytes(std::span<T, 1>(&value, 1));
}

}  // namespace mayfly::base
