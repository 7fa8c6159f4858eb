// The spawner's part for boxes: their making, their caps, their end and its proof.
#include <errno.h>
#include <fmt/format.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "spawner/child.h"
#include "spawner/collect.h"
#include "spawner/spawner.h"

namespace mayfly::spawner {

using base::BoxId;
using base::Code;
using base::failSys;
using base::monotonicNs;
using base::Status;
using base::Unit;

namespace {

constexpr int kZygoteEndMsMax = 20;       // from the end of its channel to its own
constexpr uint64_t kRemoveMsMax = 2'000;  // removal of cgroups, before the box is told as stuck

}  // namespace

// --- making a box ------------------------------------------------------------

void Spawner::make(const Request& request) {
  Event failed;
  failed.kind = Kind::boxFailed;
  failed.box = request.box;
  failed.zygote_id = request.zygote_id;
  auto refuse = [&](const char* step, const std::string& text) {
    setText(failed, step, text);
    failed.at_ns = monotonicNs();
    send(failed);
  };
  Template* owner = nullptr;
  for (auto& [key, t] : templates_)
    if (t->id == request.zygote_id && t->ready && !t->retiring) owner = t.get();
  if (owner == nullptr) {
    failed.again = 1;
    return refuse("template", "the template is not ready");
  }
  if (boxes_.count(request.box) != 0) return refuse("request", "the box's id is in use");
  auto box = std::make_unique<Box>();
  box->id = request.box;
  box->owner = owner;
  box->limits = request.limits;
  box->rehearse = (request.flags & kRehearse) != 0;
  box->stock = (request.flags & kStock) != 0;
  box->deadline_ns = 0;
  if (!owner->uids.take(&box->uid_first))
    return refuse("uids", "every uid of the template is in use");
  ++owner->boxes;
  Box& b = *box;
  boxes_[b.id] = std::move(box);
  if (auto s = prepareBox(b); !s) failBox(b, "prepare", s.error());
}

// The init is asked for first. What only the clone needs is made while the maker
// works: its answer is read after this.
Status Spawner::prepareBox(Box& box) {
  Template& t = *box.owner;
  MAYFLY_TRY(box.cgroups,
             BoxCgroups::create(tree_, fmt::format("t{}/b{}", t.key, box.id), t.uid_base));
  MAYFLY_CHECK(askInit(box));
  MAYFLY_CHECK(box.cgroups.setCaps(box.limits));
  MAYFLY_TRY(box.memory_watch, box.cgroups.watchMemory());
  MAYFLY_TRY(box.process_watch, box.cgroups.watchProcesses());
  watch(box.memory_watch.get(), box.cgroups.memoryWatchIsEventfd() ? EPOLLIN : EPOLLPRI,
        Source::memoryCap, box.id);
  if (box.process_watch) watch(box.process_watch.get(), EPOLLPRI, Source::processCap, box.id);
  return makeChannels(box);
}

Status Spawner::askInit(Box& box) {
  Template& t = *box.owner;
  MAYFLY_TRY(base::Pair status, base::makeSeqpacketPair());
  MAYFLY_CHECK(base::setNonblocking(status.ours.view()));
  box.init_status = std::move(status.ours);
  watch(box.init_status.get(), EPOLLIN, Source::initStatus, box.id);
  MakeInit make;
  make.box = box.id;
  make.uid_user = box.uid_first;
  make.uid_root = box.uid_first + 1;
  make.loopback = t.loopback ? 1 : 0;
  make.ptys = t.ptys;
  MAYFLY_TRY(box.disk, makeDisk(box.limits, t.uid_base + make.uid_root));
  MAYFLY_TRY(base::Pipe go, base::makePipe());
  box.go_theirs = std::move(go.read);
  box.go = std::move(go.write);
  MAYFLY_TRY(Fd cgroup, box.cgroups.openInitDir());
  int fds[] = {status.theirs.get(), cgroup.get(), box.disk.get(), box.go.get()};
  MAYFLY_CHECK(base::sendMessage(t.maker_channel.view(), base::bytesOf(make), fds));
  box.init_asked = true;
  return Unit{};
}

// The control socket and the three pipes between mayflyd and the clone.
Status Spawner::makeChannels(Box& box) {
  MAYFLY_TRY(base::Pair control, base::makeSeqpacketPair());
  MAYFLY_TRY(base::Pipe in, base::makePipe());
  MAYFLY_TRY(base::Pipe out, base::makePipe());
  MAYFLY_TRY(base::Pipe err, base::makePipe());
  box.our_fds[0] = std::move(control.ours);
  box.their_fds[0] = std::move(control.theirs);
  box.our_fds[1] = std::move(in.write);
  box.their_fds[1] = std::move(in.read);
  box.our_fds[2] = std::move(out.read);
  box.their_fds[2] = std::move(out.write);
  box.our_fds[3] = std::move(err.read);
  box.their_fds[3] = std::move(err.write);
  // The task may open /dev/stdout again: the pipes are its own.
  uint32_t uid = box.owner->uid_base + box.uid_first;
  for (int i = 1; i <= 3; ++i)
    if (::fchown(box.their_fds[i].get(), uid, uid) != 0)
      return failSys(errno, "fchown", "a pipe of the box");
  return Unit{};
}

void Spawner::onInitStatus(Box& box) {
  InitReady ready;
  auto got = base::receiveMessage(box.init_status.view(), base::writableBytesOf(ready));
  if (!got && got.error().sys == EAGAIN) return;
  unwatch(box.init_status);
  if (box.ending || box.ready) return;  // the init's end is told by its pidfd
  if (!got || faultOf(ready, got->bytes, got->fds) != nullptr) {
    box.result.again = 1;
    return failBox(box, "init",
                   base::Error{Code::internal, "the init ended before its box stood", {}, 0});
  }
  if (ready.error != 0)
    return failBox(box, fmt::format("box: {}", ready.step),
                   base::sysError(ready.error, ready.step, "the box"));
  box.ready = true;
  box.box_ready_ns = monotonicNs();
  box.stock ? tryStocked(box) : tryMade(box);
}

// Once the init is known: the clone is forked while the init sets its box up.
Status Spawner::askClone(Box& box) {
  Template& t = *box.owner;
  if (t.retiring) return base::fail(Code::unavailable, "the template is being retired");
  MAYFLY_CHECK(fitZygoteCap(t));
  MAYFLY_TRY(auto tasks, box.cgroups.openTasks());
  MakeClone make;
  make.box = box.id;
  make.rehearse = box.rehearse ? 1 : 0;
  make.tasks_fds = static_cast<uint32_t>(tasks.size());
  std::vector<int> fds = {box.init.get()};
  for (const Fd& fd : box.their_fds) fds.push_back(fd.get());
  MAYFLY_TRY(Fd cgroup, box.cgroups.openTaskDir());
  fds.push_back(cgroup.get());
  fds.push_back(box.go_theirs.get());
  for (const Fd& fd : tasks) fds.push_back(fd.get());
  MAYFLY_CHECK(base::sendMessage(t.zygote_channel.view(), base::bytesOf(make), fds));
  box.pid_host = pidOf(box.init);  // while the zygote forks
  box.clone_asked = true;
  box.stage = Stage::waitingClone;
  for (Fd& fd : box.their_fds) fd.reset();
  box.go_theirs.reset();
  return Unit{};
}

void Spawner::tryMade(Box& box) {
  if (!box.ready || !box.clone || box.stage != Stage::waitingClone) return;
  box.stage = Stage::made;
  Event event;
  event.kind = Kind::boxMade;
  event.box = box.id;
  event.zygote_id = box.owner->id;
  event.at_ns = monotonicNs();
  event.box_ready_ns = box.box_ready_ns;
  event.pid_host = box.pid_host;
  std::vector<int> fds;
  for (const Fd& fd : box.our_fds) fds.push_back(fd.get());
  send(event, fds);
  for (Fd& fd : box.our_fds) fd.reset();
  // It may have its task before it is measured while it is parked.
  restartCounters(box);
}

// What the box's making cost is not its task's.
void Spawner::restartCounters(Box& box) {
  box.cgroups.restartPeak();
  box.cgroups.restartCpu();
  box.restarted_ns = monotonicNs();
}

void Spawner::tryStocked(Box& box) {
  if (!box.ready || !box.init || box.stage != Stage::waitingInit) return;
  box.stage = Stage::stocked;
  Event event;
  event.kind = Kind::boxStocked;
  event.box = box.id;
  event.zygote_id = box.owner->id;
  event.at_ns = monotonicNs();
  send(event);
}

// A box that ended meanwhile has told so, or will.
void Spawner::clone(const Request& request) {
  auto found = boxes_.find(request.box);
  if (found == boxes_.end()) return;
  Box& box = *found->second;
  if (box.ending || box.stage != Stage::stocked) return;
  box.stock = false;
  box.rehearse = (request.flags & kRehearse) != 0;
  if (auto asked = askClone(box); !asked) return failAsk(box, asked.error());
  if (auto set = changeCaps(box, request.limits); !set) failBox(box, "caps", set.error());
}

// Of cgroups and disk; the task has not started.
Status Spawner::changeCaps(Box& box, const base::Limits& limits) {
  MAYFLY_CHECK(box.cgroups.changeCaps(box.limits, limits));
  if (box.limits.disk_bytes != limits.disk_bytes || box.limits.disk_inodes != limits.disk_inodes)
    MAYFLY_CHECK(resizeDisk(box.disk.view(), limits));
  box.limits = limits;
  return Unit{};
}

// A zygote that dies closes its channel first. mayflyd hears that the template is gone before
// it asks for the next box in vain.
void Spawner::failAsk(Box& box, const base::Error& error) {
  Template& t = *box.owner;
  const uint32_t key = t.key;
  failBox(box, "ask clone", error);
  if (templates_.count(key) == 0 || t.retiring || isServing(t)) return;
  pollfd ended{t.zygote.get(), POLLIN, 0};
  (void)::poll(&ended, 1, kZygoteEndMsMax);
  onTemplateDeath(t, "zygote");
}

// Nothing of a box that could not be made stays; mayflyd hears of it at the end.
void Spawner::failBox(Box& box, const std::string& step, const base::Error& error) {
  if (box.ending) return;
  box.result.kind = Kind::boxFailed;
  box.result.sys = error.sys;
  setText(box.result, step, error.message);
  beginEnd(box);
}

// --- giving a box its task -------------------------------------------------------

// mayflyd hands the task to the clone meanwhile; it starts only with our byte.
void Spawner::claim(const Request& request) {
  auto found = boxes_.find(request.box);
  if (found == boxes_.end()) return;
  Box& box = *found->second;
  if (box.ending || box.stage != Stage::made || !box.go) return;
  auto ready = [&]() -> Status {
    if ((request.flags & kCapsStand) !=
        0) {  // it may run already, and may have when we looked last
      if (box.restarted_ns > request.claimed_ns) box.cgroups.undoRestartCpu();
      uint64_t now_ns = monotonicNs();
      box.cgroups.restartCpuBefore((now_ns - std::min(now_ns, request.claimed_ns)) * cores_);
      return Unit{};
    }
    MAYFLY_CHECK(changeCaps(box, request.limits));
    restartCounters(box);
    if (::write(box.go.get(), "g", 1) != 1) return failSys(errno, "write", "the clone's pipe");
    return Unit{};
  }();
  box.go.reset();
  if (!ready) sendBoxDied(box, "has no task: its caps can't be set: " + ready.error().message);
}

// --- ending a box ------------------------------------------------------------

void Spawner::end(const Request& request, base::Received& fds) {
  auto found = boxes_.find(request.box);
  if (found == boxes_.end()) return;  // boxFailed or boxGone is on its way
  Box& box = *found->second;
  if (box.ending || box.end_asked) return;
  box.end_asked = true;
  if ((request.flags & kCollect) != 0 && fds.fds == 1) {
    box.spool = std::move(fds.fd[0]);
    box.collect_ms_max = request.collect_ms_max;
    // The clone's box may have been made for another task with the same caps otherwise.
    box.limits.out_files = request.limits.out_files;
    box.limits.out_files_bytes = request.limits.out_files_bytes;
  }
  beginEnd(box);
}

void Spawner::beginEnd(Box& box) {
  box.ending = true;
  ending_.insert(box.id);
  box.stage = Stage::reaping;
  box.deadline_ns = monotonicNs() + kReapMsMax * kMsNs;
  // The watches would fire for what the kill itself causes.
  unwatch(box.memory_watch);
  unwatch(box.process_watch);
  (void)box.cgroups.kill();  // absent only where the box has no cgroup yet
  signalKill(box.init);
  signalKill(box.clone);
  unwatch(box.init_status);
  box.init_status.reset();
  box.go.reset();
  box.go_theirs.reset();
  for (Fd& fd : box.our_fds) fd.reset();
  for (Fd& fd : box.their_fds) fd.reset();
  tryFinishReaping(box);
}

void Spawner::onInitExit(Box& box) {
  Exit exit = reap(box.init);
  if (exit.code == 0) return;
  if (box.ending) return tryFinishReaping(box);
  if (box.stage != Stage::made) {
    box.result.again = exit.code == CLD_KILLED ? 1 : 0;
    return failBox(box, "init",
                   base::Error{Code::internal, "the box's init " + describe(exit), {}, 0});
  }
  sendBoxDied(box, describe(exit));
}

void Spawner::sendBoxDied(const Box& box, const std::string& how) {
  Event event;
  event.kind = Kind::boxDied;
  event.box = box.id;
  event.at_ns = monotonicNs();
  setText(event, "init", "the box's init " + how);
  send(event);
}

void Spawner::onCloneExit(Box& box) {
  Exit exit = reap(box.clone);
  if (exit.code == 0) return;
  box.result.exit_code = exit.code;
  box.result.exit_status = exit.status;
  box.result.clone_exited_ns = monotonicNs();
  if (box.ending) return tryFinishReaping(box);
  // A clone gives up when its init does: the init's own word names the step.
  if (!box.ready && box.init_status) onInitStatus(box);
  if (box.ending) return;
  if (box.stage != Stage::made) {
    box.result.again = exit.code == CLD_KILLED ? 1 : 0;
    return failBox(box, "clone", base::Error{Code::internal, "the clone " + describe(exit), {}, 0});
  }
  // An init that is killed takes the box along, its processes first: that end is not the task's.
  if (exit.code == CLD_KILLED && exit.status == SIGKILL && isDying(box.pid_host))
    return sendBoxDied(box, "was killed");
  Event event;
  event.kind = Kind::cloneExited;
  event.box = box.id;
  event.exit_code = exit.code;
  event.exit_status = exit.status;
  event.at_ns = box.result.clone_exited_ns;
  send(event);
}

void Spawner::onCapEvent(Box& box, Cap cap) {
  uint64_t count = 0;
  if (cap == Cap::memory && box.cgroups.memoryWatchIsEventfd())
    (void)!::read(box.memory_watch.get(), &count, sizeof count);
  else {  // reading the file arms its next event
    char text[512];
    (void)!::pread(cap == Cap::memory ? box.memory_watch.get() : box.process_watch.get(), text,
                   sizeof text, 0);
  }
  if (box.ending || box.stage != Stage::made) return;
  Event event;
  box.cgroups.read(&event.counters);
  bool hit = cap == Cap::memory ? event.counters.oom_kills > 0 || count > 0
                                : event.counters.forks_refused > 0;
  bool& told = box.watches_told[cap == Cap::memory ? 0 : 1];
  if (!hit || told) return;
  told = true;
  event.kind = Kind::capHit;
  event.box = box.id;
  event.cap = cap;
  event.at_ns = monotonicNs();
  send(event);
}

void Spawner::sample(BoxId id) {
  auto found = boxes_.find(id);
  if (found == boxes_.end() || found->second->ending) return;
  Box& box = *found->second;
  Event event;
  event.kind = Kind::sampled;
  event.box = id;
  box.cgroups.read(&event.counters);
  readDisk(box, &event.counters);
  event.at_ns = monotonicNs();
  send(event);
  if (box.stage == Stage::made && box.go) restartCounters(box);  // parked
}

void Spawner::readDisk(const Box& box, Counters* c) const {
  if (!box.disk) return;
  struct statfs fs;
  if (::fstatfs(box.disk.get(), &fs) != 0) return;
  auto block = static_cast<uint64_t>(fs.f_bsize);
  c->disk_bytes = (fs.f_blocks - fs.f_bfree) * block;
  c->disk_bytes_max = fs.f_blocks * block;
  c->disk_inodes = fs.f_files - fs.f_ffree;
  c->disk_inodes_max = fs.f_files;
}

// A maker or zygote may die between its fork and its answer: the child is ours to
// reap, and its box's pid 1 can't end before, but we have no pidfd of it.
void Spawner::reapStrays() {
  for (;;) {
    siginfo_t info{};
    if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) != 0 || info.si_pid == 0)
      return;
    if (isKnown(static_cast<uint32_t>(info.si_pid))) return;  // its own event comes first
    ::waitid(P_PID, static_cast<id_t>(info.si_pid), &info, WEXITED | WNOHANG | __WALL);
  }
}

bool Spawner::isKnown(uint32_t pid) const {
  auto is = [pid](const Fd& process) { return process && pidOf(process) == pid; };
  for (const auto& [id, box] : boxes_)
    if (is(box->init) || is(box->clone) || is(box->collector)) return true;
  for (const auto& [key, t] : templates_)
    if (is(t->pid1) || is(t->maker) || is(t->zygote)) return true;
  return false;
}

// All reaped by us, its parent, and the kernel says that nobody is left.
void Spawner::tryFinishReaping(Box& box) {
  if (box.stage != Stage::reaping && box.stage != Stage::stuck) return;
  if (box.answer_lost) {
    reapStrays();
    box.next_try_ns = monotonicNs() + kMsNs;
  }
  if (box.init_asked || box.clone_asked || box.init || box.clone) return;
  if (box.result.reaped_ns == 0) box.result.reaped_ns = monotonicNs();
  auto populated = box.cgroups.populated();
  if (populated && *populated) {
    box.next_try_ns = monotonicNs() + kMsNs;
    return;
  }
  if (box.answer_lost) reapStrays();  // who ended since
  box.next_try_ns = 0;
  box.result.unpopulated_ns = monotonicNs();
  afterReaped(box);
}

void Spawner::afterReaped(Box& box) {
  if (box.result.kind == Kind::boxFailed) return beginRemove(box);
  box.cgroups.read(&box.result.counters);
  readDisk(box, &box.result.counters);
  box.result.kind = Kind::boxReaped;
  box.result.box = box.id;
  box.result.at_ns = box.result.reaped_ns;
  send(box.result);
  if (!box.spool || !box.disk) return freeDisk(box);
  auto collector = startCollector(box.disk.view(), box.spool.view(),
                                  box.owner->uid_base + box.uid_first, box.limits);
  if (!collector) {
    box.collect_state = CollectState::failed;
    return freeDisk(box);
  }
  box.disk.reset();  // the collector's is the last
  awaitChild(box, std::move(*collector), Stage::collecting, box.collect_ms_max);
}

// Where much lies on the disk, the last to close it frees it for many milliseconds.
void Spawner::freeDisk(Box& box) {
  if (box.disk && box.result.counters.disk_bytes > kFreeBytesMax)
    if (auto closer = startCloser(std::move(box.disk)))
      return awaitChild(box, std::move(*closer), Stage::freeing, kFreeMsMax);
  beginRemove(box);
}

void Spawner::awaitChild(Box& box, Fd child, Stage stage, uint64_t ms_max) {
  box.collector = std::move(child);
  watch(box.collector.get(), EPOLLIN, Source::collector, box.id);
  box.stage = stage;
  box.deadline_ns = monotonicNs() + ms_max * kMsNs;
}

void Spawner::onCollectorExit(Box& box) {
  Exit exit = reap(box.collector);
  if (exit.code == 0) return;
  if (box.stage == Stage::collecting && box.collect_state == CollectState::none)
    box.collect_state =
        exit.code == CLD_EXITED && exit.status == 0 ? CollectState::done : CollectState::failed;
  beginRemove(box);
}

void Spawner::beginRemove(Box& box) {
  box.stage = Stage::removing;
  box.deadline_ns = monotonicNs() + kRemoveMsMax * kMsNs;
  box.disk.reset();
  box.spool.reset();
  box.memory_watch.reset();
  box.process_watch.reset();
  box.result.fds_closed_ns = monotonicNs();
  tryRemove(box);
}

void Spawner::tryRemove(Box& box) {
  if (auto removed = box.cgroups.remove(); !removed) {
    uint64_t pause_ms =
        box.stage == Stage::stuck ? 500 : std::min<uint64_t>(1ull << std::min(box.tries, 5u), 32);
    ++box.tries;
    box.next_try_ns = monotonicNs() + pause_ms * kMsNs;
    return;
  }
  Event& event = box.result;
  if (event.kind == Kind::boxFailed && !isServing(*box.owner)) event.again = 1;
  event.cgroups_gone_ns = event.at_ns = monotonicNs();
  event.box = box.id;
  event.zygote_id = box.owner->id;
  event.collect = box.collect_state;
  event.complete = 1;
  if (event.kind != Kind::boxFailed) {
    event.kind = Kind::boxGone;
    memset(event.text, 0, sizeof event.text);
  }
  send(event);
  dropBox(box.id);
}

// What is not proven in time is told at once, and tried on until it is.
void Spawner::reportStuck(Box& box, const std::string& what) {
  Event event = box.result;
  event.kind = Kind::boxGone;
  event.box = box.id;
  event.at_ns = monotonicNs();
  event.collect = box.collect_state;
  event.complete = 0;
  setText(event, "", what);
  send(event);
}

void Spawner::dropBox(BoxId id) {
  auto it = boxes_.find(id);
  Template& t = *it->second->owner;
  t.uids.give(it->second->uid_first);
  ending_.erase(id);
  boxes_.erase(it);
  --t.boxes;
  tryFinishTemplate(t.key);
}

}  // namespace mayfly::spawner
