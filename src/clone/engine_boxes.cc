// The engine's boxes: made ahead or for a task that waits, parked, claimed, ended;
// and what spawner, clones and streams say of them.
//
// Layer: clone. Core thread.
#include <string.h>

#include <algorithm>

#include "base/clock.h"
#include "base/text.h"
#include "clone/engine.h"
#include "clone/engine_task.h"

namespace mayfly::clone {

using base::monotonicNs;
using base::Phase;
using pool::BoxEvent;
using pool::BoxMachine;
using pool::BoxStep;
using pool::ClonePool;
using pool::Refill;
using sched::Again;
using sched::Cause;
using sched::Stream;
using spawner::Event;
using spawner::Kind;

namespace {

sched::Counters toCounters(const spawner::Counters& c) {
  sched::Counters out;
  out.user_cpu_ns = c.user_cpu_ns;
  out.system_cpu_ns = c.system_cpu_ns;
  out.memory_peak_bytes = c.memory_peak_bytes;
  out.oom_kills = c.oom_kills;
  out.forks_refused = c.forks_refused;
  out.processes_peak = c.processes_peak;
  out.disk_bytes = c.disk_bytes;
  out.disk_inodes = c.disk_inodes;
  out.disk_bytes_max = c.disk_bytes_max;
  out.disk_inodes_max = c.disk_inodes_max;
  return out;
}

std::string stepFailed(std::string_view what, std::string_view step, int error,
                       std::string_view text) {
  std::string why(what);
  if (!step.empty()) why += " at step '" + base::printable(step) + "'";
  if (error != 0)
    why += ": " + std::string(::strerrordesc_np(error) ? ::strerrordesc_np(error) : "?");
  if (!text.empty()) why += ": " + base::printable(text);
  return why;
}

}  // namespace

Engine::BoxPtr Engine::findBox(base::BoxId id) const {
  auto at = boxes_.find(id);
  return at != boxes_.end() ? at->second : nullptr;
}

Engine::TaskPtr Engine::taskOf(base::BoxId id) const {
  BoxPtr box = findBox(id);
  return box && box->task != 0 ? find(box->task) : nullptr;
}

uint32_t Engine::pidOf(base::BoxId id) const {
  BoxPtr box = findBox(id);
  return box ? box->pid_host : 0;
}

// --- making, parking, claiming ------------------------------------------------------

Engine::Lane* Engine::findLane(base::LaneId id) {
  auto at = lanes_.find(id);
  return at != lanes_.end() ? &at->second : nullptr;
}

Engine::BoxPtr Engine::newBox(base::LaneId lane, base::ZygoteId zygote, BoxMachine::First first) {
  auto box = std::make_shared<Box>(next_box_++, first);
  box->lane = lane;
  box->zygote = zygote;
  Zygote& z = zygotes_.at(zygote);
  box->tmpl = z.tmpl;
  ++z.boxes;
  boxes_[box->id] = box;
  ledger_.opened(box->id, monotonicNs());
  return box;
}

// Proven gone, or never made.
void Engine::dropBox(const BoxPtr& box) {
  box->machine.on(BoxEvent::gone);
  boxes_.erase(box->id);
  auto z = zygotes_.find(box->zygote);
  if (z == zygotes_.end()) return;
  --z->second.boxes;
  drain(box->zygote);
}

void Engine::sendMake(const Box& box, spawner::Op op, ClonePool::Rehearsed rehearsed) {
  spawner::Request r;
  r.op = op;
  r.box = box.id;
  r.zygote_id = box.zygote;
  r.limits = box.caps;
  if (box.machine.stock()) r.flags |= spawner::kStock;
  if (rehearsed == ClonePool::Rehearsed::yes) r.flags |= spawner::kRehearse;
  link_.send(r);
}

void Engine::askBox(base::LaneId id, Lane& lane, const Refill::Make& make) {
  const bool stock = make.what == Refill::Make::What::stock;
  BoxPtr box = make.in != 0 ? findBox(make.in) : nullptr;
  if (box)
    box->machine.on(BoxEvent::clone);
  else
    box = newBox(id, lane.zygote, stock ? BoxMachine::First::stocking : BoxMachine::First::making);
  // Most tasks' caps are the template's own: what is made with them starts without the spawner's
  // byte.
  TaskPtr waits = make.task != 0 ? find(make.task) : nullptr;
  box->caps = waits ? waits->machine.limits() : registry_.get(lane.tmpl)->defaults;
  box->asked_ns = monotonicNs();
  lane.refill.asked(make, box->id);
  sendMake(*box, make.in != 0 ? spawner::Op::clone : spawner::Op::make, make.rehearsed());
  if (!stock && registry_.onClone(id, box->asked_ns)) armTemplateTimer();
}

// For one task only, and none of the pool's: its zygote is not trusted yet.
void Engine::askTrialBox(base::ZygoteId zygote, base::TaskId task, ClonePool::Rehearsed rehearsed) {
  BoxPtr box = newBox(zygotes_.at(zygote).lane, zygote, BoxMachine::First::making);
  box->trial = task;
  box->caps = registry_.get(box->tmpl)->defaults;
  sendMake(*box, spawner::Op::make, rehearsed);
}

void Engine::refill(base::LaneId id) {
  Lane* lane = findLane(id);
  if (!spawner_ready_ || lane == nullptr) return;
  const bool serves = stopping_ == Stopping::no && registry_.ready(id);
  Refill::Work work = lane->refill.work(serves, monotonicNs());
  endBoxes(work.end);
  for (const Refill::Make& make : work.make) askBox(id, *lane, make);
  poolChanged(lane->tmpl);
  armRefill();
}

void Engine::armRefill() {
  uint64_t due_ns = 0;
  for (const auto& [id, lane] : lanes_)
    if (uint64_t its = lane.refill.due_ns(); its != 0 && (due_ns == 0 || its < due_ns))
      due_ns = its;
  // A timer that fires too early asks anew.
  if (stopping_ != Stopping::no || due_ns == 0 || (refill_due_ns_ != 0 && refill_due_ns_ <= due_ns))
    return;
  refill_due_ns_ = due_ns;
  refill_timer_.expires_at(timePoint(due_ns));
  refill_timer_.async_wait([this](boost::system::error_code failed) {
    if (failed) return;
    refill_due_ns_ = 0;
    uint64_t now_ns = monotonicNs();
    for (const auto& [id, lane] : lanes_)
      if (uint64_t its = lane.refill.due_ns(); its != 0 && its <= now_ns) refill(id);
    armRefill();
  });
}

// Follows what was learnt: arrivals, times to make a clone, memory.
void Engine::resizePools() {
  if (!spawner_ready_) return;
  for (const pool::Target& target : plan_.plan(monotonicNs())) {
    Lane* lane = findLane(target.id);
    if (lane == nullptr || lane->refill.hasTarget(target.parked, target.stocked)) continue;
    lane->refill.setTarget(target.parked, target.stocked);
    refill(target.id);
  }
  armTemplateTimer();
}

void Engine::obtain(const TaskPtr& t) {
  Lane* lane = findLane(t->lane);
  if (t->trial_of != 0 || lane == nullptr)
    return;  // its box is asked for; a closed lane has no task
  auto parked = lane->refill.claim(t->id);
  ++(parked ? templates_[t->tmpl - 1].hits : templates_[t->tmpl - 1].misses);
  poolChanged(t->tmpl);
  if (parked) return bind(t, findBox(*parked));
  refill(t->lane);
}

// From here on the box is the task's, and no other's ever.
void Engine::bind(const TaskPtr& t, const BoxPtr& box) {
  uint64_t now_ns = monotonicNs();
  if (box->machine.on(BoxEvent::claim) != BoxStep::next)
    return act(t, t->machine.boxFailed("box " + std::to_string(box->id) + " had no clone to give",
                                       Again::yes, now_ns));
  box->task = t->id;
  t->box = box->id;
  t->io = box->io;
  t->io->bind(t->spec.live_output ? Delivery::live : Delivery::captured,
              t->machine.limits().output_bytes);
  ledger_.claimed(box->id, t->id, t->spec.owner);
  act(t, t->machine.boxMade(box->stands_ns, now_ns));
  phase(*t, Phase::boxReady);
  act(t, t->machine.cloneReady(box->ready_ns, now_ns));
}

// What the kernel charges to a clone that is just parked is what it has for itself.
void Engine::measure(const Box& box) {
  spawner::Request r;
  r.op = spawner::Op::sample;
  r.box = box.id;
  link_.send(r);
}

// Whether the event was in its place. If the box has to end for it, it is lost for `why`.
bool Engine::step(const BoxPtr& box, BoxEvent event, std::string why, Again again) {
  const BoxStep step = box->machine.on(event);
  if (step == BoxStep::end) {
    sendEnd(*box);
    boxLost(box, std::move(why), again);
  }
  return step == BoxStep::next;
}

void Engine::endBox(Box& box) {
  if (box.machine.on(BoxEvent::end) == BoxStep::next) sendEnd(box);
}

void Engine::endBoxes(const std::vector<base::BoxId>& boxes) {
  for (base::BoxId id : boxes)
    if (BoxPtr box = findBox(id)) endBox(*box);
}

void Engine::sendEnd(const Box& box) {
  if (box.io) box.io->close();
  spawner::Request r;
  r.op = spawner::Op::end;
  r.box = box.id;
  link_.send(r);
}

// A box without a task came to nothing. The spawner knows, or is told.
void Engine::boxLost(const BoxPtr& box, std::string why, Again again) {
  uint64_t now_ns = monotonicNs();
  if (box->trial != 0) {
    if (TaskPtr t = find(box->trial)) act(t, t->machine.boxFailed(std::move(why), again, now_ns));
    return;
  }
  Lane* lane = findLane(box->lane);
  if (lane == nullptr) return;
  const Refill::Lost lost = lane->refill.lost(box->id, now_ns);
  if (lost.clone) observer_.boxLost(registry_.get(box->tmpl)->name, why);
  if (TaskPtr t = lost.task != 0 ? find(lost.task) : nullptr)
    act(t, t->machine.boxFailed(std::move(why), again, now_ns));
  refill(box->lane);
}

// --- what clones and streams say ----------------------------------------------------

void Engine::onCloneReady(base::BoxId id, const zygote::CloneReady& ready) {
  BoxPtr box = findBox(id);
  if (!box) return;
  if (ready.error != 0) {
    step(box, BoxEvent::lost, stepFailed("the clone failed", ready.step, ready.error, {}),
         Again::no);
    return;
  }
  if (!step(box, BoxEvent::ready, "the clone said twice that it is ready", Again::no)) return;
  box->ready_ns = ready.at_ns;
  if (box->trial != 0) {
    TaskPtr t = find(box->trial);
    return t && t->box == 0 ? bind(t, box) : endBox(*box);
  }
  Lane* lane = findLane(box->lane);
  if (lane == nullptr) return endBox(*box);
  if (!box->machine.wasStocked()) {
    uint64_t now_ns = monotonicNs();
    plan_.onMade(box->lane, now_ns - box->asked_ns, now_ns);
    observer_.cloneMade(registry_.get(box->tmpl)->name, now_ns - box->asked_ns);
  }
  ClonePool::Handed handed = lane->refill.ready(id, monotonicNs());
  TaskPtr t = handed.task != 0 ? find(handed.task) : nullptr;
  if (t)
    bind(t, box);
  else if (handed.end || handed.task != 0)
    endBox(*box);
  else
    measure(*box);
  refill(box->lane);
}

void Engine::onCloneStarted(base::BoxId id, const zygote::Started& started) {
  uint64_t now_ns = monotonicNs();
  TaskPtr t = taskOf(id);
  if (!t) {
    if (BoxPtr box = findBox(id); box && box->task == 0)
      step(box, BoxEvent::lost, "the clone started before it had a task", Again::no);
    return;
  }
  if (started.error != 0)
    act(t, t->machine.controlBroken(
               stepFailed("the clone could not start the task", started.step, started.error, {}),
               Again::no, now_ns));
  else if (t->machine.state() == sched::TaskState::claiming &&
           t->machine.phases()[static_cast<size_t>(Phase::claimed)] == 0)
    act(t, t->machine.controlBroken("the clone started before it had a task", Again::no, now_ns));
  else {
    t->fresh_runtime = started.fresh != 0;
    act(t, t->machine.started(started.at_ns, now_ns));
  }
}

void Engine::onControlBroken(base::BoxId id, std::string why) {
  if (TaskPtr t = taskOf(id))
    return act(t, t->machine.controlBroken(std::move(why), Again::yes, monotonicNs()));
  if (BoxPtr box = findBox(id)) step(box, BoxEvent::lost, std::move(why), Again::yes);
}

void Engine::onTaskOutput(base::BoxId id, Stream stream, std::string_view bytes) {
  TaskPtr t = taskOf(id);
  if (!t) return;
  if (t->machine.phases()[static_cast<size_t>(Phase::firstByte)] == 0) {
    t->machine.firstByte(monotonicNs());
    phase(*t, Phase::firstByte);
  }
  if (t->spec.live_output) {
    t->listener->onOutput(stream, bytes);
    return;
  }
  std::string& kept = t->captured[static_cast<size_t>(stream)];
  size_t room = sched::kCaptureBytesMax - kept.size();
  kept.append(bytes.substr(0, room));
  if (bytes.size() > room) t->truncated[static_cast<size_t>(stream)] = true;
}

void Engine::onOutputOver(base::BoxId id, Stream stream) {
  if (TaskPtr t = taskOf(id))
    act(t, t->machine.outputOver(stream == Stream::out ? "stdout" : "stderr", monotonicNs()));
}

void Engine::onStdinTaken(base::BoxId id, uint64_t bytes) {
  TaskPtr t = taskOf(id);
  if (!t) return;
  dropInput(*t, bytes);
  t->listener->onStdinAccepted(bytes);
}

// --- what the spawner says ------------------------------------------------------------

void Engine::onSpawnerEvent(const Event& event, std::span<base::Fd> fds) {
  switch (event.kind) {
    case Kind::hello:
      spawner_ready_ = true;
      observer_.spawnerReady(base::printable(event.text));
      runTemplates();
      return;
    case Kind::zygoteReady:
    case Kind::zygoteFailed:
    case Kind::zygoteGone:
      return zygoteEvent(event);
    case Kind::boxGone:
      return boxGone(event);
    default:
      break;
  }
  BoxPtr box = findBox(event.box);
  if (!box) return;
  // The clone's own words came first, though they are read from another socket.
  if (box->io) box->io->pollControl();
  TaskPtr t = box->task != 0 ? find(box->task) : nullptr;
  if (t) return taskEvent(t, event);
  // Its task has its result already: only boxGone is awaited.
  if (box->task == 0) return boxEvent(box, event, fds);
}

void Engine::boxEvent(const BoxPtr& box, const Event& e, std::span<base::Fd> fds) {
  switch (e.kind) {
    case Kind::boxMade: {
      // Of a box that ends the descriptors are dropped.
      if (!step(box, BoxEvent::made, "the spawner told out of place of a clone", Again::no)) return;
      box->pid_host = e.pid_host;
      box->stands_ns = e.box_ready_ns;
      box->io = std::make_shared<TaskIo>(io_, static_cast<TaskIo::Sink&>(*this), box->id);
      if (auto opened = box->io->open(fds); !opened) {
        step(box, BoxEvent::lost, std::move(opened).error().message, Again::no);
        return;
      }
      box->io->pollControl();
      return;
    }
    case Kind::boxStocked: {
      Lane* lane = findLane(box->lane);
      if (!step(box, BoxEvent::stocked, "the spawner told out of place of a stocked box",
                Again::no))
        return;
      if (lane == nullptr) return;
      lane->refill.stocked(box->id, monotonicNs());
      return refill(box->lane);
    }
    case Kind::boxFailed:
      ledger_.neverMade(e.box, monotonicNs());
      dropBox(box);
      boxLost(box, stepFailed("the box could not be made", e.step, e.sys, e.text),
              e.again != 0 ? Again::yes : Again::no);
      return checkStopped();
    case Kind::cloneExited:
    case Kind::boxDied:
    case Kind::capHit:
      step(box, BoxEvent::lost,
           e.kind == Kind::boxDied  ? base::printable(e.text)
           : e.kind == Kind::capHit ? "a clone without a task hit a cap of its template"
                                    : "a clone ended without a task",
           e.kind == Kind::capHit ? Again::no : Again::yes);
      return;
    case Kind::sampled:
      plan_.onMeasured(box->lane, e.counters.memory_peak_bytes);
      return resizePools();
    case Kind::boxReaped:
      ledger_.reaped(e);
      return;
    default:
      return;
  }
}

void Engine::taskEvent(const TaskPtr& t, const Event& e) {
  uint64_t now_ns = monotonicNs();
  sched::ExitStatus exit{e.exit_code, e.exit_status};
  switch (e.kind) {
    case Kind::cloneExited:
      return act(t, t->machine.cloneExited(exit, e.at_ns, now_ns));
    case Kind::boxDied:
      return act(t, t->machine.boxDied(base::printable(e.text), now_ns));
    case Kind::capHit:
      if (e.cap == spawner::Cap::none) return;
      return act(t, t->machine.capHit(
                        e.cap == spawner::Cap::memory ? Cause::memory : Cause::processes, now_ns));
    case Kind::sampled:
      // What was read of a parked clone is of its making.
      if (e.at_ns < t->machine.phases()[static_cast<size_t>(Phase::claimed)]) return;
      return act(t, t->machine.sampled(toCounters(e.counters), now_ns));
    case Kind::boxReaped:
      ledger_.reaped(e);
      act(t, t->machine.boxReaped(exit, toCounters(e.counters), e.clone_exited_ns, now_ns));
      phase(*t, Phase::reaped);
      return;
    default:
      return;
  }
}

void Engine::boxGone(const Event& e) {
  BoxPtr box = findBox(e.box);
  TaskPtr t = box && box->task != 0 ? find(box->task) : nullptr;
  if (box && box->io) {
    if (t) box->io->drain();
    box->io->close();
  }
  auto closed = ledger_.gone(e, monotonicNs());
  if (!closed) return;
  bool free = closed->slot == reap::Closed::Slot::free;
  if (box && !t) step(box, BoxEvent::lost, "it ended unasked", Again::yes);
  if (free && box) dropBox(box);
  if (t) {
    t->receipt = closed->receipt;
    t->slot_free = free;
    t->collect = e.collect;
    if (e.collect == spawner::CollectState::failed) t->collect_text = base::printable(e.text);
    return act(t, t->machine.boxGone(closed->receipt.complete, monotonicNs()));
  }
  // Parked, or its task's result was given without: only the ledger waited for this.
  if (!free) {
    if (box && box->task == 0) observer_.receipt(registry_.get(box->tmpl)->name, closed->receipt);
    return;
  }
  admission_.release(closed->task);
  if (closed->when == reap::Closed::When::late)
    observer_.receiptCompleted(closed->receipt);
  else if (box && box->task == 0)
    observer_.receipt(registry_.get(box->tmpl)->name, closed->receipt);
  if (box)
    if (Lane* lane = findLane(box->lane)) lane->refill.happened(monotonicNs());
  dispatch();
  checkStopped();
}

void Engine::onSpawnerLost(base::Error why) {
  spawner_ready_ = false;
  for (auto& [id, lane] : lanes_) {
    lane.refill.drop();
  }
  std::vector<TaskPtr> all;
  for (const auto& [id, t] : tasks_) all.push_back(t);
  for (const TaskPtr& t : all) {
    uint64_t now_ns = monotonicNs();
    t->machine.stop(Cause::internal, why.message, now_ns);
    if (t->io) t->io->close();
    if (t->box != 0) {
      t->receipt = ledger_.overdue(t->box, why.message + ": the proof went with it").receipt;
      t->slot_free = false;
    }
    t->machine.boxGone(false, now_ns);
    finish(t);
  }
  for (const auto& [id, box] : boxes_) {
    if (box->io) box->io->close();
    if (box->task == 0)
      observer_.receipt(registry_.get(box->tmpl)->name, ledger_.overdue(id, why.message).receipt);
  }
  if (stopping_ == Stopping::templates || stopping_ == Stopping::done) return checkStopped();
  owner_.onFatal(std::move(why));
}

}  // namespace mayfly::clone
