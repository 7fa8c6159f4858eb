#include "spawner/boxes.h"

#include <errno.h>
#include <fmt/format.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "spawner/child.h"
#include "spawner/room.h"
#include "spawner/net_charge.h"

namespace mayfly::spawner {

using base::Code;
using base::Error;
using base::failSys;
using base::Fd;
using base::monotonicNs;
using base::Status;
using base::Unit;
using wire::Cap;
using wire::Event;
using wire::Kind;
using wire::Op;

Box* Boxes::find(base::BoxId id) const {
  auto found = boxes_.find(id);
  return found != boxes_.end() ? found->second.get() : nullptr;
}

void Boxes::tell(const Box& box, Kind kind, const std::string& text) {
  Event event;
  event.kind = kind;
  event.box = box.id;
  event.zygote_id = box.owner->id;
  event.at_ns = monotonicNs();
  if (!text.empty()) setText(event, "init", text);
  out_.send(event);
}

// --- what mayflyd asks for -----------------------------------------------------------

void Boxes::on(const wire::Request& request, base::Received& fds, const char* unsound) {
  Box* box = find(request.box);
  switch (placeOf(request.op, box != nullptr ? box->machine.state() : BoxState::gone)) {
    case Place::late:
      return;
    case Place::breach:
      return giveUp(*box, fmt::format("mayflyd asked for what has no place in state '{}'",
                                      name(box->machine.state())));
    case Place::act:
      break;
  }
  switch (request.op) {
    case Op::make:
      return make(request, unsound);
    case Op::end:
      return end(*box, request, fds, unsound);
    case Op::sample:
      return sample(*box);
    case Op::terminate:
      return terminate(*box);
    case Op::clone:
      return unsound != nullptr ? giveUp(*box, unsound) : clone(*box, request);
    case Op::claim:
      return unsound != nullptr ? giveUp(*box, unsound) : claim(*box, request);
    default:
      return;
  }
}

// Kills its processes now; its removal waits for mayflyd's `end`, if mayflyd knows the box.
void Boxes::giveUp(Box& box, const std::string& why) {
  if (box.machine.ending()) return;
  if (!box.machine.made()) return failBox(box, "request", Error{Code::invalidArgument, why, {}, 0});
  (void)box.cgroups.kill();
  signalKill(box.init);
  tell(box, Kind::boxDied, "is ended: " + why);
}

void Boxes::clone(Box& box, const wire::Request& request) {
  box.clone_comes = Box::Clone::atOnce;
  box.rehearse = (request.flags & wire::kRehearse) != 0 ? CloneSource::Rehearse::yes
                                                        : CloneSource::Rehearse::no;
  askCloneOrFail(box);
  if (box.machine.ending()) return;
  if (auto set = changeCaps(box, request.limits); !set) failBox(box, "caps", set.error());
}

// Meanwhile mayflyd hands the task to the clone; the task starts only with the spawner's byte.
void Boxes::claim(Box& box, const wire::Request& request) {
  box.machine.on(BoxEvent::claim);
  ++claimed_;
  auto ready = [&]() -> Status {
    if ((request.flags & wire::kCapsStand) != 0) {
      // The task may already run. If the counters were restarted after the claim, it may have run
      // before that restart, too: undo the restart.
      if (box.restarted_ns > request.claimed_ns) box.cgroups.undoRestartCpu();
      const uint64_t now_ns = monotonicNs();
      box.cgroups.restartCpuBefore((now_ns - std::min(now_ns, request.claimed_ns)) * cores_);
      return Unit{};
    }
    MAYFLY_CHECK(changeCaps(box, request.limits));
    restartCounters(box);
    if (::write(box.go.get(), "g", 1) != 1) return failSys(errno, "write", "the clone's pipe");
    return Unit{};
  }();
  box.go.reset();
  if (!ready)
    tell(box, Kind::boxDied,
         "the box's init has no task: its caps can't be set: " + ready.error().message);
}

void Boxes::end(Box& box, const wire::Request& request, base::Received& fds, const char* unsound) {
  if (unsound == nullptr && (request.flags & wire::kCollect) != 0) {
    box.spool = std::move(fds.fd[0]);
    box.collect_ms_max = request.collect_ms_max;
    // The clone's box may have been made for another task, whose other caps were the same.
    box.limits.out_files = request.limits.out_files;
    box.limits.out_files_bytes = request.limits.out_files_bytes;
  }
  beginEnd(box, BoxEvent::end);
}

void Boxes::sample(Box& box) {
  Event event;
  event.kind = Kind::sampled;
  event.box = box.id;
  box.cgroups.read(&event.counters);
  readDisk(box, &event.counters);
  event.at_ns = monotonicNs();
  out_.send(event);
  if (box.machine.state() == BoxState::parked) return restartCounters(box);
  if (box.owner->loopback && box.init) chargeSockets(box);
}

void Boxes::terminate(Box& box) {
  if (signalTerm(box.clone)) box.result.terminated = 1;
}

// Sockets that the kernel charges to nobody still count for the box's memory cap.
void Boxes::chargeSockets(Box& box) {
  const uint64_t charge = netCharge(box.pid_host);
  if (charge != 0 && box.cgroups.memoryBytes() + charge > box.limits.memory_bytes)
    tellCap(box, Cap::memory);
}

void Boxes::onTooManyLocks(base::BoxId id) {
  if (Box* box = find(id); box != nullptr && box->machine.state() == BoxState::claimed)
    tellCap(*box, Cap::memory);
}

// Changes the caps of cgroups and disk; the task has not started.
Status Boxes::changeCaps(Box& box, const base::Limits& limits) {
  MAYFLY_CHECK(box.cgroups.changeCaps(box.limits, limits));
  if (box.limits.disk_bytes != limits.disk_bytes || box.limits.disk_inodes != limits.disk_inodes)
    MAYFLY_CHECK(resizeDisk(box.disk.view(), limits));
  box.limits = limits;
  return Unit{};
}

// A task does not pay for the making of its box.
void Boxes::restartCounters(Box& box) {
  box.cgroups.restartPeak();
  box.cgroups.restartCpu();
  box.restarted_ns = monotonicNs();
}

void Boxes::readDisk(const Box& box, wire::Counters* c) const {
  if (!box.disk) return;
  struct statfs fs;
  if (::fstatfs(box.disk.get(), &fs) != 0) return;
  auto block = static_cast<uint64_t>(fs.f_bsize);
  c->disk_bytes = (fs.f_blocks - fs.f_bfree) * block;
  c->disk_bytes_max = fs.f_blocks * block;
  c->disk_inodes = fs.f_files - fs.f_ffree;
  c->disk_inodes_max = fs.f_files;
}

// --- what the kernel says ---------------------------------------------------------------

void Boxes::onEvent(Source source, base::BoxId id) {
  Box* box = find(id);
  if (box == nullptr) return;
  switch (source) {
    case Source::initStatus:
      return onInitStatus(*box);
    case Source::init:
      return onInitExit(*box);
    case Source::clone:
      return onCloneExit(*box);
    case Source::memoryCap:
      return onCapEvent(*box, Cap::memory);
    case Source::processCap:
      return onCapEvent(*box, Cap::processes);
    case Source::collector:
      return onCollectorExit(*box);
    default:
      return;
  }
}

void Boxes::onInitExit(Box& box) {
  const Exit exit = reap(box.init, poller_);
  if (exit.code == 0) return;
  if (box.machine.ending()) return tryFinishReaping(box);
  if (box.machine.made()) return tell(box, Kind::boxDied, "the box's init " + describe(exit));
  box.result.again = exit.code == CLD_KILLED ? 1 : 0;
  failBox(box, "init", Error{Code::internal, "the box's init " + describe(exit), {}, 0});
}

void Boxes::onCloneExit(Box& box) {
  const Exit exit = reap(box.clone, poller_);
  if (exit.code == 0) return;
  box.result.exit_code = exit.code;
  box.result.exit_status = exit.status;
  box.result.clone_exited_ns = monotonicNs();
  if (box.machine.ending()) return tryFinishReaping(box);
  const bool made = box.machine.made();
  // A clone gives up when its init does: the init's own message names the step.
  if (box.machine.rising() && box.init_status) onInitStatus(box);
  if (box.machine.ending()) return;
  if (!made) {
    box.result.again = exit.code == CLD_KILLED ? 1 : 0;
    return failBox(box, "clone", Error{Code::internal, "the clone " + describe(exit), {}, 0});
  }
  // An init that is killed takes the box along, its processes first. That end is not the task's.
  if (exit.code == CLD_KILLED && exit.status == SIGKILL && isDying(box.pid_host))
    return tell(box, Kind::boxDied, "the box's init was killed");
  Event event;
  event.kind = Kind::cloneExited;
  event.box = box.id;
  event.exit_code = exit.code;
  event.exit_status = exit.status;
  event.terminated = box.result.terminated;
  event.at_ns = box.result.clone_exited_ns;
  out_.send(event);
}

void Boxes::onCapEvent(Box& box, Cap cap) {
  uint64_t count = 0;
  if (cap == Cap::memory && box.cgroups.memoryWatchIsEventfd())
    (void)!::read(box.memory_watch.get(), &count, sizeof count);
  else {  // reading the file arms the next event
    char text[512];
    (void)!::pread(cap == Cap::memory ? box.memory_watch.get() : box.process_watch.get(), text,
                   sizeof text, 0);
  }
  if (!box.machine.made()) return;
  Event event;
  box.cgroups.read(&event.counters);
  const bool hit = cap == Cap::memory ? event.counters.oom_kills > 0 || count > 0
                                      : event.counters.forks_refused > 0;
  if (hit) tellCap(box, cap);
}

void Boxes::tellCap(Box& box, Cap cap) {
  bool& told = box.watches_told[cap == Cap::memory ? 0 : 1];
  if (told) return;
  told = true;
  Event event;
  event.kind = Kind::capHit;
  event.box = box.id;
  event.cap = cap;
  event.at_ns = monotonicNs();
  out_.send(event);
}

void Boxes::onRetired(const Zygote& z) {
  for (const auto& [id, box] : boxes_)
    if (box->owner == &z) signalKill(box->init);
}

bool Boxes::owns(const std::function<bool(const Fd&)>& is) const {
  return std::any_of(boxes_.begin(), boxes_.end(), [&](const auto& each) {
    const Box& box = *each.second;
    return is(box.init) || is(box.clone) || is(box.collector);
  });
}

}  // namespace mayfly::spawner
