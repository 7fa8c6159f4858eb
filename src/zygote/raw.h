// The code between fork and the task: system calls and messages without allocation, locks or
// exceptions.
//
// Used by libmayfly-zygote, the maker and the init; they share nothing with the
// daemon but the wire. Needs libc only.
//
// Layer: zygote. Safe in a child that was made by a raw clone3.
#pragma once

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

namespace mayfly::zygote {

inline constexpr int kFdsMax = 72;  // of one message: a claim has the most

inline uint64_t nowNs() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

inline void copyText(char* to, size_t size, const char* from) {
  size_t n = strnlen(from, size - 1);
  memcpy(to, from, n);
  memset(to + n, 0, size - n);
}

// What failed, or no error.
struct Step {
  const char* name;
  int error;  // 0 or -errno
};
// In a function that returns a Step: ends it if the expression is not 0.
#define MAYFLY_STEP(name, expr)                   \
  do {                                            \
    if (const int failed = (expr); failed != 0) { \
      return {name, failed};                      \
    }                                             \
  } while (0)

// Fills memory by the system call: the C library's own generator may be a copy of the zygote's.
inline int fillRandom(void* at, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const long n = syscall(SYS_getrandom, static_cast<char*>(at) + done, bytes - done, 0);
    if (n < 0 && errno != EINTR) return -errno;
    if (n > 0) done += static_cast<size_t>(n);
  }
  return 0;
}

// Makes bytes safe for a terminal: replaces control characters, those of UTF-8 included. Of a text
// that comes in parts, a first byte may lack its second: it is replaced, too.
enum class Lines : unsigned char { replace, keep };  // ends of lines and tabs
inline void makePrintable(char* text, size_t bytes, Lines lines) {
  auto* c = reinterpret_cast<unsigned char*>(text);
  for (size_t i = 0; i < bytes; ++i) {
    const bool kept = lines == Lines::keep && (c[i] == '\n' || c[i] == '\t');
    if ((c[i] < 0x20 && !kept) || c[i] == 0x7f) c[i] = '?';
    if (c[i] != 0xc2) continue;
    const bool last = i + 1 == bytes;
    if (!last && (c[i + 1] < 0x80 || c[i + 1] >= 0xa0)) continue;
    c[i] = '?';
    if (!last) c[i + 1] = '?';
  }
}

// 0 or -errno.
inline int sendRaw(int socket, const void* bytes, size_t size, const int* fds, int count) {
  iovec iov{const_cast<void*>(bytes), size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kFdsMax)];
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  if (count > 0) {
    memset(control, 0, sizeof control);
    msg.msg_control = control;
    msg.msg_controllen = CMSG_SPACE(sizeof(int) * static_cast<size_t>(count));
    cmsghdr* c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * static_cast<size_t>(count));
    memcpy(CMSG_DATA(c), fds, sizeof(int) * static_cast<size_t>(count));
  }
  for (;;) {
    ssize_t n = sendmsg(socket, &msg, MSG_NOSIGNAL);
    if (n == static_cast<ssize_t>(size)) return 0;
    if (n < 0 && errno == EINTR) continue;
    return n < 0 ? -errno : -EMSGSIZE;
  }
}

// The size of the message, 0 at the peer's end, or -errno. All fds are CLOEXEC.
inline ssize_t receiveRaw(int socket, void* bytes, size_t size, int* fds, int* count) {
  iovec iov{bytes, size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kFdsMax)];
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control;
  msg.msg_controllen = sizeof control;
  ssize_t n;
  do {
    n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return -errno;
  *count = 0;
  for (cmsghdr* c = CMSG_FIRSTHDR(&msg); c != nullptr; c = CMSG_NXTHDR(&msg, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t got = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < got; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      if (*count < kFdsMax)
        fds[(*count)++] = fd;
      else
        close(fd);
    }
  }
  if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) return -EMSGSIZE;
  return n;
}

inline void closeAll(const int* fds, int count) {
  for (int i = 0; i < count; ++i) close(fds[i]);
}

// Like fork() if args->stack is 0. Returns the pid, 0 in the child, or -errno.
inline pid_t rawClone(clone_args* args) {
  long r = syscall(SYS_clone3, args, sizeof *args);
  return r < 0 ? -errno : static_cast<pid_t>(r);
}

// Joins each v1 cgroup by its `tasks` file: "0" means the caller, and avoids the RCU grace period
// that a pid in cgroup.procs would cost.
inline int joinCgroups(const int* tasks_fds, int count) {
  for (int i = 0; i < count; ++i)
    if (write(tasks_fds[i], "0", 1) != 1) return -errno;
  return 0;
}

// Drops every capability for good: the bounding, ambient and all other sets, and the way back
// through uid 0. 0 or -errno.
int dropCapabilities();

}  // namespace mayfly::zygote
