#include "spawner_world.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>

#include "spawner/cgroup.h"
#include "spawner/collect.h"
#include "spawner/room.h"

// The real file, but for the one function that makes processes in namespaces.
#define startProcess startRealProcess
#include "spawner/zygote.cc"
#undef startProcess

// The owner of a box's pipes is root's to give.
extern "C" int fchown(int, uid_t, gid_t) noexcept { return 0; }

namespace mayfly::fuzz {

World& world() {
  static World one;
  return one;
}

namespace {

long call(long number, long first, long second) {
  long result = number;
  asm volatile("syscall" : "+a"(result) : "D"(first), "S"(second) : "rcx", "r11", "memory");
  return result;
}
int waiting(void*) {
  call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
  for (;;) call(SYS_pause, 0, 0);
}
int ending(void*) { return static_cast<int>(call(SYS_exit, 0, 0)); }

}  // namespace

// It shares this process's memory, which makes it as cheap as a thread, and touches none of it.
Process startProcess(Does what) {
  constexpr size_t kStackBytes = 4096;
  auto& stack = world().stacks.emplace_back(new char[kStackBytes]);
  int pidfd = -1;
  Process made;
  (void)::clone(what == Does::wait ? waiting : ending, stack.get() + kStackBytes - 64,
                CLONE_VM | CLONE_PIDFD | SIGCHLD, nullptr, &pidfd);
  made.pidfd = base::Fd(pidfd);
  made.number = world().children.size();
  world().children.emplace_back(::fcntl(pidfd, F_DUPFD_CLOEXEC, 3));
  return made;
}

void killProcess(size_t number) {
  ::syscall(SYS_pidfd_send_signal, world().children[number].get(), SIGKILL, nullptr, 0);
}

}  // namespace mayfly::fuzz

namespace mayfly::spawner {

namespace {

Fd nothing() { return Fd(::open("/dev/null", O_RDWR | O_CLOEXEC)); }
const Hierarchy kHierarchy;

}  // namespace

// --- processes ----------------------------------------------------------------------------

Status startProcess(const Room&, Zygote& z, std::string*) {
  auto made = fuzz::startProcess(fuzz::Does::wait);
  MAYFLY_TRY(base::Pair channel, base::makeSeqpacketPair());
  MAYFLY_CHECK(base::setNonblocking(channel.ours.view()));
  MAYFLY_CHECK(base::setNonblocking(channel.theirs.view()));
  MAYFLY_TRY(base::Pipe report, base::makePipe());  // its exec, seen at once
  z.start->report = std::move(report.read);
  fuzz::ZygoteEnds& ends = fuzz::world().zygotes[z.key];
  if (z.stage == ZygoteStage::startingPid1) {
    z.pid1 = std::move(made.pidfd), z.pid1_channel = std::move(channel.ours);
    ends.pid1 = std::move(channel.theirs), ends.pid1_process = made.number;
  } else if (z.stage == ZygoteStage::startingMaker) {
    z.maker = std::move(made.pidfd), z.maker_channel = std::move(channel.ours);
    ends.maker = std::move(channel.theirs), ends.maker_process = made.number;
  } else {
    z.zygote = std::move(made.pidfd), z.source = makeForkingSource(std::move(channel.ours));
    ends.source = std::move(channel.theirs), ends.source_process = made.number;
  }
  return Unit{};
}

// --- cgroups --------------------------------------------------------------------------------

Result<CgroupTree> CgroupTree::open(const std::string&) { return CgroupTree(); }
Result<Fd> CgroupTree::enter() { return nothing(); }
std::string CgroupTree::describe() const { return "none"; }
void CgroupTree::remove() {}

const Hierarchy& CgroupSet::find(Of) const { return kHierarchy; }
Result<CgroupSet> CgroupSet::create(const CgroupTree&, const std::string& name) {
  CgroupSet set;
  set.name_ = name;
  return set;
}
Status CgroupSet::delegate(uint32_t) { return Unit{}; }
Status CgroupSet::enableChildren() { return Unit{}; }
Status CgroupSet::setMemory(uint64_t) { return Unit{}; }
Status CgroupSet::setProcesses(uint32_t) { return Unit{}; }
Status CgroupSet::setCpu(uint32_t) { return Unit{}; }
Result<std::vector<Fd>> CgroupSet::openTasks() const {
  std::vector<Fd> tasks;
  tasks.push_back(nothing());
  return tasks;
}
Result<Fd> CgroupSet::openV2() const { return nothing(); }
uint64_t CgroupSet::oomKills() const { return 0; }
Status CgroupSet::remove() {
  made_ = 0;
  return Unit{};
}

// t<key>/b<id>
Result<BoxCgroups> BoxCgroups::create(const CgroupTree& tree, const std::string& name, uint32_t) {
  BoxCgroups box;
  MAYFLY_TRY(box.box_, CgroupSet::create(tree, name));
  const size_t at = name.rfind('b') + 1;  // base_ keeps the id, because nothing is counted here
  std::from_chars(name.data() + at, name.data() + name.size(), box.base_.user_ns);
  return box;
}
Status BoxCgroups::setCaps(const base::Limits&) { return Unit{}; }
Status BoxCgroups::changeCaps(const base::Limits&, const base::Limits&) { return Unit{}; }
void BoxCgroups::restartPeak() {}
void BoxCgroups::restartCpu() {}
void BoxCgroups::undoRestartCpu() {}
void BoxCgroups::restartCpuBefore(uint64_t) {}
Status BoxCgroups::kill() {
  for (size_t number : fuzz::world().of_box[base_.user_ns]) fuzz::killProcess(number);
  return Unit{};
}
Status BoxCgroups::liftCpu() { return Unit{}; }
Result<bool> BoxCgroups::populated() const { return false; }
void BoxCgroups::read(wire::Counters*) const {}
uint64_t BoxCgroups::memoryBytes() const { return 0; }
Result<Fd> BoxCgroups::watchMemory() const {
  Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  fuzz::world().cap_events[base_.user_ns] = Fd(::fcntl(event.get(), F_DUPFD_CLOEXEC, 3));
  return event;
}
Result<Fd> BoxCgroups::watchProcesses() const { return Fd(); }
Status BoxCgroups::remove() {
  uint32_t& busy = fuzz::world().busy;
  if (busy > 0) {
    --busy;
    return base::failSys(EBUSY, "rmdir", "a cgroup");
  }
  fuzz::world().cap_events.erase(base_.user_ns);
  return box_.remove();
}

// --- images and disks ------------------------------------------------------------------------

std::string devicesOf(uint32_t, Terminals) { return "/devices"; }
Result<Room> enterRoom(const std::string&) { return Room{}; }
Status dropToLeast() { return Unit{}; }
std::string describeCapabilities() { return "none"; }
Result<Mounting> startMount(const Room&, const std::string&, const std::string&) {
  return Mounting{fuzz::startProcess(fuzz::Does::end).pidfd, nothing()};
}
Result<ImageMount> readMount(base::FdView) { return ImageMount::file; }
Result<Fd> startUnmount(const std::string&) { return fuzz::startProcess(fuzz::Does::end).pidfd; }
Result<Fd> makeDisk(const base::Limits&, uint32_t) { return base::makeMemfd("disk"); }
Status resizeDisk(base::FdView, const base::Limits&) { return Unit{}; }
Result<Fd> startCollector(base::FdView, base::FdView, uint32_t, const base::Limits&) {
  return fuzz::startProcess(fuzz::Does::end).pidfd;
}
Result<Fd> startCloser(Fd) { return fuzz::startProcess(fuzz::Does::end).pidfd; }

}  // namespace mayfly::spawner
