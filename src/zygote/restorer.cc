// mayfly-restorer: makes the snapshot of a template's zygote, and restores clones from it.
//
//   mayfly-restorer serve               restores clones
//   mayfly-restorer dump PROGRAM ARG... makes the snapshot
//
// Every restore is one process, forked into a complete box: root of that box's user namespace and
// of nothing else, in the box's cgroups, and confined before it executes criu. So nobody gains a
// right on the host, and a box pays for its restore from the first page on.
//
// Layer: zygote. Single-threaded.
#include "zygote/restorer.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "zygote/bystander.h"
#include "zygote/criu_rpc.h"
#include "zygote/enter.h"
#include "zygote/memory_file.h"
#include "zygote/raw.h"
#include "zygote/snapshot.h"
#include "zygote/surroundings.h"
#include "zygote/walls.h"
#include "wire/zygote.h"

namespace mayfly::zygote {

using namespace wire;
namespace {

constexpr int kAskedMax = 8;  // restores at a time; further requests wait in the channel
// Boxes in stock, in which criu waits; a template has few. A further one has its criu started when
// its clone is asked for.
constexpr int kPreparedMax = 4;
constexpr int kJobsMax = kAskedMax + kPreparedMax;
constexpr int kMessagesMax = 16;  // of one criu: its points, and how it ended
// The box stands: only criu takes time. A page takes a microsecond or two; on a busy machine, ten.
constexpr uint64_t kRestoreNsMax = 5'000'000'000, kLargeRestoreNsMax = 8'000'000'000;
constexpr uint64_t kBytesPerSecond = 128u << 20;
constexpr time_t kFinishSecondsMax = 2;
constexpr size_t kSaidBytesMax = 16'384;

// A restore under way, or one that is prepared.
struct Job {
  uint64_t box = 0;   // 0: free
  int restorer = -1;  // pidfd of the process that becomes criu
  int init = -1;
  int release = -1;  // a byte of it lets the clone go on
  int said = -1;     // what a failed step, then criu, says
  int criu = -1;     // criu's own protocol
  uint64_t due_ns = 0;
  int messages = 0;    // of criu's
  bool asked = false;  // the clone is wanted
  bool rehearse = false, late = false, released = false;
};

struct Server {
  int own_pid_ns = -1;
  int landlock_abi = 0;
  int memory = -1;  // what clones map of the zygote's memory; -1: nothing
  uint64_t restore_ns_max = kRestoreNsMax;
  Streams streams;
  CriuMessage request;  // for every restore
  Job jobs[kJobsMax];
};
Server server;

int readStreams() {
  const int fd = openat(kSnapshotFd, kStreamsFile, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  const ssize_t n = read(fd, &server.streams, sizeof server.streams);
  close(fd);
  const Streams wanted;
  return n == sizeof server.streams && server.streams.magic == wanted.magic &&
                 server.streams.version == wanted.version
             ? 0
             : -EBADMSG;
}

// The snapshot's memory as large pages, charged to this template and not to the first box that
// reads it; without a name, and not writable by anyone who gets it.
int loadMemory() {
  if (server.streams.memory_bytes == 0) return 0;
  const int from = openat(kSnapshotFd, kMemoryFile, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (from < 0) return -errno;
  const auto bytes = static_cast<off_t>(server.streams.memory_bytes);
  MemoryFile file;
  int r = createMemoryFile(&file);
  if (r == 0) {
    r = copyBytes(from, file.write, bytes);
    close(file.write);
    if (r == 0) r = holdMemory(file.read, bytes);
    server.memory = file.read;
  }
  close(from);
  return r;
}

uint64_t restoreNsMax() {
  struct stat pages;
  if (fstatat(kSnapshotFd, kPagesFile, &pages, 0) != 0) return kRestoreNsMax;  // criu will say so
  const auto bytes = static_cast<uint64_t>(pages.st_size);
  const uint64_t ns = kRestoreNsMax + bytes / (kBytesPerSecond / 1'000) * 1'000'000;
  return ns < kLargeRestoreNsMax ? ns : kLargeRestoreNsMax;
}

// --- in the box, before criu ---------------------------------------------------------

// Where the process that runs criu has its descriptors; 0 to 2 are nothing, nothing, and what it
// says.
enum {
  kSaid = 2,
  kFirstStream = 3,
  kFolder = kFirstStream + kStandIns,
  kCriu,
  kMemory,
  kPlacedEnd
};

Step enterForRestore(const int* fds, int tasks_count, int release, int said, int criu) {
  if (const Step entered = enterAsBoxRoot(fds, tasks_count); entered.error != 0) return entered;
  MAYFLY_STEP("parent-death signal", prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 ? 0 : -errno);
  MAYFLY_STEP("keyring", joinOwnKeyring());
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  MAYFLY_STEP("/dev/null", null < 0 ? -errno : 0);
  const int placed[] = {null,          null,     said,    fds[kIn],    fds[kOut], fds[kErr],
                        fds[kControl], fds[kGo], release, kSnapshotFd, criu,      server.memory};
  MAYFLY_STEP("descriptors", placeDescriptors(placed, server.memory < 0 ? kMemory : kPlacedEnd, 0));
  MAYFLY_STEP("show processes", showProcesses());
  MAYFLY_STEP("no new privileges", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : -errno);
  MAYFLY_STEP("landlock", confineRestorer(server.landlock_abi, kFolder));
  return {"", 0};
}

[[noreturn]] void runCriu() {
  static char folder[32], channel[16];
  snprintf(folder, sizeof folder, "/proc/self/fd/%d", kFolder);
  snprintf(channel, sizeof channel, "%d", kCriu);
  const char* const argv[] = {kCriuPath, "swrk", channel, nullptr};
  executeCriu(argv, folder);
}

[[noreturn]] void restore(const int* fds, int tasks_count, int release, int said, int criu) {
  const Step step = enterForRestore(fds, tasks_count, release, said, criu);
  if (step.error == 0) runCriu();
  // `said` has either its own number or kSaid.
  char text[128];
  const int n = snprintf(text, sizeof text, "Error: %s: %s\n", step.name, strerror(-step.error));
  if (write(said, text, static_cast<size_t>(n)) != n)
    (void)!write(kSaid, text, static_cast<size_t>(n));
  _exit(1);
}

// What criu is asked for, by its descriptors in the box.
CriuMessage requestOfRestore() {
  char folder[32], pipes[kStandIns][32];
  snprintf(folder, sizeof folder, "/proc/self/fd/%d", kFolder);
  CriuInherited inherited[kStandIns + 1];
  size_t count = 0;
  for (int i = 0; i < kStandIns; ++i) {
    snprintf(pipes[i], sizeof pipes[i], "pipe:[%lu]",
             static_cast<unsigned long>(server.streams.pipe[i]));
    inherited[count++] = {kFirstStream + i, i == kControlOf ? kControlPath + 1 : pipes[i]};
  }
  if (server.memory >= 0) inherited[count++] = {kMemory, kMemoryPath + 1};
  return restoreRequest(folder, inherited, count);
}

// Never waits for it: 0 or -errno.
int say(int criu, const CriuMessage& message) {
  const auto size = static_cast<ssize_t>(message.size());
  return send(criu, message.bytes(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT) == size ? 0
                                                                                          : -errno;
}

// --- in the box, after criu ----------------------------------------------------------

// The answer of the process that looks after a restore. fds: [0] pidfd of the clone, if it lives.
struct Finished {
  int32_t error = 0;
  char step[28] = {};
};

// Between a look at the zygote and its dump it could change them. A clone that is in the box's user
// namespace has left no other, either: that takes a capability.
int checkClone() {
  Surroundings box, its;
  char clone[24], what[96];
  snprintf(clone, sizeof clone, "/proc/%d", kSnapshotPid);
  if (int r = readSurroundings("/proc/self", &box, 1); r != 0) return r;
  if (int r = readSurroundings(clone, &its, 1); r != 0) return r;
  return findChange(box, its, what, sizeof what) ? -EPERM : 0;
}

[[noreturn]] void finishInBox(int init, int answer) {
  Finished done;
  int clone = -1;
  const char* step = "enter box";
  int r = joinBox(init);
  if (r == 0) r = becomeBoxRoot();
  if (r == 0) {
    step = "find clone";
    clone = static_cast<int>(syscall(SYS_pidfd_open, kSnapshotPid, 0));
    if (clone < 0) r = -errno;
  }
  if (r == 0) {
    step = "other processes";  // criu's, if one left a child behind
    const pid_t known[] = {1, getpid(), kSnapshotPid};
    const pid_t other = findBystander("/proc", known, 3);
    if (other != 0) r = other < 0 ? other : -EBUSY;
  }
  if (r == 0) {
    step = "surroundings";
    r = checkClone();
  }
  if (r == 0) {
    step = "hide processes";
    r = hideProcesses();
  }
  done.error = -r;
  copyText(done.step, sizeof done.step, r == 0 ? "" : step);
  sendRaw(answer, &done, sizeof done, &clone, clone >= 0 ? 1 : 0);
  _exit(0);
}

// Takes the clone's pidfd out of the box, whose full /proc it removes. A child does it, because
// only a process of the box's namespaces can. Returns the error; *clone may be there nevertheless.
Finished finish(const Job& job, int* clone) {
  Finished done;
  done.error = EIO;
  copyText(done.step, sizeof done.step, "look after the clone");
  *clone = -1;
  int pair[2], pidfd = -1;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return done;
  const timeval patience{kFinishSecondsMax, 0};
  (void)setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  const pid_t pid = forkIntoBox(job.init, server.own_pid_ns, {}, &pidfd);
  if (pid == 0) finishInBox(job.init, pair[1]);
  close(pair[1]);
  if (pid > 0) {
    Finished answer;
    int fds[kFdsMax], count = 0;
    if (receiveRaw(pair[0], &answer, sizeof answer, fds, &count) == sizeof answer) {
      done = answer;
      done.step[sizeof done.step - 1] = '\0';
      if (count > 0) *clone = fds[0];
      closeAll(fds + 1, count > 0 ? count - 1 : 0);
    }
    syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0);
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    close(pidfd);
  }
  close(pair[0]);
  return done;
}

// --- the loop ------------------------------------------------------------------------

void answer(CloneMade& made, const int* fds, int count) {
  if (sendRaw(kChannelFd, &made, sizeof made, fds, count) != 0) _exit(5);
}

void refuse(uint64_t box, int error, const char* step) {
  CloneMade made;
  made.box = box;
  made.error = error;
  copyText(made.step, sizeof made.step, step);
  answer(made, nullptr, 0);
}

void drop(Job& job) {
  const int held[] = {job.restorer, job.init, job.release, job.said, job.criu};
  for (int fd : held)
    if (fd >= 0) close(fd);
  job = Job();
}

Job* findJob(uint64_t box) {
  for (Job& job : server.jobs)
    if (job.box == box) return &job;
  return nullptr;
}

int countJobs(bool asked) {
  int count = 0;
  for (const Job& job : server.jobs) count += job.box != 0 && job.asked == asked ? 1 : 0;
  return count;
}

// The pipe belongs to the task, like the others: criu opens it again.
int makeRelease(const int* fds, int ends[2]) {
  struct stat owner;
  if (fstat(fds[kIn], &owner) != 0) return -errno;
  if (pipe2(ends, O_CLOEXEC) != 0) return -errno;
  return fchown(ends[0], owner.st_uid, owner.st_gid) == 0 ? 0 : -errno;
}

// Starts criu in the box, which goes as far as it can without a process. 0 or -errno.
int start(Job* job, uint64_t box, const int* fds, int tasks_count) {
  int release[2] = {-1, -1}, said[2] = {-1, -1}, criu[2] = {-1, -1};
  const int init = fcntl(fds[kInit], F_DUPFD_CLOEXEC, 0);
  int r = init < 0 ? -errno : makeRelease(fds, release);
  if (r == 0 && pipe2(said, O_CLOEXEC | O_NONBLOCK) != 0) r = -errno;
  if (r == 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, criu) != 0) r = -errno;
  if (r == 0) r = say(criu[0], server.request);
  int restorer = -1;
  if (r == 0) {
    const Fork how{fds, nullptr, 0};
    const pid_t pid = forkIntoBox(fds[kInit], server.own_pid_ns, how, &restorer);
    if (pid == 0) restore(fds, tasks_count, release[0], said[1], criu[1]);
    if (pid < 0) r = pid;
  }
  const int theirs[] = {release[0], said[1], criu[1]};
  for (const int fd : theirs)
    if (fd >= 0) close(fd);
  job->box = box;
  job->restorer = restorer;
  job->init = init;
  job->release = release[1];
  job->said = said[0];
  job->criu = criu[0];
  if (r != 0) drop(*job);
  return r;
}

// A byte lets the clone go on; without it, the pipe's end ends the clone. One that is killed
// meanwhile reads no byte.
void release(Job& job) {
  const char how = job.rehearse ? kGoOnRehearsing : kGoOn;
  (void)!write(job.release, &how, 1);
  job.released = true;
}

// The clone is wanted: criu may pass all its points without a wait.
void letGo(Job& job, bool rehearse) {
  job.asked = true;
  job.rehearse = rehearse;
  job.due_ns = nowNs() + server.restore_ns_max;
  for (int i = 0; i < kCriuPoints; ++i) (void)say(job.criu, goOn());  // or it has ended
}

void begin(const MakeClone& make, const int* fds, int tasks_count) {
  const bool ahead = make.ahead != 0;
  Job* job = findJob(make.box);
  if (job == nullptr && ahead && countJobs(false) == kPreparedMax) return;
  if (job == nullptr) {
    job = findJob(0);
    if (job == nullptr) return refuse(make.box, EAGAIN, "too many restores");
    const int r = start(job, make.box, fds, tasks_count);
    if (r != 0 && !ahead) refuse(make.box, -r, "fork restorer");
    if (r != 0) return;
  }
  if (!ahead) letGo(*job, make.rehearse != 0);
}

// One message of criu's; false: there is none. What criu says last is worth as much as its exit
// status, and comes half a millisecond earlier: the clone puts up its walls while criu's process
// ends. Its box gets a task only when end() has found all well.
bool hear(Job& job) {
  unsigned char bytes[kCriuMessageMax];
  ssize_t n;
  do n = recv(job.criu, bytes, sizeof bytes, MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) return false;
  if (n <= 0 || ++job.messages > kMessagesMax) {  // its process ends, or has to
    close(job.criu);
    job.criu = -1;
    return false;
  }
  const bool restored = saysRestored(bytes, static_cast<size_t>(n));
  if (restored && job.asked && !job.late && !job.released) release(job);
  return true;
}

// The process that restored has ended.
void end(Job& job) {
  CloneMade made;
  made.box = job.box;
  int fds[2] = {job.restorer, -1};
  const Finished done = finish(job, &fds[1]);
  if (job.late) {
    made.error = ETIMEDOUT;
    copyText(made.step, sizeof made.step, "restore: it was not done in time");
  } else if (done.error != 0) {
    made.error = done.error;
    snprintf(made.step, sizeof made.step, "restore: %s", done.step);
    readCriusError(job.said, made.step, sizeof made.step);
  }
  answer(made, fds, fds[1] >= 0 ? 2 : 1);
  if (fds[1] >= 0) close(fds[1]);
  if (made.error == 0 && !job.released) release(job);
  drop(job);
}

// It has ended although nobody asked for the clone: by the box's end, or by a fault.
void endAhead(Job& job) {
  CloneMade made;
  made.box = job.box;
  made.error = kAheadEnded;
  copyText(made.step, sizeof made.step, "restore: it ended ahead");
  answer(made, &job.restorer, 1);
  drop(job);
}

// A restore that takes too long is killed; what it restored so far ends with its box.
void endLate(uint64_t now_ns) {
  for (Job& job : server.jobs) {
    if (!job.asked || job.late || job.due_ns > now_ns) continue;
    job.late = true;
    syscall(SYS_pidfd_send_signal, job.restorer, SIGKILL, nullptr, 0);
  }
}

int msUntilDue(uint64_t now_ns) {
  uint64_t next = UINT64_MAX;
  for (const Job& job : server.jobs)
    if (job.asked && !job.late && job.due_ns < next) next = job.due_ns;
  if (next == UINT64_MAX) return -1;
  return next <= now_ns ? 0 : static_cast<int>((next - now_ns) / 1'000'000 + 1);
}

void takeRequest() {
  MakeClone make;
  int fds[kFdsMax], count = 0;
  const ssize_t n = receiveRaw(kChannelFd, &make, sizeof make, fds, &count);
  if (n <= 0) _exit(n == 0 ? 0 : 3);
  if (faultOf(make, static_cast<size_t>(n), static_cast<size_t>(count)) != nullptr) _exit(4);
  begin(make, fds, count - kFirstTasks);
  closeAll(fds, count);
}

// Waits for something to happen, and does what it asks for.
void serveOnce() {
  constexpr nfds_t kOfJob = 2;
  pollfd polled[1 + kOfJob * kJobsMax];
  Job* of[1 + kOfJob * kJobsMax];
  nfds_t count = 1;
  for (Job& job : server.jobs) {
    if (job.box == 0) continue;
    of[count] = &job;
    polled[count++] = {job.restorer, POLLIN, 0};
    of[count] = &job;
    polled[count++] = {job.criu, POLLIN, 0};  // ignored below zero
  }
  const bool full = countJobs(true) == kAskedMax;
  polled[0] = {kChannelFd, static_cast<short>(full ? 0 : POLLIN), 0};  // its end is always told
  const int n = poll(polled, count, msUntilDue(nowNs()));
  if (n < 0 && errno != EINTR) _exit(6);
  if (n > 0) {
    for (nfds_t i = 1; i < count; i += kOfJob) {
      Job& job = *of[i];
      while (polled[i + 1].revents != 0 && hear(job)) {
      }
      if (polled[i].revents == 0) continue;
      if (job.asked)
        end(job);
      else
        endAhead(job);
    }
    if (polled[0].revents != 0) takeRequest();
  }
  endLate(nowNs());
}

void sayHello(int error, const char* why) {
  CloneMade hello;
  hello.error = error;
  copyText(hello.step, sizeof hello.step, why);
  answer(hello, nullptr, 0);
}

}  // namespace

void executeCriu(const char* const* arguments, const char* folder_of_kernel_file) {
  static char kernel[64];
  snprintf(kernel, sizeof kernel, "XDG_RUNTIME_DIR=%s", folder_of_kernel_file);
  signal(SIGPIPE, SIG_DFL);  // an exec keeps what is ignored
  const char* const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", kernel, nullptr};
  execve(arguments[0], const_cast<char* const*>(arguments), const_cast<char* const*>(environment));
  dprintf(2, "Error: cannot run %s: %s\n", arguments[0], strerror(errno));
  _exit(127);
}

void readCriusError(int said, char* to, unsigned long size) {
  static char text[kSaidBytesMax];
  size_t got = 0;
  for (ssize_t n; got + 1 < sizeof text; got += static_cast<size_t>(n))
    if ((n = read(said, text + got, sizeof text - 1 - got)) <= 0) break;
  text[got] = '\0';
  // What criu lacks and does not need.
  static constexpr const char* kUsual[] = {"rlimit:", "stats-", "tun:"};
  for (char *save = nullptr, *line = strtok_r(text, "\n", &save); line != nullptr;
       line = strtok_r(nullptr, "\n", &save)) {
    bool usual = strstr(line, "Error") == nullptr;
    for (const char* word : kUsual) usual = usual || strstr(line, word) != nullptr;
    if (usual) continue;
    snprintf(to, size, "%.300s", line);
    return;
  }
}

void runServing() {
  server.own_pid_ns = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
  server.landlock_abi = landlockAbi();
  // A clone may be killed at any time, also while its byte is written.
  signal(SIGPIPE, SIG_IGN);
  int r = server.own_pid_ns < 0 ? -errno : readStreams();
  if (r == 0) r = loadMemory();
  server.request = requestOfRestore();
  if (r == 0 && !server.request.sound()) r = -EMSGSIZE;
  if (r == 0 && access(kCriuPath, X_OK) != 0) r = -errno;
  sayHello(-r, r == 0 ? "" : "the snapshot cannot be read, or the image has no criu");
  if (r != 0) _exit(2);
  server.restore_ns_max = restoreNsMax();
  for (;;) serveOnce();
}

}  // namespace mayfly::zygote

int main(int argc, char** argv) {
  using namespace mayfly::zygote;
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) return 6;
  if (argc == 2 && strcmp(argv[1], "serve") == 0) runServing();
  if (argc >= 3 && strcmp(argv[1], "dump") == 0) runDumping(argv + 2);
  static const char usage[] =
      "mayfly-restorer is started by mayfly-spawner; it is of no use by hand\n";
  (void)!write(2, usage, sizeof usage - 1);
  return 2;
}
