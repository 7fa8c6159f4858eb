// Doors as the init of a box makes them: in namespaces of their own, by a child that ends at once.
#pragma once

#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "base/fd.h"
#include "sched/broker.h"

namespace mayfly::test {

struct DoorPlaces {
  const char* path = "/run/broker.sock";
  uint16_t port = 80;
  uint32_t address = INADDR_LOOPBACK;
  int type = SOCK_STREAM;
  bool listens = false;
};

// -1 and errno, like the calls below.
inline int bindLocal(const DoorPlaces& places) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof address.sun_path, "%s", places.path);
  int s = ::socket(AF_UNIX, places.type | SOCK_CLOEXEC, 0);
  if (::bind(s, reinterpret_cast<sockaddr*>(&address),
             static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) +
                                    std::string(places.path).size() + 1)) != 0)
    return -1;
  return places.listens && ::listen(s, 1) != 0 ? -1 : s;
}

inline int bindTcp(const DoorPlaces& places) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(places.port);
  address.sin_addr.s_addr = htonl(places.address);
  int s = ::socket(AF_INET, places.type | SOCK_CLOEXEC, 0);
  if (::bind(s, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return -1;
  return places.listens && ::listen(s, 1) != 0 ? -1 : s;
}

inline int raiseLo() {
  int s = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request{};
  snprintf(request.ifr_name, sizeof request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  return ::ioctl(s, SIOCSIFFLAGS, &request);
}

inline bool writeTo(const char* path, const std::string& text) {
  base::Fd fd(::open(path, O_WRONLY | O_CLOEXEC));
  return fd && ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

// Root of namespaces of its own, with an empty /run and the loopback up.
inline bool enterBox() {
  const std::string uid = std::to_string(::geteuid()), gid = std::to_string(::getegid());
  return ::unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET) == 0 &&
         writeTo("/proc/self/setgroups", "deny") &&
         writeTo("/proc/self/uid_map", "0 " + uid + " 1") &&
         writeTo("/proc/self/gid_map", "0 " + gid + " 1") &&
         ::mount("none", "/run", "tmpfs", 0, "size=64k") == 0 && raiseLo() == 0;
}

// Empty: this host lets nobody make namespaces here.
inline std::optional<sched::Doors> doorsOfABox(const DoorPlaces& places = {}) {
  auto pair = base::makeSeqpacketPair();
  if (!pair) return std::nullopt;
  const pid_t pid = ::fork();
  if (pid == 0) {
    const bool made = enterBox();
    const int fds[] = {made ? bindLocal(places) : -1, made ? bindTcp(places) : -1};
    const char byte = 'd';
    const bool sent = fds[0] >= 0 && fds[1] >= 0 &&
                      base::sendMessage(pair->theirs.view(), base::bytesOf(byte), fds).has_value();
    ::_exit(sent ? 0 : 1);
  }
  pair->theirs.reset();
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (status != 0) return std::nullopt;
  char byte;
  auto got = base::receiveMessage(pair->ours.view(), base::writableBytesOf(byte));
  if (!got || got->fds != 2) return std::nullopt;
  return sched::Doors{std::move(got->fd[0]), std::move(got->fd[1])};
}

inline bool listens(base::FdView socket) {
  int value = -1;
  socklen_t bytes = sizeof value;
  return ::getsockopt(socket.get(), SOL_SOCKET, SO_ACCEPTCONN, &value, &bytes) == 0 && value == 1;
}

}  // namespace mayfly::test
