#include "zygote/init.h"

#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/call_filter.h"
#include "wire/front.h"
#include "zygote/raw.h"

namespace mayfly::zygote {

using namespace wire;

namespace {

struct Failure {
  int error = 0;  // errno
  const char* step = "";
};

#define STEP(name, expr)                         \
  do {                                           \
    if ((expr) < 0) return Failure{errno, name}; \
  } while (0)

int raiseLoopback() {
  int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (s < 0) return -1;
  ifreq request{};
  copyText(request.ifr_name, sizeof request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  int r = ioctl(s, SIOCSIFFLAGS, &request);
  int saved = errno;
  close(s);
  errno = saved;
  return r;
}

int writeOnce(const char* file, const char* text) {
  int fd = open(file, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t n = write(fd, text, strlen(text));
  int saved = errno;
  close(fd);
  errno = saved;
  return n < 0 ? -1 : 0;
}

// Data of unaccepted connections is charged to nobody, and neither is what closed ones leave
// behind, so both are kept small. The spawner relies on it (spawner/net_charge.h). Needs the
// template's full /proc.
int boundTcp() {
  if (writeOnce("/proc/sys/net/ipv4/tcp_rmem", "4096 16384 262144") != 0) return -1;
  if (writeOnce("/proc/sys/net/ipv4/tcp_max_tw_buckets", "4096") != 0) return -1;
  return writeOnce("/proc/sys/net/ipv4/tcp_orphan_retries", "1");
}

// The spawner made the disk, so the host can change its limits, and its mount options show no id of
// the box.
int attachDisk(int disk_fd) {
  constexpr unsigned kEmptyPath = 4;  // MOVE_MOUNT_F_EMPTY_PATH
  return static_cast<int>(syscall(SYS_move_mount, disk_fd, "", AT_FDCWD, "/mnt", kEmptyPath));
}

int ownFolder(const char* path, mode_t mode) {
  if (mkdir(path, 0700) != 0 || chown(path, kBoxUser, kBoxUser) != 0) return -1;
  return chmod(path, mode);
}

int bindFolder(const char* from, const char* to) {
  return mount(from, to, nullptr, MS_BIND, nullptr);
}

int boundSocket(int domain, const void* address, socklen_t bytes) {
  int s = socket(domain, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (s >= 0 && bind(s, static_cast<const sockaddr*>(address), bytes) != 0) {
    int saved = errno;
    close(s);
    errno = saved;
    return -1;
  }
  return s;
}

// The box's doors to the broker, bound and not listening: mayflyd decides whether they ever do. The
// port is below 1024, and the folder is sticky and root's: no task can bind or replace one.
int bindLocalDoor() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  copyText(address.sun_path, sizeof address.sun_path, kDoorPath);
  int s =
      boundSocket(AF_UNIX, &address,
                  static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + strlen(kDoorPath) + 1));
  return s >= 0 && chmod(kDoorPath, 0666) != 0 ? -1 : s;
}

int bindTcpDoor() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kDoorPort);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return boundSocket(AF_INET, &address, sizeof address);
}

int sharedFolder(const char* path) { return mkdir(path, 0700) != 0 ? -1 : chmod(path, 01777); }

// A file system of the box's own, without the terminals of others. Without `uid` and `gid` a
// terminal belongs to the user that opens it; `gid` would show the host's number in mountinfo.
int mountTerminals(uint32_t ptys) {
  char options[64];
  snprintf(options, sizeof options, "newinstance,ptmxmode=0666,mode=0620,max=%u", ptys);
  return mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, options);
}

// The walls of a box, one line a step.
Failure setUp(const MakeInit& make, int disk_fd, int* doors) {
  STEP("setgroups", setgroups(0, nullptr));
  STEP("setresgid", setresgid(kBoxRoot, kBoxRoot, kBoxRoot));
  STEP("setresuid", setresuid(kBoxRoot, kBoxRoot, kBoxRoot));
  STEP("pdeathsig", prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
  STEP("dumpable", prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
  STEP("setsid", setsid());
  umask(022);
  STEP("network", unshare(CLONE_NEWNET));
  if (make.loopback != 0) STEP("tcp bounds", boundTcp());
  STEP("hostname", sethostname("mayfly", 6));
  STEP("domainname", setdomainname("localdomain", 11));
  STEP("proc", mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "subset=pid"));
  STEP("disk", attachDisk(disk_fd));
  STEP("disk /tmp", ownFolder("/mnt/tmp", 01777));
  STEP("disk /task", ownFolder("/mnt/task", 0755));
  STEP("disk /task/out", ownFolder("/mnt/task/out", 0755));
  STEP("disk /run", make.doors != 0 ? sharedFolder("/mnt/run") : ownFolder("/mnt/run", 0755));
  STEP("disk /dev/shm", ownFolder("/mnt/shm", 01777));
  STEP("bind /tmp", bindFolder("/mnt/tmp", "/tmp"));
  STEP("bind /task", bindFolder("/mnt/task", "/task"));
  STEP("bind /run", bindFolder("/mnt/run", "/run"));
  STEP("bind /dev/shm", bindFolder("/mnt/shm", "/dev/shm"));
  if (make.ptys != 0) STEP("terminals", mountTerminals(make.ptys));
  STEP("detach disk", umount2("/mnt", MNT_DETACH));
  if (make.loopback != 0) STEP("loopback", raiseLoopback());
  if (make.doors != 0) {
    STEP("local door", doors[0] = bindLocalDoor());
    STEP("tcp door", doors[1] = bindTcpDoor());
  }
  rlimit core{1, 1};
  STEP("rlimit core", setrlimit(RLIMIT_CORE, &core));
  return {};
}

// Drops every capability and every way to a new one; allowOnlyWaiting() then refuses all system
// calls but the few that waiting needs.
int dropAll() {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -errno;
  return dropCapabilities();
}

int allowOnlyWaiting() {
  return base::allowOnlyCalls(
      {SYS_poll, SYS_ppoll, SYS_restart_syscall, SYS_exit_group, SYS_rt_sigreturn});
}

}  // namespace

void runInit(const MakeInit& make, int status_fd, int maps_fd, int disk_fd, int stands_fd) {
  char byte;
  if (read(maps_fd, &byte, 1) != 1) _exit(1);  // the maker is gone
  // If pid 1 ignores SIGCHLD, the kernel reaps for it: orphans never stay as zombies.
  signal(SIGCHLD, SIG_IGN);
  InitReady ready;
  int doors[kInitDoorFds] = {-1, -1};
  Failure failure = setUp(make, disk_fd, doors);
  if (failure.error == 0)
    if (int r = dropAll(); r < 0) failure = {-r, "drop capabilities"};
  ready.error = failure.error;
  copyText(ready.step, sizeof ready.step, failure.step);
  const int passed = make.doors != 0 && failure.error == 0 ? static_cast<int>(kInitDoorFds) : 0;
  if (sendRaw(status_fd, &ready, sizeof ready, doors, passed) != 0) _exit(1);
  if (failure.error != 0 || write(stands_fd, "s", 1) != 1) _exit(1);
  // Only the status socket stays open: its end is the box's end.
  if (dup2(status_fd, 0) != 0 || close_range(1, ~0u, 0) != 0) _exit(1);
  if (allowOnlyWaiting() != 0) _exit(1);
  pollfd end{0, 0, 0};  // POLLHUP comes unasked
  for (;;) {
    int n = poll(&end, 1, -1);
    if (n > 0) _exit(0);
  }
}

}  // namespace mayfly::zygote
