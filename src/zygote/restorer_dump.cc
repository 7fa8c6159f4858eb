// mayfly-restorer, dumping: starts the template's zygote in a box, waits until it is ready, and has
// criu write it into the folder of the snapshot.
//
// The zygote gets the walls that a dump keeps (ids, capabilities, limits, session); a clone gets
// the others when it is restored. The end of all is told on the box's control socket, with a whole
// sentence on its stderr if it failed.
//
// Layer: zygote. Single-threaded. Waits without limits of its own: who asked ends the box.
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "zygote/bystander.h"
#include "zygote/enter.h"
#include "zygote/memory_file.h"
#include "zygote/raw.h"
#include "zygote/restorer.h"
#include "zygote/snapshot.h"
#include "zygote/surroundings.h"
#include "zygote/walls.h"
#include "wire/zygote.h"

namespace mayfly::zygote {

using namespace wire;
namespace {

constexpr size_t kLogBytesMax = 262'144;
constexpr int kLogReadsMax = 16;  // in a row: as much as a pipe holds
constexpr size_t kKernelFileBytesMax = 65'536;
// criu's own folder in the box while it dumps: no process of the task's user enters it.
constexpr char kCriuFolder[] = "/mnt";

struct Pipe {
  int read = -1, write = -1;
};

// The zygote's surroundings, on this side.
struct Builder {
  int own_pid_ns = -1;
  char** argv = nullptr;
  Pipe stand_in[kStandIns];  // but for the control socket
  int channel = -1;          // to the zygote
  Pipe log;                  // of its stdout and stderr: pipes, as a clone's are
  int zygote = -1;           // pidfd
  int init = -1, control = -1, err = -1;
};
Builder builder;

// --- the zygote ----------------------------------------------------------------------

// Threads of the zygote get the numbers behind its own.
int chooseNextPid() {
  if (int r = showProcesses(); r != 0) return r;
  char text[16];
  const int n = snprintf(text, sizeof text, "%d", kSnapshotPid);
  const int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
  int r = fd >= 0 && write(fd, text, static_cast<size_t>(n)) == n ? 0 : -errno;
  if (fd >= 0) close(fd);
  const int hidden = hideProcesses();
  return r != 0 ? r : hidden;
}

int makeControlStandIn() {
  const int fd = open(kControlPath, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  return fd < 0 ? -errno : fd;
}

// The descriptors of snapshot.h; a failed step is said on the channel, as by a zygote.
Step becomeZygote(const int* fds, int tasks_count, int channel) {
  if (const Step entered = enterAsBoxRoot(fds, tasks_count); entered.error != 0) return entered;
  MAYFLY_STEP("choose pids", chooseNextPid());
  const int control = makeControlStandIn(), null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  MAYFLY_STEP("stand-ins", control < 0 ? control : null < 0 ? -errno : 0);
  const Pipe* in = builder.stand_in;
  const int placed[] = {null,       builder.log.write, builder.log.write, channel,
                        kSeccompFd, in[kStdin].read,   in[kStdout].write, in[kStderr].write,
                        control,    in[kGoOf].read,    in[kRelease].read};
  MAYFLY_STEP("descriptors", placeDescriptors(placed, kStandInFd + kStandIns, 0));
  MAYFLY_STEP("become task", becomeTask(UserNamespace::ofBox));
  MAYFLY_STEP("fixed limits", setFixedLimits());
  MAYFLY_STEP("drop capabilities", dropCapabilities());
  return {"", 0};
}

[[noreturn]] void runZygote(const int* fds, int tasks_count, int channel) {
  const Step step = becomeZygote(fds, tasks_count, channel);
  int error = -step.error;
  const char* name = step.name;
  if (error == 0) {
    // The library keeps the runtime from what cannot be dumped (quiet.c).
    setenv(kRoleName, kRoleSnapshot, 1);
    setenv("LD_PRELOAD", "/usr/lib/mayfly/libmayfly-snapshot.so", 1);
    signal(SIGPIPE, SIG_DFL);  // an exec keeps what is ignored
    execv(builder.argv[0], builder.argv);
    error = errno;
    name = "exec";
  }
  CloneMade failed;
  failed.error = error;
  copyText(failed.step, sizeof failed.step, name);
  // The channel has its own number, or kChannelFd.
  if (sendRaw(channel, &failed, sizeof failed, nullptr, 0) != 0)
    sendRaw(kChannelFd, &failed, sizeof failed, nullptr, 0);
  _exit(120);
}

int makeStandIns() {
  for (int i = 0; i < kStandIns; ++i) {
    if (i == kControlOf) continue;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return -errno;
    builder.stand_in[i] = {ends[0], ends[1]};
  }
  return 0;
}

int writeStreams() {
  Streams streams;
  struct stat memory;
  if (fstatat(kSnapshotFd, kMemoryFile, &memory, AT_SYMLINK_NOFOLLOW) == 0)
    streams.memory_bytes = static_cast<uint64_t>(memory.st_size);
  else if (errno != ENOENT)
    return -errno;
  for (int i = 0; i < kStandIns; ++i) {
    struct stat st;
    if (i == kControlOf) continue;
    if (fstat(builder.stand_in[i].read, &st) != 0) return -errno;
    streams.pipe[i] = st.st_ino;
  }
  const int fd = openat(kSnapshotFd, kStreamsFile, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return -errno;
  int r = write(fd, &streams, sizeof streams) == sizeof streams ? 0 : -EIO;
  return close(fd) == 0 ? r : -errno;
}

// --- the dump ------------------------------------------------------------------------

// The zygote, which runs a template's packages, may write to /run, where criu would look for what
// it knows of the kernel, and whoever restores would believe it.
int makeCriuFolder() {
  return mount("criu", kCriuFolder, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
               "mode=0700,size=1m") == 0
             ? 0
             : -errno;
}

// Copies what criu found out about the kernel, so that no restore has to find it out again.
int keepKernelFile() {
  static char bytes[kKernelFileBytesMax];
  char path[64];
  snprintf(path, sizeof path, "%s/%s", kCriuFolder, kKernelFile);
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return -errno;
  const ssize_t n = read(fd, bytes, sizeof bytes);
  close(fd);
  if (n <= 0 || n == sizeof bytes) return -EFBIG;
  fd = openat(kSnapshotFd, kKernelFile, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return -errno;
  int r = write(fd, bytes, static_cast<size_t>(n)) == n ? 0 : -EIO;
  return close(fd) == 0 ? r : -errno;
}

// Copies the memory that the zygote shares with its clones. The file is the task's user's: nothing
// but a regular file is taken, of which every byte has cost its box memory.
int keepMemory() {
  const int from = open(kMemoryPath, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (from < 0) return errno == ENOENT ? 0 : -errno;
  struct stat st;
  int r = fstat(from, &st) != 0 ? -errno : isWhole(st) ? 0 : -EBADF;
  const int to =
      r == 0 ? openat(kSnapshotFd, kMemoryFile, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644) : -1;
  if (r == 0 && to < 0) r = -errno;
  if (r == 0) r = copyBytes(from, to, st.st_size);
  if (to >= 0 && close(to) != 0 && r == 0) r = -errno;
  close(from);
  return r;
}

int keepVersion() {
  const int fd = openat(kSnapshotFd, kVersionFile, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return -errno;
  const pid_t pid = fork();
  if (pid < 0) return -errno;
  if (pid == 0) {
    const char* const argv[] = {kCriuPath, "--version", nullptr};
    if (dup2(fd, 1) != 1) _exit(126);
    executeCriu(argv, kCriuFolder);
  }
  close(fd);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return -errno;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

int joinCgroupNamespaceOfZygote() {
  char path[32];
  snprintf(path, sizeof path, "/proc/%d/ns/cgroup", kSnapshotPid);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  int r = setns(fd, CLONE_NEWCGROUP) == 0 ? 0 : -errno;
  close(fd);
  return r;
}

// The gate names the preload that changed them; but it runs in the process that it judges. Every
// clone would have the zygote's own namespaces, with all capabilities in them. A process beside the
// zygote would not be dumped, and could disturb criu meanwhile.
int checkZygote(int said) {
  Surroundings box, its;
  char zygote[24], what[96];
  snprintf(zygote, sizeof zygote, "/proc/%d", kSnapshotPid);
  if (int r = readSurroundings("/proc/self", &box); r != 0) return r;
  if (int r = readSurroundings(zygote, &its); r != 0) return r;
  if (findChange(box, its, what, sizeof what)) {
    dprintf(said, "Error: the zygote %s\n", what);
    return -EPERM;
  }
  const pid_t known[] = {1, getpid(), kSnapshotPid};
  const pid_t other = findBystander("/proc", known, 3);
  if (other > 0) dprintf(said, "Error: the zygote left a process in its box\n");
  return other > 0 ? -EBUSY : other;
}

int runCriuDump(int said) {
  const pid_t pid = fork();
  if (pid < 0) return -errno;
  if (pid == 0) {
    char folder[32], target[16];
    const int kept = fcntl(kSnapshotFd, F_DUPFD, 64);
    snprintf(folder, sizeof folder, "/proc/self/fd/%d", kept);
    snprintf(target, sizeof target, "%d", kSnapshotPid);
    const char* const argv[] = {kCriuPath,
                                "dump",
                                "--unprivileged",
                                "-t",
                                target,
                                "-D",
                                folder,
                                "-v1",
                                "--manage-cgroups=ignore",
                                "--network-lock",
                                "skip",
                                nullptr};
    if (kept < 0 || dup2(said, 2) != 2) _exit(126);
    executeCriu(argv, kCriuFolder);
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return -errno;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

[[noreturn]] void dumpInBox(int init, int said) {
  int r;
  // What criu could be made to say to the spawner by the process that it reads.
  close(kChannelFd);
  close(kSeccompFd);
  const char* step = "";
  const auto at = [&](const char* name, int result) {
    step = name;
    return (r = result) == 0;
  };
  if (at("enter box", joinBox(init)) && at("become root of the box", becomeBoxRoot()) &&
      at("criu's folder", makeCriuFolder()) && at("show processes", showProcesses()) &&
      at("cgroup namespace", joinCgroupNamespaceOfZygote()) && at("zygote", checkZygote(said)) &&
      at("criu", runCriuDump(said)) && at("the zygote's memory", keepMemory()) &&
      at("criu's knowledge of the kernel", keepKernelFile()) && at("criu's version", keepVersion()))
    _exit(0);
  dprintf(said, "%s: %s: %s\n", strcmp(step, "criu") == 0 ? "criu failed" : "Error", step,
          strerror(-r));
  _exit(1);
}

// 0; or 1, and `why` is the end of a sentence.
int dump(char* why, size_t size) {
  int said[2], pidfd = -1, status = 0;
  snprintf(why, size, "the dump cannot be started");
  if (pipe2(said, O_CLOEXEC | O_NONBLOCK) != 0) return 1;
  const pid_t pid = forkIntoBox(builder.init, builder.own_pid_ns, {}, &pidfd);
  if (pid == 0) dumpInBox(builder.init, said[1]);
  close(said[1]);
  bool well = pid > 0;
  if (well) {
    pid_t ended;
    do ended = waitpid(pid, &status, 0);
    while (ended < 0 && errno == EINTR);
    well = ended == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!well) snprintf(why, size, "the dump failed");
    if (!well) readCriusError(said[0], why, size);
  }
  if (pidfd >= 0) close(pidfd);
  close(said[0]);
  return well ? 0 : 1;
}

// --- the order of all ----------------------------------------------------------------

// What the zygote prints while it starts goes to the log, which may be a terminal: a package's
// words, made printable and bounded. The rest is read and dropped, so that nobody waits.
void passOnLog() {
  static size_t passed = 0;
  char text[4'096];
  ssize_t n = -1;
  for (int i = 0; i < kLogReadsMax; ++i) {
    if ((n = read(builder.log.read, text, sizeof text)) <= 0) break;
    const auto count = static_cast<size_t>(n);
    makePrintable(text, count, Lines::keep);
    const size_t shown = count < kLogBytesMax - passed ? count : kLogBytesMax - passed;
    if (shown > 0) (void)!write(2, text, shown);
    passed += shown;
    if (shown > 0 && passed == kLogBytesMax) dprintf(2, "\n(more is not shown)\n");
  }
  if (n != 0) return;
  close(builder.log.read);  // nobody writes into it any more
  builder.log.read = -1;
}

// The zygote's word that it is ready, then its end of the channel.
int awaitZygote(char* why, size_t size) {
  bool ready = false;
  for (;;) {
    pollfd waits[] = {{builder.channel, POLLIN, 0}, {builder.log.read, POLLIN, 0}};
    if (poll(waits, 2, -1) < 0 && errno != EINTR) return 1;
    if (waits[1].revents != 0) passOnLog();
    if (waits[0].revents == 0) continue;
    CloneMade said;
    int fds[kFdsMax], count = 0;
    const ssize_t n = receiveRaw(builder.channel, &said, sizeof said, fds, &count);
    closeAll(fds, count);
    if (n == 0 && ready) return 0;
    if (n != sizeof said) {
      snprintf(why, size, "the zygote ended before it was ready");
      return 1;
    }
    said.step[sizeof said.step - 1] = '\0';
    ready = said.error == 0;
    if (ready) continue;
    snprintf(why, size, "%.300s%s%s", said.step, said.error == kRefused ? "" : ": ",
             said.error == kRefused ? "" : strerror(said.error));
    return 1;
  }
}

// The word of the whole: on the control socket as by a clone, in full on stderr.
void report(int error, const char* why) {
  if (error != 0) dprintf(builder.err, "%s\n", why);
  CloneReady ready;
  ready.error = error;
  copyText(ready.step, sizeof ready.step, error == 0 ? "" : "snapshot");
  ready.at_ns = nowNs();
  sendRaw(builder.control, &ready, sizeof ready, nullptr, 0);
  close(builder.control);
  close(builder.err);
}

int start(const int* fds, int tasks_count) {
  int pair[2];
  if (int r = makeStandIns(); r != 0) return r;
  if (pipe2(pair, O_CLOEXEC) != 0) return -errno;
  builder.log = {pair[0], pair[1]};
  if (fcntl(pair[0], F_SETFL, O_NONBLOCK) != 0) return -errno;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return -errno;
  builder.channel = pair[0];
  builder.init = fcntl(fds[kInit], F_DUPFD_CLOEXEC, 0);
  builder.control = fcntl(fds[kControl], F_DUPFD_CLOEXEC, 0);
  builder.err = fcntl(fds[kErr], F_DUPFD_CLOEXEC, 0);
  const Fork how{fds, nullptr, kSnapshotPid};
  const pid_t pid = forkIntoBox(fds[kInit], builder.own_pid_ns, how, &builder.zygote);
  if (pid == 0) runZygote(fds, tasks_count, pair[1]);
  close(pair[1]);
  close(builder.log.write);
  return pid < 0 ? pid : 0;
}

void build() {
  char why[kWhyBytes] = {};
  int failed = awaitZygote(why, sizeof why);
  if (failed == 0) failed = dump(why, sizeof why);
  if (failed == 0 && writeStreams() != 0) {
    failed = 1;
    snprintf(why, sizeof why, "the folder of the snapshot cannot be written");
  }
  report(failed == 0 ? 0 : EIO, why);
}

}  // namespace

void runDumping(char** argv) {
  builder.own_pid_ns = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
  builder.argv = argv;
  if (fcntl(kChannelFd, F_SETFD, FD_CLOEXEC) != 0) _exit(2);
  signal(SIGPIPE, SIG_IGN);  // whoever asked may be gone
  CloneMade hello;
  if (builder.own_pid_ns < 0) hello.error = errno;
  if (sendRaw(kChannelFd, &hello, sizeof hello, nullptr, 0) != 0 || hello.error != 0) _exit(2);
  bool built = false;
  for (;;) {
    MakeClone make;
    int fds[kFdsMax], count = 0;
    const ssize_t n = receiveRaw(kChannelFd, &make, sizeof make, fds, &count);
    if (n <= 0) _exit(n == 0 ? 0 : 3);
    if (faultOf(make, static_cast<size_t>(n), static_cast<size_t>(count)) != nullptr) _exit(4);
    CloneMade made;
    made.box = make.box;
    const int r = built ? -EBUSY : start(fds, count - kFirstTasks);
    closeAll(fds, count);
    if (r != 0) {
      made.error = -r;
      copyText(made.step, sizeof made.step, built ? "a builder has one zygote" : "start zygote");
    }
    const bool passes = r == 0;
    if (sendRaw(kChannelFd, &made, sizeof made, &builder.zygote, passes ? 1 : 0) != 0) _exit(5);
    if (!passes) continue;
    close(builder.zygote);
    built = true;
    build();
  }
}

}  // namespace mayfly::zygote
