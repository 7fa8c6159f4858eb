// libmayfly-zygote: the fork server and a clone's steps.
//
// The zygote answers one request at a time: it forks into a box's pid namespace, as a child of the
// spawner, and returns. The child enters the box, puts up its walls, parks, takes its one task and
// returns to the runtime.
//
// Layer: zygote. Single-threaded; allocates only in the clone.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "mayfly/zygote.h"
#include "zygote/enter.h"
#include "zygote/hygiene.h"
#include "zygote/raw.h"
#include "zygote/snapshot.h"
#include "zygote/task_blob.h"
#include "zygote/vdso_random.h"
#include "zygote/walls.h"
#include "wire/zygote.h"

namespace mayfly::zygote {

using namespace wire;
namespace {

struct Server {
  const mayfly_zygote_hooks* hooks = nullptr;
  int own_pid_ns = -1;
  int landlock_abi = 0;
  sock_fprog seccomp{};
  pid_t* thread_id = nullptr;  // libc's cached copy of the thread's id
  void* robust_list = nullptr;
  size_t robust_list_bytes = 0;
};

// The clone's descriptors, until the task starts.
int control_fd = -1;
int go_fd = -1;           // a byte comes when the task may start
bool caps_stand = false;  // no byte comes: nothing has to happen before

// libc keeps the thread's id in its thread block, at an unknown offset; after a raw fork, the
// zygote's id would stay there. The spawner gives the zygote a large pid, so that the value is
// found exactly once; otherwise the template is refused.
pid_t* findCachedThreadId() {
  constexpr size_t kScanBytes = 2'048;
  auto* block = reinterpret_cast<char*>(pthread_self());
  auto tid = static_cast<pid_t>(syscall(SYS_gettid));
  pid_t* found = nullptr;
  for (size_t i = 0; i + sizeof tid <= kScanBytes; i += sizeof tid) {
    pid_t value;
    memcpy(&value, block + i, sizeof value);
    if (value != tid) continue;
    if (found != nullptr) return nullptr;
    found = reinterpret_cast<pid_t*>(block + i);
  }
  return found;
}

int loadProgram(Server* server) {
  struct stat st;
  if (fstat(kSeccompFd, &st) != 0) return -errno;
  auto size = static_cast<size_t>(st.st_size);
  if (size == 0 || size % sizeof(sock_filter) != 0 || size / sizeof(sock_filter) > BPF_MAXINSNS)
    return -EBADMSG;
  // Populated and private: a snapshot holds the program itself, and no file.
  void* map = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return -errno;
  if (pread(kSeccompFd, map, size, 0) != static_cast<ssize_t>(size)) return -EIO;
  if (mprotect(map, size, PROT_READ) != 0) return -errno;
  server->seccomp.len = static_cast<unsigned short>(size / sizeof(sock_filter));
  server->seccomp.filter = static_cast<sock_filter*>(map);
  close(kSeccompFd);
  return 0;
}

// What this process becomes: a zygote that forks, or one that is dumped.
Gate role = Gate::fork;

// When the library is loaded, before the runtime's own code can change its environment. No program
// that a task starts inherits the two; /proc/self/environ of a clone still shows them.
__attribute__((constructor)) void takeRole() {
  const char* told = getenv(kRoleName);
  if (told == nullptr || strcmp(told, kRoleSnapshot) != 0) return;
  role = Gate::snapshot;
  unsetenv(kRoleName);
  unsetenv("LD_PRELOAD");
}

int prepare(Server* server, const mayfly_zygote_hooks* hooks, char fault[kFaultBytes]) {
  if (hooks == nullptr || hooks->abi < 1 || hooks->abi > MAYFLY_ZYGOTE_ABI) return -EINVAL;
  server->hooks = hooks;
  if (int r = findHygieneFault(role, fault); r != 0) return r;
  if (isDumped()) return loadProgram(server);
  server->own_pid_ns = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
  if (server->own_pid_ns < 0) return -errno;
  server->thread_id = findCachedThreadId();
  if (server->thread_id == nullptr) return -ENXIO;
  if (syscall(SYS_get_robust_list, 0, &server->robust_list, &server->robust_list_bytes) != 0)
    return -errno;
  server->landlock_abi = landlockAbi();
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) return -errno;
  return loadProgram(server);
}

// A region given to mayfly_zygote_random_memory().
struct Region {
  char* at;
  size_t bytes;
};
constexpr size_t kRegionsMax = 8;
Region regions[kRegionsMax];
size_t regions_count = 0;

int fillRegions() {
  for (size_t i = 0; i < regions_count; ++i)
    if (int r = fillRandom(regions[i].at, regions[i].bytes); r != 0) return r;
  return 0;
}

// The runtime's part, while the init still sets up the box on another core.
int prepareRuntime(const mayfly_zygote_hooks& hooks) {
  if (int r = fillRegions(); r != 0) return r;
  if (hooks.after_fork_child != nullptr) hooks.after_fork_child();
  return hooks.reseed == nullptr || hooks.reseed() == 0 ? 0 : -EIO;
}

// stdin, stdout, stderr, the control channel and the go pipe become 0..4; every other descriptor is
// closed.
int arrangeDescriptors(const int* fds) {
  constexpr int kCount = 5;
  int held[kCount];
  const int from[kCount] = {fds[kIn], fds[kOut], fds[kErr], fds[kControl], fds[kGo]};
  for (int i = 0; i < kCount; ++i) {
    held[i] = fcntl(from[i], F_DUPFD_CLOEXEC, 64);
    if (held[i] < 0) return -errno;
  }
  for (int i = 0; i < kCount; ++i)
    if (dup3(held[i], i, i >= 3 ? O_CLOEXEC : 0) != i) return -errno;
  control_fd = 3;
  go_fd = 4;
  return close_range(kCount, ~0u, 0) == 0 ? 0 : -errno;
}

// Runs the runtime's empty task with the standard streams on /dev/null.
int rehearse(const mayfly_zygote_hooks& hooks) {
  if (hooks.abi < 2 || hooks.rehearse == nullptr) return 0;
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) return -errno;
  int held[3], r = 0;
  for (int i = 0; i < 3; ++i) {
    held[i] = fcntl(i, F_DUPFD_CLOEXEC, 64);
    if (held[i] < 0 || dup2(null, i) != i) return -errno;
  }
  if (hooks.rehearse() != 0) r = -EIO;
  for (int i = 0; i < 3; ++i)
    if (dup2(held[i], i) != i || close(held[i]) != 0) return -errno;
  close(null);
  return r;
}

// A clone's walls, one step a line, in the required order.
Step putUpWalls(const Server& server, const int* fds, int tasks_count, bool rehearsing) {
  MAYFLY_STEP("join cgroups", joinCgroups(fds + kFirstTasks, tasks_count));
  MAYFLY_STEP("runtime hooks", prepareRuntime(*server.hooks));
  MAYFLY_STEP("await box", awaitGo(fds[kGo]));
  MAYFLY_STEP("enter box", enterBox(fds[kInit]));
  MAYFLY_STEP("descriptors", arrangeDescriptors(fds));
  MAYFLY_STEP("become task", becomeTask(UserNamespace::own));
  MAYFLY_STEP("fixed limits", setFixedLimits());
  MAYFLY_STEP("drop capabilities", dropCapabilities());
  MAYFLY_STEP("landlock", confineFiles(server.landlock_abi));
  MAYFLY_STEP("seccomp",
              syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &server.seccomp) == 0 ? 0 : -errno);
  if (rehearsing) MAYFLY_STEP("rehearsal", rehearse(*server.hooks));
  return {"", 0};
}

// Parked: waits for the one task, or for the end of the box.
Step takeTask(mayfly_task* task) {
  Claim claim;
  int fds[kFdsMax], count = 0;
  ssize_t n = receiveRaw(control_fd, &claim, sizeof claim, fds, &count);
  if (n == 0) _exit(0);
  if (n < 0) return {"claim", static_cast<int>(n)};
  if (faultOf(claim, static_cast<size_t>(n), static_cast<size_t>(count)) != nullptr)
    return {"claim", -EBADMSG};
  caps_stand = claim.caps_stand == 1;
  const char* step = "claim";
  int r = readTask(fds, count, claim.block_bytes, task, &step);
  closeAll(fds, count);
  if (r != 0) return {step, r};
  r = setTaskLimits({claim.open_files, claim.file_size_bytes, claim.cpu_time_s});
  return {"task limits", r};
}

// Reports the walls; then waits for the task. Returns only with one.
int park(const Step& walls, mayfly_task* task) {
  CloneReady ready;
  ready.error = -walls.error;
  copyText(ready.step, sizeof ready.step, walls.name);
  ready.at_ns = nowNs();
  if (sendRaw(control_fd, &ready, sizeof ready, nullptr, 0) != 0 || walls.error != 0) _exit(120);
  const Step step = takeTask(task);
  if (step.error == 0) return 0;
  Started failed;
  failed.error = -step.error;
  copyText(failed.step, sizeof failed.step, step.name);
  sendRaw(control_fd, &failed, sizeof failed, nullptr, 0);
  _exit(121);
}

int runClone(const Server& server, const int* fds, int tasks_count, bool rehearsing,
             mayfly_task* task) {
  syscall(SYS_set_robust_list, server.robust_list, server.robust_list_bytes);
  control_fd = fds[kControl];
  return park(putUpWalls(server, fds, tasks_count, rehearsing), task);
}

// --- a zygote that is dumped ---------------------------------------------------------

// The stand-ins for a clone's descriptors become 0 to 5. The channel moves away: its end is the
// word that the process may be dumped.
int arrangeStandIns(int* channel) {
  const int held = fcntl(kChannelFd, F_DUPFD_CLOEXEC, kStandInFd + kStandIns);
  if (held < 0) return -errno;
  *channel = held;
  for (int i = 0; i < kStandIns; ++i)
    if (dup3(kStandInFd + i, i, i >= kControlOf ? O_CLOEXEC : 0) != i) return -errno;
  // kRelease is the only stand-in that was one of these descriptors before.
  static_assert(kRelease == kStandInFd);
  return close_range(kRelease + 1, kStandInFd + kStandIns - 1, 0) == 0 ? 0 : -errno;
}

// The walls of a restored clone, one step a line, in the required order. Some were up at the dump,
// and mayfly-restorer put up those that the process inherited from it.
Step completeWalls(const Server& server, bool rehearsing) {
  MAYFLY_STEP("fixed limits", setFixedLimits());  // criu goes on if it cannot set one
  MAYFLY_STEP("vdso random", renewDroppableMemory());
  MAYFLY_STEP("random memory", fillRegions());
  MAYFLY_STEP("reseed", server.hooks->reseed == nullptr || server.hooks->reseed() == 0 ? 0 : -EIO);
  // Every thread gets the program; a thread that cannot is named by a positive number.
  const long other =
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &server.seccomp);
  MAYFLY_STEP("seccomp", other < 0 ? -errno : other > 0 ? -EPERM : 0);
  if (rehearsing) {
    mapSharedMemory();
    MAYFLY_STEP("rehearsal", rehearse(*server.hooks));
  }
  return {"", 0};
}

// Whatever the preloads made of it, what the dump keeps is as in a forked clone. The working
// folder, too: criu refuses one in /proc.
int settleAsTask() {
  umask(022);
  if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0) return -errno;
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) return -errno;
  if (prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) != 0) return -errno;
  return chdir("/task") == 0 ? 0 : -errno;
}

// In the zygote, the call ends with the dump, which ends the process. In a clone it goes on.
int serveSnapshot(const Server& server, mayfly_task* task) {
  int channel = -1;
  malloc_trim(0);  // what is free need not be restored
  if (int r = settleAsTask(); r != 0) return r;
  if (int r = arrangeStandIns(&channel); r != 0) return r;
  if (int r = findDroppableMemory(); r != 0) return r;
  close(channel);
  char how;
  ssize_t n;
  do n = read(kRelease, &how, 1);
  while (n < 0 && errno == EINTR);
  if (n != 1 || (how != kGoOn && how != kGoOnRehearsing)) _exit(0);  // nobody restored it
  close(kRelease);
  control_fd = kControlOf;
  go_fd = kGoOf;
  return park(completeWalls(server, how == kGoOnRehearsing), task);
}

// The zygote's first message: it serves, or why it cannot.
int sayHello(int error, const char* why) {
  CloneMade hello;
  hello.error = error;
  copyText(hello.step, sizeof hello.step, why);
  return sendRaw(kChannelFd, &hello, sizeof hello, nullptr, 0);
}

}  // namespace

bool isDumped() { return role == Gate::snapshot; }

}  // namespace mayfly::zygote

using namespace mayfly::zygote;

extern "C" int mayfly_zygote_preloaded(const char* name) {
  if (name == nullptr) {
    takeBaseline();
    return 0;
  }
  notePreload(name);
  char fault[kFaultBytes], why[kWhyBytes];
  int r = findHygieneFault(role, fault);
  if (r == 0) return 0;
  snprintf(why, sizeof why, "preload '%.60s' %s", name, fault);
  mayfly_zygote_refuse(why);
  return r;
}

extern "C" int mayfly_zygote_random_memory(void* at, size_t bytes) {
  if (at == nullptr || bytes == 0) return -EINVAL;
  if (regions_count == kRegionsMax) return -ENOSPC;
  regions[regions_count++] = {static_cast<char*>(at), bytes};
  return 0;
}

extern "C" void mayfly_zygote_refuse(const char* why) {
  dprintf(2, "cannot serve: %s\n", why);
  sayHello(kRefused, why);
}

extern "C" int mayfly_zygote_serve(const mayfly_zygote_hooks* hooks, mayfly_task* task) {
  static Server server;
  char fault[kFaultBytes] = {}, why[kWhyBytes];
  int r = prepare(&server, hooks, fault);
  snprintf(why, sizeof why, r == 0 ? "" : fault[0] != '\0' ? "the zygote %s" : "prepare", fault);
  if (r == 0) reportPreloads();
  int sent = sayHello(fault[0] != '\0' ? kRefused : -r, why);
  if (r != 0 || sent != 0) return r != 0 ? r : sent;
  if (isDumped()) return serveSnapshot(server, task);
  for (;;) {
    MakeClone make;
    int fds[kFdsMax], count = 0;
    ssize_t n = receiveRaw(kChannelFd, &make, sizeof make, fds, &count);
    if (n <= 0) _exit(n == 0 ? 0 : 3);
    if (faultOf(make, static_cast<size_t>(n), static_cast<size_t>(count)) != nullptr) _exit(4);
    CloneMade made;
    made.box = make.box;
    int pidfd = -1;
    if (server.hooks->before_fork != nullptr) server.hooks->before_fork();
    const Fork how{fds, server.thread_id, 0};
    pid_t pid = forkIntoBox(fds[kInit], server.own_pid_ns, how, &pidfd);
    if (pid == 0) return runClone(server, fds, count - kFirstTasks, make.rehearse != 0, task);
    if (server.hooks->after_fork_parent != nullptr) server.hooks->after_fork_parent();
    if (pid < 0) {
      made.error = -pid;
      copyText(made.step, sizeof made.step, "fork clone");
    }
    closeAll(fds, count);
    r = sendRaw(kChannelFd, &made, sizeof made, &pidfd, pidfd >= 0 ? 1 : 0);
    if (pidfd >= 0) close(pidfd);
    if (r != 0) _exit(5);
  }
}

static int sayStarted(uint32_t fresh) {
  if (control_fd < 0) return -EBADF;
  if (!caps_stand && awaitGo(go_fd) != 0) _exit(0);
  close(go_fd);
  Started started;
  started.at_ns = nowNs();
  started.fresh = fresh;
  int r = sendRaw(control_fd, &started, sizeof started, nullptr, 0);
  close(control_fd);
  control_fd = -1;
  return r;
}

extern "C" int mayfly_zygote_started(void) { return sayStarted(0); }

extern "C" void mayfly_zygote_execute(const char* program, const mayfly_task* task) {
  if (sayStarted(1) != 0) _exit(121);
  execve(program, task->argv, task->envp);
  dprintf(2, "mayfly: cannot run '%s': %s\n", program, strerror(errno));
  _exit(126);
}

extern "C" void mayfly_zygote_exec(const mayfly_task* task) {
  if (mayfly_zygote_started() != 0) _exit(121);
  execvpe(task->argv[0], task->argv, task->envp);
  int error = errno;
  makePrintable(task->argv[0], strlen(task->argv[0]), Lines::replace);
  dprintf(2, "mayfly: cannot run '%s': %s\n", task->argv[0], strerror(error));
  _exit(error == ENOENT || error == ENOTDIR ? 127 : 126);
}

extern "C" unsigned mayfly_zygote_abi(void) { return MAYFLY_ZYGOTE_ABI; }
