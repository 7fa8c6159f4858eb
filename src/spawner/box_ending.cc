// The end of a box: kill, reap, read, collect, free, remove; and the proof of each step.
#include <errno.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "spawner/boxes.h"
#include "spawner/child.h"
#include "spawner/collect.h"

namespace mayfly::spawner {

using base::Fd;
using base::monotonicNs;
using wire::CollectState;
using wire::Event;
using wire::Kind;

namespace {

constexpr uint64_t kRemoveMsMax = 2'000;  // removing cgroups, before the box is reported as stuck
constexpr size_t kChildrenBytesMax = 1 << 20;
constexpr uint64_t kLookMsMax = 50;  // between two looks for a process that nobody has named

bool hasEnded(id_t child) {
  siginfo_t info{};
  return ::waitid(P_PID, child, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0 &&
         info.si_pid != 0;
}

}  // namespace

void Boxes::beginEnd(Box& box, BoxEvent why) {
  const bool has_task = box.machine.state() == BoxState::claimed;
  if (has_task) --claimed_;
  box.machine.on(why);
  if (!box.machine.owed()) awaitNothing(box);
  ending_.insert(box.id);
  box.deadline_ns = inMs(kReapMsMax);
  // The kill itself would trigger the watches.
  poller_.unwatch(box.memory_watch.view());
  poller_.unwatch(box.process_watch.view());
  // A box that has used up its cpu share would otherwise wait for the next period before it dies.
  if (has_task && box.clone) (void)box.cgroups.liftCpu();
  (void)box.cgroups.kill();  // absent only if the box has no cgroup yet
  signalKill(box.init);
  signalKill(box.clone);
  poller_.unwatch(box.init_status.view());
  box.init_status.reset();
  box.go.reset();
  box.go_theirs.reset();
  for (Fd& fd : box.our_fds) fd.reset();
  for (Fd& fd : box.their_fds) fd.reset();
  for (Fd& fd : box.doors) fd.reset();
  tryFinishReaping(box);
}

void Boxes::endAll() {
  std::vector<base::BoxId> ids;
  for (const auto& [id, box] : boxes_) ids.push_back(id);
  for (base::BoxId id : ids)
    if (Box* box = find(id); box != nullptr && !box->machine.ending())
      beginEnd(*box, BoxEvent::end);
    else if (box != nullptr && box->machine.state() == BoxState::collecting)
      signalKill(box->collector);  // nobody will read its spool
}

// Proven when the spawner, the parent, has reaped both and the kernel reports the cgroup as empty.
// An orphaned box has a process that was never reported; its pid 1 can't end before that process,
// which the spawner has to reap.
void Boxes::tryFinishReaping(Box& box) {
  if (!box.machine.reaping()) return;
  const bool orphaned = box.machine.state() == BoxState::orphaned;
  if (orphaned) {
    reap_strays_();
    box.next_try_ns = inMs(pauseMs(box.looks++, kLookMsMax));
  } else if (box.clone_unnamed) {
    reapUnnamed(box);
    box.next_try_ns = inMs(pauseMs(box.looks++, kLookMsMax));
  }
  if (box.machine.owed() || box.init || box.clone) return;
  if (box.result.reaped_ns == 0) box.result.reaped_ns = monotonicNs();
  auto populated = box.cgroups.populated();
  if (populated && *populated) {
    box.next_try_ns = inMs(1);
    return;
  }
  if (orphaned) reap_strays_();  // processes that have ended since
  box.next_try_ns = 0;
  box.result.unpopulated_ns = monotonicNs();
  afterReaped(box);
}

// Takes the ends of processes in the box that nobody has named. Others' are left alone: answers
// about them may be on the way.
void Boxes::reapUnnamed(const Box& box) {
  auto children = base::readSmallFile({}, "/proc/thread-self/children", kChildrenBytesMax);
  if (!children) return reap_strays_();  // a kernel without such lists
  const std::string folder = fmt::format("/t{}/b{}", box.owner->key, box.id);
  const char* at = children->c_str();
  for (char* end = nullptr;; at = end) {
    const auto pid = static_cast<uint32_t>(::strtoul(at, &end, 10));
    if (end == at) return;
    if (!hasEnded(pid)) continue;
    auto cgroups = base::readSmallFile({}, fmt::format("/proc/{}/cgroup", pid));
    const size_t found = cgroups ? cgroups->find(folder) : std::string::npos;
    if (found == std::string::npos) continue;
    const char next = cgroups->c_str()[found + folder.size()];
    if (next >= '0' && next <= '9') continue;  // a box with a longer number
    // Init and clone have events of their own.
    if ((box.init && pidOf(box.init) == pid) || (box.clone && pidOf(box.clone) == pid)) continue;
    siginfo_t info{};
    (void)::waitid(P_PID, pid, &info, WEXITED | WNOHANG | __WALL);
  }
}

void Boxes::afterReaped(Box& box) {
  if (box.result.kind == Kind::boxFailed) return beginRemove(box);
  box.cgroups.read(&box.result.counters);
  readDisk(box, &box.result.counters);
  box.result.kind = Kind::boxReaped;
  box.result.box = box.id;
  box.result.at_ns = box.result.reaped_ns;
  out_.send(box.result);
  if (!box.spool || !box.disk) return freeDisk(box);
  auto collector = startCollector(box.disk.view(), box.spool.view(),
                                  box.owner->uid_base + box.uid_first, box.limits);
  if (!collector) {
    box.collect_state = CollectState::failed;
    return freeDisk(box);
  }
  box.disk.reset();  // the collector's copy is the last
  awaitChild(box, std::move(*collector), BoxEvent::collect, box.collect_ms_max);
}

// If a disk holds much data, the process that closes it last spends many milliseconds on freeing
// it.
void Boxes::freeDisk(Box& box) {
  const wire::Counters& held = box.result.counters;
  if (box.disk && (held.disk_bytes > kFreeBytesMax || held.disk_inodes > kFreeInodesMax))
    if (auto closer = startCloser(std::move(box.disk)))
      return awaitChild(box, std::move(*closer), BoxEvent::free, kFreeMsMax);
  beginRemove(box);
}

void Boxes::awaitChild(Box& box, Fd child, BoxEvent event, uint64_t ms_max) {
  box.collector = std::move(child);
  // If the watch fails, the child's end is seen only when its time is over.
  (void)poller_.watch(box.collector.view(), EPOLLIN, Source::collector, box.id);
  box.machine.on(event);
  box.deadline_ns = inMs(ms_max);
}

void Boxes::onCollectorExit(Box& box) {
  const Exit exit = reap(box.collector, poller_);
  if (exit.code == 0) return;
  if (box.machine.state() == BoxState::collecting && box.collect_state == CollectState::none)
    box.collect_state =
        exit.code == CLD_EXITED && exit.status == 0 ? CollectState::done : CollectState::failed;
  beginRemove(box);
}

void Boxes::beginRemove(Box& box) {
  box.machine.on(BoxEvent::remove);
  box.deadline_ns = inMs(kRemoveMsMax);
  box.disk.reset();
  box.spool.reset();
  box.memory_watch.reset();
  box.process_watch.reset();
  box.result.fds_closed_ns = monotonicNs();
  tryRemove(box);
}

void Boxes::tryRemove(Box& box) {
  const bool late = box.deadline_ns == kNever;
  // mayflyd hears of a zygote's end before it hears of the boxes that failed because of it.
  const bool early =
      box.result.kind == Kind::boxFailed && box.owner->stage == ZygoteStage::dying && !late;
  if (early || !box.cgroups.remove()) {
    const uint64_t pause_ms = late ? 500 : pauseMs(box.tries, 32);
    if (!early) ++box.tries;
    box.next_try_ns = inMs(pause_ms);
    return;
  }
  box.machine.on(BoxEvent::removed);
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
  out_.send(event);
  drop(box);
}

// A step that is not proven in time is reported at once; the spawner keeps trying until it is.
void Boxes::reportStuck(Box& box, const std::string& what) {
  Event event = box.result;
  event.kind = Kind::boxGone;
  event.box = box.id;
  event.at_ns = monotonicNs();
  event.collect = box.collect_state;
  event.complete = 0;
  setText(event, "", what);
  out_.send(event);
  box.deadline_ns = kNever;
}

void Boxes::onLate(Box& box) {
  if (box.collector) {
    onCollectorExit(box);
    if (!box.collector) return;
  }
  switch (box.machine.state()) {
    case BoxState::collecting:
      if (box.collect_state == CollectState::timedOut)
        return reportStuck(box, "the collector of its files is killed, but not reaped");
      box.collect_state = CollectState::timedOut;
      box.deadline_ns = inMs(kReapMsMax);
      return signalKill(box.collector);
    case BoxState::freeing:
      return reportStuck(box, "its disk is not freed yet");
    case BoxState::removing:
      return reportStuck(box, "a cgroup of the box is busy");
    default:
      return reportStuck(box, box.machine.owed() ? "the template's maker or zygote does not answer"
                              : box.init || box.clone ? "killed, but not reaped"
                                                      : "reaped, but its cgroup is populated");
  }
}

uint64_t Boxes::nextTimer() const {
  uint64_t next = UINT64_MAX;
  for (base::BoxId id : ending_) {
    const Box& box = *boxes_.at(id);
    if (box.next_try_ns != 0) next = std::min(next, box.next_try_ns);
    next = std::min(next, box.deadline_ns);
  }
  for (base::BoxId id : awaiting_) next = std::min(next, boxes_.at(id)->answer_due_ns);
  return next;
}

void Boxes::runTimers() {
  const uint64_t now = monotonicNs();
  std::vector<base::BoxId> due;
  for (base::BoxId id : awaiting_)
    if (boxes_.at(id)->answer_due_ns <= now) due.push_back(id);
  for (base::BoxId id : std::exchange(due, {}))
    if (Box* box = find(id); box != nullptr && box->answer_due_ns != 0) onSilent(*box);
  for (base::BoxId id : ending_) {
    const Box& box = *boxes_.at(id);
    if ((box.next_try_ns != 0 && box.next_try_ns <= now) || box.deadline_ns <= now)
      due.push_back(id);
  }
  for (base::BoxId id : due) {
    Box& box = *boxes_.at(id);
    if (box.deadline_ns <= now) onLate(box);
    box.next_try_ns = 0;
    if (box.machine.reaping())
      tryFinishReaping(box);
    else if (box.machine.state() == BoxState::removing)
      tryRemove(box);
  }
}

void Boxes::drop(Box& box) {
  Zygote& z = *box.owner;
  z.uids.give(box.uid_first);
  for (uint64_t key : box.process_keys) z.processes.erase(key);
  ending_.erase(box.id);
  awaiting_.erase(box.id);
  boxes_.erase(box.id);
  zygotes_.release(z);
}

}  // namespace mayfly::spawner
