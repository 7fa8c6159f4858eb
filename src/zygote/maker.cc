// mayfly-maker: the two small helpers of a template, exec'd from its image once they are in the
// template's namespaces (so that their memory belongs to its user namespace, not to the host's).
//
//   mayfly-maker pid1    holds the template's namespaces; its death ends every box
//   mayfly-maker maker   makes box inits on the spawner's behalf
//
// Layer: zygote. Single-threaded. Root of the template's user namespace only.
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "zygote/init.h"
#include "zygote/raw.h"
#include "wire/zygote.h"

namespace mayfly::zygote {

using namespace wire;
namespace {

[[noreturn]] void runPid1() {
  signal(SIGCHLD, SIG_IGN);  // the kernel reaps orphans
  pollfd end{kChannelFd, 0, 0};
  for (;;)
    if (poll(&end, 1, -1) > 0) _exit(0);
}

int writeProc(int proc_fd, pid_t pid, const char* file, const char* text) {
  char path[48];
  snprintf(path, sizeof path, "%d/%s", pid, file);
  int fd = openat(proc_fd, path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  ssize_t n = write(fd, text, strlen(text));
  int error = n < 0 ? -errno : 0;
  close(fd);
  return error;
}

int writeMaps(int proc_fd, pid_t pid, const MakeInit& make) {
  char map[96];
  snprintf(map, sizeof map, "%u %u 1\n%u %u 1\n", kBoxRoot, make.uid_root, kBoxUser, make.uid_user);
  int r = writeProc(proc_fd, pid, "uid_map", map);
  return r != 0 ? r : writeProc(proc_fd, pid, "gid_map", map);
}

InitMade makeInit(int proc_fd, const MakeInit& make, const int* fds, int* pidfd) {
  InitMade made;
  made.box = make.box;
  auto failed = [&](int error, const char* step) {
    made.error = error;
    copyText(made.step, sizeof made.step, step);
    return made;
  };
  int sync[2];
  if (pipe2(sync, O_CLOEXEC) != 0) return failed(errno, "pipe");
  clone_args args{};
  // The init makes its network namespace itself: that takes as long as all the rest, and the clone
  // can be forked meanwhile. The clone makes its own cgroup namespace once it is in its cgroups,
  // because the namespace's root is fixed at that moment.
  args.flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS |
               CLONE_PARENT | CLONE_PIDFD | CLONE_INTO_CGROUP;
  args.pidfd = reinterpret_cast<uint64_t>(pidfd);
  args.cgroup = static_cast<uint64_t>(fds[1]);
  pid_t pid = rawClone(&args);
  if (pid == 0) {
    close(sync[1]);
    runInit(make, fds[0], sync[0], fds[2], fds[3]);
  }
  close(sync[0]);
  if (pid < 0) {
    *pidfd = -1;  // the kernel wrote it before it failed, and closed it
    close(sync[1]);
    return failed(-pid, "clone3");
  }
  made.pid_template = static_cast<uint32_t>(pid);
  int r = writeMaps(proc_fd, pid, make);
  if (r == 0 && write(sync[1], "m", 1) != 1) r = -errno;
  close(sync[1]);  // without its byte the init ends by itself
  if (r != 0) return failed(-r, "id maps");
  return made;
}

[[noreturn]] void runMaker() {
  int proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (proc_fd < 0) _exit(2);
  for (;;) {
    MakeInit make;
    int fds[kFdsMax], count = 0;
    ssize_t n = receiveRaw(kChannelFd, &make, sizeof make, fds, &count);
    if (n <= 0) _exit(n == 0 ? 0 : 3);
    if (faultOf(make, static_cast<size_t>(n), static_cast<size_t>(count)) != nullptr) _exit(4);
    int pidfd = -1;
    InitMade made = makeInit(proc_fd, make, fds, &pidfd);
    closeAll(fds, count);
    int r = sendRaw(kChannelFd, &made, sizeof made, &pidfd, pidfd >= 0 ? 1 : 0);
    if (pidfd >= 0) close(pidfd);
    if (r != 0) _exit(5);
  }
}

}  // namespace
}  // namespace mayfly::zygote

int main(int argc, char** argv) {
  using namespace mayfly::zygote;
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) return 6;
  if (argc == 2 && strcmp(argv[1], "pid1") == 0) runPid1();
  if (argc == 2 && strcmp(argv[1], "maker") == 0) runMaker();
  static const char usage[] =
      "mayfly-maker is started by mayfly-spawner; it is of no use by hand\n";
  (void)!write(2, usage, sizeof usage - 1);
  return 2;
}
