// Layer: zygote. See enter.h.
#include "zygote/enter.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>

#include "zygote/raw.h"

namespace mayfly::zygote {

int awaitGo(int fd) {
  char byte;
  ssize_t n;
  do n = read(fd, &byte, 1);
  while (n < 0 && errno == EINTR);
  return n == 1 ? 0 : -ESRCH;
}

// The namespaces of a killed init cannot be joined, some time before the kernel kills the caller,
// too: then the box ends, and this step is not at fault.
int joinBox(int init_pidfd) {
  constexpr int kTakenAlongMsMax = 1'000;
  if (setns(init_pidfd, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) ==
      0)
    return 0;
  int error = -errno;
  pollfd init{init_pidfd, POLLIN, 0};
  (void)poll(&init, 1, kTakenAlongMsMax);
  return error;
}

int enterBox(int init_pidfd) {
  int r = joinBox(init_pidfd);
  if (r != 0) return r;
  return unshare(CLONE_NEWCGROUP) == 0 ? 0 : -errno;
}

pid_t forkIntoBox(int init_pidfd, int own_pid_ns, const Fork& how, int* pidfd) {
  if (setns(init_pidfd, CLONE_NEWPID) != 0) return -errno;
  clone_args args{};
  args.flags = CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(pidfd);
  if (how.fds != nullptr) {
    args.flags |= CLONE_PARENT | CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(how.fds[kCgroup]);
  } else {
    args.exit_signal = SIGCHLD;
  }
  if (how.thread_id != nullptr) {
    args.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
    args.child_tid = reinterpret_cast<uint64_t>(how.thread_id);
  }
  if (how.pid_wanted != 0) {
    args.set_tid = reinterpret_cast<uint64_t>(&how.pid_wanted);
    args.set_tid_size = 1;
  }
  pid_t pid = rawClone(&args);
  if (pid == 0) return 0;
  if (pid < 0) *pidfd = -1;  // the kernel wrote it before it failed, and closed it
  if (setns(own_pid_ns, CLONE_NEWPID) != 0) _exit(8);
  return pid;
}

int showProcesses() {
  return mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) == 0 ? 0
                                                                                        : -errno;
}

int hideProcesses() { return umount2("/proc", MNT_DETACH) == 0 ? 0 : -errno; }

int becomeBoxRoot() {
  using wire::kBoxRoot;
  if (setgroups(0, nullptr) != 0 || setresgid(kBoxRoot, kBoxRoot, kBoxRoot) != 0 ||
      setresuid(kBoxRoot, kBoxRoot, kBoxRoot) != 0)
    return -errno;
  return chdir("/") == 0 ? 0 : -errno;
}

Step enterAsBoxRoot(const int* fds, int tasks_count) {
  MAYFLY_STEP("join cgroups", joinCgroups(fds + kFirstTasks, tasks_count));
  MAYFLY_STEP("await box", awaitGo(fds[kGo]));
  MAYFLY_STEP("enter box", enterBox(fds[kInit]));
  MAYFLY_STEP("become root of the box", becomeBoxRoot());
  return {"", 0};
}

int placeDescriptors(const int* from, int count, int to) {
  constexpr int kCountMax = 16, kAbove = 64;  // above the targets: no dup2 overwrites a source
  int high[kCountMax];
  if (count > kCountMax || to + count > kAbove) return -EINVAL;
  for (int i = 0; i < count; ++i)
    if ((high[i] = fcntl(from[i], F_DUPFD_CLOEXEC, kAbove)) < 0) return -errno;
  for (int i = 0; i < count; ++i)
    if (dup2(high[i], to + i) != to + i) return -errno;
  return close_range(static_cast<unsigned>(to + count), ~0u, 0) == 0 ? 0 : -errno;
}

}  // namespace mayfly::zygote
