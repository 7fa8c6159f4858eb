#include "spawner/template.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "spawner/child.h"
#include "wire/zygote.h"

namespace mayfly::spawner {

using base::Code;
using base::failSys;
using base::Fd;
using base::FdView;
using base::Result;
using base::Status;
using base::Unit;

namespace {

constexpr int kStartMsMax = 10'000;  // pid 1 or maker, until its exec
constexpr int kRemoveMsMax = 1'000;
constexpr uint64_t kForkBytesMax = 512 << 10;    // of the kernel's memory, for one clone
constexpr uint32_t kCapBoxesStep = 64;           // the zygote's cap is seldom written
constexpr uint32_t kHelperProcessesMax = 4'096;  // on v1 each box counts here until it is moved
constexpr char kMakerPath[] = "/usr/lib/mayfly/mayfly-maker";
// The zygote's pid in its template: large, so that its value is found exactly
// once in libc's thread block, and never that of a young process in a box.
constexpr pid_t kZygotePid = 23'129;

// What a child says when a step before its exec fails; success is silence.
struct Report {
  int error;
  char step[28];
};

struct Child {
  Fd pidfd;
  Fd channel;  // our end of its fd 3
};

struct ChildPlan {
  uint64_t flags = 0;      // namespaces
  FdView cgroup;           // v2 folder, joined at birth
  std::vector<int> tasks;  // v1 `tasks` files, joined first
  pid_t pid = 0;           // chosen pid in its namespace, 0: any
  FdView seccomp;          // becomes fd 4
  FdView log;              // becomes stdout and stderr
  std::vector<const char*> argv;
  uint32_t map_uid_base = 0;                    // not 0: a new user namespace, mapped by us
  std::function<int(const char** step)> enter;  // in the child: 0 or errno
};

// A task's own, so that a clone seldom has to change it.
const char* const kEnvironment[] = {
    "HOME=/task", "LANG=C.UTF-8", "LOGNAME=task",     "PATH=/usr/local/bin:/usr/bin:/bin",
    "TZ=UTC",     "USER=task",    "PYTHONHASHSEED=0", nullptr};

[[noreturn]] void runChild(const ChildPlan& plan, int channel, int sync, int report, int null_fd) {
  auto failed = [&](const char* step) {
    Report r{errno, {}};
    strncpy(r.step, step, sizeof r.step - 1);
    (void)!::write(report, &r, sizeof r);
    ::_exit(99);
  };
  char byte;
  if (::read(sync, &byte, 1) != 1) ::_exit(98);  // the spawner gave up
  for (int fd : plan.tasks)
    if (::write(fd, "0", 1) != 1) failed("join cgroups");
  const char* step = "enter";
  if (int e = plan.enter(&step); e != 0) {
    errno = e;
    failed(step);
  }
  if (::setgroups(0, nullptr) != 0 || ::setresgid(0, 0, 0) != 0 || ::setresuid(0, 0, 0) != 0)
    failed("ids");
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) failed("parent-death signal");
  if (::setsid() < 0) failed("setsid");
  rlimit core{1, 1};
  if (::setrlimit(RLIMIT_CORE, &core) != 0) failed("rlimit core");
  ::umask(022);
  // Lift all above the targets first, so that no dup2 overwrites a source.
  int from[] = {
      null_fd, plan.log ? plan.log.get() : null_fd,         plan.log ? plan.log.get() : null_fd,
      channel, plan.seccomp ? plan.seccomp.get() : null_fd, report};
  int high[6];
  for (int i = 0; i < 6; ++i)
    if ((high[i] = ::fcntl(from[i], F_DUPFD, 64)) < 0) failed("descriptors");
  for (int i = 0; i < 6; ++i)
    if (::dup2(high[i], i) != i) failed("descriptors");
  report = 5;
  if (::fcntl(report, F_SETFD, FD_CLOEXEC) != 0) failed("descriptors");
  ::syscall(SYS_close_range, 6u, ~0u, 0u);
  // What the spawner ignores is its own affair.
  for (int signal = 1; signal < 32; ++signal) ::signal(signal, SIG_DFL);
  if (!plan.seccomp) ::close(4);
  ::execve(plan.argv[0], const_cast<char* const*>(plan.argv.data()),
           const_cast<char* const*>(kEnvironment));
  failed("exec");
  ::_exit(99);
}

// The child's last word before its exec: nothing (its end is closed by the exec)
// or a Report.
Status awaitExec(FdView report, const char* who, std::string* step) {
  pollfd p{report.get(), POLLIN, 0};
  int n;
  do n = ::poll(&p, 1, kStartMsMax);
  while (n < 0 && errno == EINTR);
  if (n == 0)
    return base::fail(Code::deadlineExceeded,
                      fmt::format("{} did not start within {} ms", who, kStartMsMax));
  Report r{};
  ssize_t got = ::read(report.get(), &r, sizeof r);
  if (got == 0) return Unit{};
  *step = fmt::format("{}: {}", who, got == sizeof r ? r.step : "start");
  return failSys(got == sizeof r ? r.error : EPROTO, r.step[0] ? r.step : "start", who);
}

Status writeMaps(pid_t pid, uint32_t base_id) {
  std::string map = fmt::format("0 {} {}", base_id, kUidsPerRange);
  MAYFLY_CHECK(base::writeSmallFile({}, fmt::format("/proc/{}/uid_map", pid), map));
  return base::writeSmallFile({}, fmt::format("/proc/{}/gid_map", pid), map);
}

Result<Child> startChild(const ChildPlan& plan, const char* who, std::string* step) {
  MAYFLY_TRY(base::Pair channel, base::makeSeqpacketPair());
  MAYFLY_TRY(base::Pipe sync, base::makePipe());
  MAYFLY_TRY(base::Pipe report, base::makePipe());
  MAYFLY_TRY(Fd null, base::openAt({}, "/dev/null", O_RDWR));
  int pidfd = -1;
  clone_args args{};
  args.flags = plan.flags | CLONE_PIDFD | CLONE_INTO_CGROUP;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.cgroup = static_cast<uint64_t>(plan.cgroup.get());
  if (plan.pid != 0) {
    args.set_tid = reinterpret_cast<uint64_t>(&plan.pid);
    args.set_tid_size = 1;
  }
  long pid = ::syscall(SYS_clone3, &args, sizeof args);
  if (pid == 0)
    runChild(plan, channel.theirs.get(), sync.read.get(), report.write.get(), null.get());
  if (pid < 0) {
    *step = fmt::format("{}: clone3", who);
    return failSys(errno, "clone3", who);
  }
  Child child{Fd(pidfd), std::move(channel.ours)};
  sync.read.reset();
  report.write.reset();
  auto started = [&]() -> Status {
    if (plan.map_uid_base != 0)
      if (auto s = writeMaps(static_cast<pid_t>(pid), plan.map_uid_base); !s) {
        *step = fmt::format("{}: id maps", who);
        return s;
      }
    if (::write(sync.write.get(), "g", 1) != 1) return failSys(errno, "write", "start signal");
    return awaitExec(report.read.view(), who, step);
  }();
  if (started) {
    MAYFLY_CHECK(base::setNonblocking(child.channel.view()));
    return child;
  }
  ::syscall(SYS_pidfd_send_signal, child.pidfd.get(), SIGKILL, nullptr, 0);
  siginfo_t info;
  ::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(child.pidfd.get()), &info,
           WEXITED | __WALL);
  return base::fail(std::move(started).error());
}

// In pid 1's place: the image becomes the root, with /dev and a whole /proc of
// its own (a box may mount a /proc only where one is fully visible).
int enterImage(const std::string& image, const char* devices, const char** step) {
#define DO(name, expr) \
  *step = name;        \
  if ((expr) != 0) return errno
  std::string dev = image + "/dev", proc = image + "/proc";
  DO("ids", ::setresgid(0, 0, 0));
  DO("ids", ::setresuid(0, 0, 0));
  DO("bind image", ::mount(image.c_str(), image.c_str(), nullptr, MS_BIND | MS_REC, nullptr));
  DO("bind dev", ::mount(devices, dev.c_str(), nullptr, MS_BIND | MS_REC, nullptr));
  DO("mount proc",
     ::mount("proc", proc.c_str(), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr));
  DO("chdir image", ::chdir(image.c_str()));
  DO("pivot_root", static_cast<int>(::syscall(SYS_pivot_root, ".", ".")));
  DO("detach old root", ::umount2(".", MNT_DETACH));
  DO("chdir", ::chdir("/"));
  DO("hostname", ::sethostname("mayfly", 6));
#undef DO
  return 0;
}

int enterTemplate(int pid1, const char** step) {
  *step = "setns";
  if (::setns(pid1, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) != 0)
    return errno;
  return 0;
}

std::vector<int> numbers(const std::vector<Fd>& fds) {
  std::vector<int> list;
  for (const Fd& fd : fds) list.push_back(fd.get());
  return list;
}

Status makeCgroups(const CgroupTree& tree, const Request& request, Template& t) {
  std::string name = fmt::format("t{}", t.key);
  MAYFLY_TRY(t.cgroup, CgroupSet::create(tree, name));
  MAYFLY_CHECK(t.cgroup.enableChildren());
  MAYFLY_CHECK(t.cgroup.delegate(t.uid_base));
  MAYFLY_TRY(t.maker_cgroup, CgroupSet::create(tree, name + "/maker"));
  MAYFLY_TRY(t.zygote_cgroup, CgroupSet::create(tree, name + "/zygote"));
  MAYFLY_CHECK(t.maker_cgroup.setProcesses(kHelperProcessesMax));
  MAYFLY_CHECK(t.zygote_cgroup.setProcesses(kHelperProcessesMax));
  t.zygote_memory_bytes = request.limits.memory_bytes;
  return t.zygote_cgroup.setMemory(t.zygote_memory_bytes);
}

Status startProcesses(const Room& room, const Request& request, FdView seccomp, FdView log,
                      Template& t, std::string* step) {
  MAYFLY_TRY(auto maker_tasks, t.maker_cgroup.openTasks());
  MAYFLY_TRY(auto zygote_tasks, t.zygote_cgroup.openTasks());
  ChildPlan pid1;
  pid1.flags =
      CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
  MAYFLY_TRY(Fd maker_dir, t.maker_cgroup.openV2());
  MAYFLY_TRY(Fd zygote_dir, t.zygote_cgroup.openV2());
  pid1.cgroup = maker_dir.view();
  pid1.tasks = numbers(maker_tasks);
  pid1.log = log;
  pid1.argv = {kMakerPath, "pid1", nullptr};
  pid1.map_uid_base = t.uid_base;
  std::string image = t.imagePath();
  const char* devices = t.ptys != 0 ? kDevices : kDevicesWithoutTerminals;
  pid1.enter = [&](const char** s) { return enterImage(image, devices, s); };
  MAYFLY_TRY(Child p, startChild(pid1, "pid 1", step));
  t.pid1 = std::move(p.pidfd);
  t.pid1_channel = std::move(p.channel);

  // Children go into the template's pid namespace while this is set.
  if (::setns(t.pid1.get(), CLONE_NEWPID) != 0)
    return failSys(errno, "setns", "the template's pid namespace");
  auto rest = [&]() -> Status {
    ChildPlan plan;
    plan.enter = [&](const char** s) { return enterTemplate(t.pid1.get(), s); };
    plan.log = log;
    plan.cgroup = maker_dir.view();
    plan.tasks = numbers(maker_tasks);
    plan.argv = {kMakerPath, "maker", nullptr};
    MAYFLY_TRY(Child m, startChild(plan, "maker", step));
    t.maker = std::move(m.pidfd);
    t.maker_channel = std::move(m.channel);
    plan.cgroup = zygote_dir.view();
    plan.tasks = numbers(zygote_tasks);
    plan.pid = kZygotePid;
    plan.seccomp = seccomp;
    plan.argv.clear();
    for (const auto& arg : request.zygote)
      if (arg[0] != 0) plan.argv.push_back(arg);
    plan.argv.push_back(nullptr);
    MAYFLY_TRY(Child z, startChild(plan, "zygote", step));
    t.zygote = std::move(z.pidfd);
    t.zygote_channel = std::move(z.channel);
    return Unit{};
  }();
  if (::setns(room.own_pid_ns.get(), CLONE_NEWPID) != 0)
    ::abort();  // every later child would be misplaced
  return rest;
}

void killAndReap(Fd& pidfd) {
  if (!pidfd) return;
  signalKill(pidfd);
  pollfd p{pidfd.get(), POLLIN, 0};
  int n;
  do n = ::poll(&p, 1, static_cast<int>(kReapMsMax));
  while (n < 0 && errno == EINTR);
  siginfo_t info;
  ::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd.get()), &info,
           WEXITED | WNOHANG | __WALL);
  pidfd.reset();
}

}  // namespace

UidPairs::UidPairs() {
  for (uint32_t id = 2; id + 1 < kUidsPerRange; id += 2)
    free_.push_back(id);  // 0 is the template's root
}

bool UidPairs::take(uint32_t* first) {
  if (free_.empty()) return false;
  *first = free_.front();
  free_.pop_front();
  return true;
}

void UidPairs::give(uint32_t first) { free_.push_back(first); }

Result<std::unique_ptr<Template>> publishTemplate(const Room& room, const CgroupTree& tree,
                                                  const Request& request, uint32_t key,
                                                  uint32_t slot, uint32_t uid_base, FdView seccomp,
                                                  FdView log, std::string* step) {
  auto t = std::make_unique<Template>();
  t->id = request.zygote_id;
  t->key = key;
  t->slot = slot;
  t->uid_base = uid_base;
  t->loopback = (request.flags & kLoopback) != 0;
  t->ptys = request.ptys;
  *step = "image";
  (void)::mkdir(t->imagePath().c_str(), 0755);
  MAYFLY_TRY(
      t->image_mount,
      mountImage(room, std::string(request.digest, strnlen(request.digest, 64)), t->imagePath()));
  *step = "cgroups";
  auto made = makeCgroups(tree, request, *t);
  if (made) {
    *step = "processes";
    made = startProcesses(room, request, seccomp, log, *t, step);
  }
  if (made) return t;
  killTemplate(*t, true);
  killAndReap(t->zygote);
  killAndReap(t->maker);
  killAndReap(t->pid1);
  // A cgroup stays busy for a moment after its last process was reaped.
  for (int ms = 0; ms < kRemoveMsMax; ++ms) {
    if (auto removed = removeTemplate(*t); removed || removed.error().sys != EBUSY) break;
    ::poll(nullptr, 0, 1);
  }
  return base::fail(std::move(made).error());
}

bool isServing(const Template& t) {
  if (t.retiring || !t.pid1 || !t.maker || !t.zygote) return false;
  // A process that dies closes its channel before its pidfd tells its end.
  pollfd ended[] = {{t.pid1.get(), POLLIN, 0},
                    {t.maker.get(), POLLIN, 0},
                    {t.zygote.get(), POLLIN, 0},
                    {t.maker_channel.get(), 0, 0},
                    {t.zygote_channel.get(), 0, 0}};
  return ::poll(ended, std::size(ended), 0) == 0;
}

Status fitZygoteCap(Template& t) {
  if (t.boxes <= t.cap_boxes) return Unit{};
  const uint32_t boxes = t.boxes + kCapBoxesStep - t.boxes % kCapBoxesStep;
  MAYFLY_CHECK(t.zygote_cgroup.setMemory(t.zygote_memory_bytes + boxes * kForkBytesMax));
  t.cap_boxes = boxes;
  return Unit{};
}

void killTemplate(Template& t, bool pid1) {
  if (pid1) signalKill(t.pid1);
  signalKill(t.zygote);
  signalKill(t.maker);
  t.zygote_channel.reset();
  t.maker_channel.reset();
}

Status removeTemplate(Template& t) {
  t.pid1_channel.reset();
  (void)::umount2(t.imagePath().c_str(), MNT_DETACH);
  MAYFLY_CHECK(t.zygote_cgroup.remove());
  MAYFLY_CHECK(t.maker_cgroup.remove());
  return t.cgroup.remove();
}

}  // namespace mayfly::spawner
