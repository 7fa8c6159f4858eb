#include "spawner/zygote.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
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

constexpr uint64_t kForkBytesMax = 512 << 10;    // the kernel's memory for one clone
constexpr uint32_t kCapBoxesStep = 64;           // so that the zygote's cap is seldom written
constexpr uint32_t kHelperProcessesMax = 4'096;  // on v1 each box counts here until it is moved
constexpr uint32_t kHelperCpuMilli = 1'500;      // of the maker, and of the zygote: one thread each
constexpr char kMakerPath[] = "/usr/lib/mayfly/mayfly-maker";
constexpr char kRestorerPath[] = "/usr/lib/mayfly/mayfly-restorer";
// The zygote's pid in its namespace: large, so that its value occurs exactly once in libc's thread
// block, and is never the pid of a young process in a box.
constexpr pid_t kZygotePid = 23'129;

// A child's message when a step before its exec fails; success has no message.
struct Report {
  int error;
  char step[28];
};

// The descriptors that a child gets, in this order from kGivenFd on.
constexpr int kGivenFd = 3;
enum Given { kSync, kReport, kNull, kLog, kChannel, kSeccomp, kSnapshot, kPid1, kTasks };

struct ChildPlan {
  uint64_t flags = 0;     // namespaces
  FdView cgroup;          // v2 folder, joined at birth
  std::vector<Fd> tasks;  // v1 `tasks` files, joined first
  pid_t pid = 0;          // chosen pid in its namespace, 0: any
  FdView seccomp;         // becomes fd 4
  FdView snapshot;        // becomes fd 5
  FdView log;             // becomes stdout and stderr
  FdView pid1;            // the process whose namespaces it enters
  std::vector<const char*> argv;
  uint32_t map_uid_base = 0;  // not 0: a new user namespace, mapped by the spawner
  std::function<int(const char** step)> enter;  // in the child: 0 or errno
};

// As in a task's environment, so that a clone seldom has to change it.
const char* const kEnvironment[] = {
    "HOME=/task", "LANG=C.UTF-8", "LOGNAME=task",     "PATH=/usr/local/bin:/usr/bin:/bin",
    "TZ=UTC",     "USER=task",    "PYTHONHASHSEED=0", nullptr};

// First closes every descriptor but the given ones: a child that hangs holds no box's descriptor.
bool keepGiven(const std::vector<int>& given) {
  std::vector<int> high;
  for (int fd : given) {
    high.push_back(::fcntl(fd, F_DUPFD_CLOEXEC, 64));
    if (high.back() < 0) return false;
  }
  int to = kGivenFd;
  for (int fd : high)
    if (::dup3(fd, to++, O_CLOEXEC) < 0) return false;
  return ::syscall(SYS_close_range, static_cast<unsigned>(to), ~0u, 0u) == 0;
}

[[noreturn]] void runChild(const ChildPlan& plan, const std::vector<int>& given) {
  if (!keepGiven(given)) ::_exit(97);
  auto fdOf = [](int which) { return kGivenFd + which; };
  const int sync = fdOf(kSync);
  int report = fdOf(kReport);
  auto failed = [&](const char* step) {
    Report r{errno, {}};
    strncpy(r.step, step, sizeof r.step - 1);
    (void)!::write(report, &r, sizeof r);
    ::_exit(99);
  };
  char byte;
  if (::read(sync, &byte, 1) != 1) ::_exit(98);  // the spawner gave up
  for (size_t i = 0; i < plan.tasks.size(); ++i)
    if (::write(fdOf(kTasks + static_cast<int>(i)), "0", 1) != 1) failed("join cgroups");
  // When the host's memory is short, tasks go first, whatever the daemon's own score is. Boxes
  // inherit it.
  if (!base::writeSmallFile({}, "/proc/self/oom_score_adj", "1000")) failed("memory order");
  const char* step = "enter";
  if (int e = plan.enter(&step); e != 0) {
    errno = e;
    failed(step);
  }
  if (::setgroups(0, nullptr) != 0 || ::setresgid(0, 0, 0) != 0 || ::setresuid(0, 0, 0) != 0)
    failed("ids");
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) failed("parent-death signal");
  if (::setsid() < 0) failed("setsid");
  // With it, the process could raise the ceilings of its namespaces.
  if (::prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0) != 0) failed("capabilities");
  rlimit core{1, 1};
  if (::setrlimit(RLIMIT_CORE, &core) != 0) failed("rlimit core");
  ::umask(022);
  // Lift all above the targets first, so that no dup2 overwrites a source.
  const int from[] = {fdOf(kNull),    fdOf(kLog),      fdOf(kLog),   fdOf(kChannel),
                      fdOf(kSeccomp), fdOf(kSnapshot), fdOf(kReport)};
  constexpr int kCount = std::size(from);
  int high[kCount];
  for (int i = 0; i < kCount; ++i)
    if ((high[i] = ::fcntl(from[i], F_DUPFD, 64)) < 0) failed("descriptors");
  for (int i = 0; i < kCount; ++i)
    if (::dup2(high[i], i) != i) failed("descriptors");
  report = kCount - 1;
  if (::fcntl(report, F_SETFD, FD_CLOEXEC) != 0) failed("descriptors");
  ::syscall(SYS_close_range, static_cast<unsigned>(kCount), ~0u, 0u);
  // The spawner's ignored signals are its own affair.
  for (int signal = 1; signal < 32; ++signal) ::signal(signal, SIG_DFL);
  if (!plan.seccomp) ::close(wire::kSeccompFd);
  if (!plan.snapshot) ::close(wire::kSnapshotFd);
  ::execve(plan.argv[0], const_cast<char* const*>(plan.argv.data()),
           const_cast<char* const*>(kEnvironment));
  failed("exec");
  ::_exit(99);
}

Status writeMaps(pid_t pid, uint32_t base_id) {
  std::string map = fmt::format("0 {} {}", base_id, wire::kUidsPerRange);
  MAYFLY_CHECK(base::writeSmallFile({}, fmt::format("/proc/{}/uid_map", pid), map));
  return base::writeSmallFile({}, fmt::format("/proc/{}/gid_map", pid), map);
}

// *process is the child as soon as it exists. The child waits for its start signal until all steps
// have succeeded.
Status startChild(const ChildPlan& plan, const char* who, Fd* process, Fd* channel, Fd* report,
                  std::string* step) {
  MAYFLY_TRY(base::Pair pair, base::makeSeqpacketPair());
  MAYFLY_CHECK(base::setNonblocking(pair.ours.view()));
  MAYFLY_TRY(base::Pipe sync, base::makePipe());
  MAYFLY_TRY(base::Pipe said, base::makePipe());
  MAYFLY_CHECK(base::setNonblocking(said.read.view()));
  MAYFLY_TRY(Fd null, base::openAt({}, "/dev/null", O_RDWR));
  auto orNull = [&](FdView fd) { return fd ? fd.get() : null.get(); };
  std::vector<int> given{sync.read.get(),       said.write.get(),  null.get(),
                         orNull(plan.log),      pair.theirs.get(), orNull(plan.seccomp),
                         orNull(plan.snapshot), orNull(plan.pid1)};
  for (const Fd& fd : plan.tasks) given.push_back(fd.get());
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
  if (pid == 0) runChild(plan, given);
  if (pid < 0) {
    *step = fmt::format("{}: clone3", who);
    return failSys(errno, "clone3", who);
  }
  *process = Fd(pidfd);
  *channel = std::move(pair.ours);
  *report = std::move(said.read);
  if (plan.map_uid_base != 0) {
    *step = fmt::format("{}: id maps", who);
    MAYFLY_CHECK(writeMaps(static_cast<pid_t>(pid), plan.map_uid_base));
  }
  *step = who;
  if (::write(sync.write.get(), "g", 1) != 1) return failSys(errno, "write", "start signal");
  return Unit{};
}

// A zygote and its boxes together may have half of the host's namespaces of each kind, and the
// kernel counts all of them for the host's root, too. So even a zygote that is taken over leaves
// the rest.
struct Ceiling {
  std::string file, value;
};
std::vector<Ceiling> namespaceCeilings() {
  std::vector<Ceiling> ceilings;
  for (const char* kind : {"user", "pid", "uts", "ipc", "cgroup", "net", "mnt"}) {
    const std::string file = fmt::format("/sys/user/max_{}_namespaces", kind);
    if (auto of_host = base::readSmallFile({}, "/proc" + file))
      ceilings.push_back({file, std::to_string(::strtoull(of_host->c_str(), nullptr, 10) / 2)});
  }
  return ceilings;
}

// Runs in pid 1. The image becomes the root, with a /dev and a full /proc of its own (a box may
// mount a /proc only where a full one is visible).
int enterImage(const std::string& image, const std::string& devices,
               const std::vector<Ceiling>& ceilings, const char** step) {
#define DO(name, expr) \
  *step = name;        \
  if ((expr) != 0) return errno
  std::string dev = image + "/dev", proc = image + "/proc";
  DO("ids", ::setresgid(0, 0, 0));
  DO("ids", ::setresuid(0, 0, 0));
  DO("network", ::unshare(CLONE_NEWNET));  // here, because it may wait for others that end
  DO("bind image", ::mount(image.c_str(), image.c_str(), nullptr, MS_BIND | MS_REC, nullptr));
  DO("bind dev", ::mount(devices.c_str(), dev.c_str(), nullptr, MS_BIND, nullptr));
  DO("mount proc",
     ::mount("proc", proc.c_str(), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr));
  for (const Ceiling& c : ceilings) {
    DO("ceilings", base::writeSmallFile({}, proc + c.file, c.value) ? 0 : -1);
  }
  DO("chdir image", ::chdir(image.c_str()));
  DO("pivot_root", static_cast<int>(::syscall(SYS_pivot_root, ".", ".")));
  DO("detach old root", ::umount2(".", MNT_DETACH));
  DO("chdir", ::chdir("/"));
  DO("hostname", ::sethostname("mayfly", 6));
#undef DO
  return 0;
}

int enterNamespaces(const char** step) {
  *step = "setns";
  if (::setns(kGivenFd + kPid1,
              CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) != 0)
    return errno;
  return 0;
}

ChildPlan planOfPid1(const Zygote& z) {
  ChildPlan plan;
  plan.flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS;
  plan.argv = {kMakerPath, "pid1", nullptr};
  plan.map_uid_base = z.uid_base;
  plan.enter = [image = z.imagePath(),
                devices = devicesOf(z.slot, z.ptys != 0 ? Terminals::some : Terminals::none),
                ceilings = namespaceCeilings()](const char** step) {
    return enterImage(image, devices, ceilings, step);
  };
  return plan;
}

// The maker or the zygote.
ChildPlan planOfHelper(const Zygote& z) {
  ChildPlan plan;
  plan.pid1 = z.pid1.view();
  plan.enter = enterNamespaces;
  if (z.stage == ZygoteStage::startingMaker) {
    plan.argv = {kMakerPath, "maker", nullptr};
    return plan;
  }
  plan.pid = kZygotePid;
  plan.seccomp = z.start->seccomp.view();
  plan.snapshot = z.start->snapshot.view();
  // The role is said and never guessed: a restorer that took itself for the one that dumps would
  // start programs in place of clones.
  if (z.made == Zygote::Made::byRestore) {
    plan.argv = {kRestorerPath, "serve", nullptr};
    return plan;
  }
  if (z.made == Zygote::Made::forDump) plan.argv = {kRestorerPath, "dump"};
  for (const auto& arg : z.start->request.zygote)
    if (arg[0] != 0) plan.argv.push_back(arg);
  plan.argv.push_back(nullptr);
  return plan;
}

}  // namespace

UidPairs::UidPairs() {
  for (uint32_t id = 2; id + 1 < wire::kUidsPerRange; id += 2)
    free_.push_back(id);  // 0 is the zygote's root
}

bool UidPairs::take(uint32_t* first) {
  if (free_.empty()) return false;
  *first = free_.front();
  free_.pop_front();
  return true;
}

void UidPairs::give(uint32_t first) { free_.push_back(first); }

const char* nameOfStarted(ZygoteStage stage) {
  return stage == ZygoteStage::startingPid1    ? "pid 1"
         : stage == ZygoteStage::startingMaker ? "maker"
                                               : "zygote";
}

Status makeCgroups(const CgroupTree& tree, Zygote& z) {
  const std::string name = z.name();
  MAYFLY_TRY(z.cgroup, CgroupSet::create(tree, name));
  MAYFLY_CHECK(z.cgroup.enableChildren());
  MAYFLY_CHECK(z.cgroup.delegate(z.uid_base));
  MAYFLY_TRY(z.maker_cgroup, CgroupSet::create(tree, name + "/maker"));
  MAYFLY_TRY(z.zygote_cgroup, CgroupSet::create(tree, name + "/zygote"));
  MAYFLY_CHECK(z.maker_cgroup.setProcesses(kHelperProcessesMax));
  MAYFLY_CHECK(z.zygote_cgroup.setProcesses(kHelperProcessesMax));
  // On v1 the inits and clones that are being made count here as well, until they are moved.
  MAYFLY_CHECK(z.maker_cgroup.setCpu(kHelperCpuMilli));
  MAYFLY_CHECK(z.zygote_cgroup.setCpu(kHelperCpuMilli));
  return z.zygote_cgroup.setMemory(z.memory_bytes);
}

Status startProcess(const Room& room, Zygote& z, std::string* step) {
  const char* who = nameOfStarted(z.stage);
  *step = who;
  const bool of_zygote = z.stage == ZygoteStage::startingZygote;
  const CgroupSet& cgroup = of_zygote ? z.zygote_cgroup : z.maker_cgroup;
  Fd& process = of_zygote ? z.zygote : z.stage == ZygoteStage::startingMaker ? z.maker : z.pid1;
  Fd channel;
  MAYFLY_TRY(Fd folder, cgroup.openV2());
  ChildPlan plan = z.stage == ZygoteStage::startingPid1 ? planOfPid1(z) : planOfHelper(z);
  MAYFLY_TRY(plan.tasks, cgroup.openTasks());
  plan.cgroup = folder.view();
  plan.log = z.start->log.view();
  // While this is set, children start in the zygote's pid namespace.
  if (z.pid1 && ::setns(z.pid1.get(), CLONE_NEWPID) != 0)
    return failSys(errno, "setns", "the zygote's pid namespace");
  auto started = startChild(plan, who, &process, &channel, &z.start->report, step);
  if (::setns(room.own_pid_ns.get(), CLONE_NEWPID) != 0)
    ::abort();  // every later child would be in the wrong namespace
  if (of_zygote)
    z.source = z.made == Zygote::Made::byRestore
                   ? makeRestoringSource(std::move(channel), z.processes)
                   : makeForkingSource(std::move(channel));
  else
    (z.stage == ZygoteStage::startingMaker ? z.maker_channel : z.pid1_channel) = std::move(channel);
  return started;
}

StartWord readReport(const Zygote& z, Zygote::Failure* failure) {
  Report r{};
  const ssize_t got = ::read(z.start->report.get(), &r, sizeof r);
  if (got == 0) return StartWord::executed;
  if (got < 0 && errno == EAGAIN) return StartWord::none;
  const char* who = nameOfStarted(z.stage);
  r.step[sizeof r.step - 1] = 0;
  *failure = got == sizeof r ? Zygote::Failure{fmt::format("{}: {}", who, r.step),
                                               base::sysError(r.error, r.step, who)}
                             : Zygote::Failure{who, base::sysError(EPROTO, "start", who)};
  return StartWord::failed;
}

bool isServing(const Zygote& z) {
  if (z.stage != ZygoteStage::serving || !z.pid1 || !z.maker || !z.zygote || !z.source->open())
    return false;
  // A dying process closes its channel before its pidfd reports its end.
  pollfd ended[] = {{z.pid1.get(), POLLIN, 0},
                    {z.maker.get(), POLLIN, 0},
                    {z.zygote.get(), POLLIN, 0},
                    {z.maker_channel.get(), 0, 0}};
  return ::poll(ended, std::size(ended), 0) == 0;
}

Status fitZygoteCap(Zygote& z) {
  if (z.boxes <= z.cap_boxes) return Unit{};
  const uint32_t boxes = z.boxes + kCapBoxesStep - z.boxes % kCapBoxesStep;
  MAYFLY_CHECK(z.zygote_cgroup.setMemory(z.memory_bytes + boxes * kForkBytesMax));
  z.cap_boxes = boxes;
  return Unit{};
}

void killProcesses(Zygote& z, Kill what) {
  if (what == Kill::all) signalKill(z.pid1);
  signalKill(z.zygote);
  signalKill(z.maker);
  if (z.source) z.source->close();
  z.maker_channel.reset();
}

Status removeCgroups(Zygote& z) {
  MAYFLY_CHECK(z.zygote_cgroup.remove());
  MAYFLY_CHECK(z.maker_cgroup.remove());
  return z.cgroup.remove();
}

}  // namespace mayfly::spawner
