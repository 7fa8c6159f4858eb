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
using pool::ClonePool;
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

constexpr uint64_t kRefillQuiet_ns = 5'000'000;
constexpr uint64_t kClaimQuietMax_ns = 20'000'000;  // a claim that takes longer holds nobody up
constexpr uint64_t kStockQuiet_ns = 5'000'000;
constexpr uint64_t kStockPause_ns = 1'000'000'000;  // after a box that could not be stocked

std::string stepFailed(std::string_view what, std::string_view step, int error,
                       std::string_view text) {
  std::string why(what);
  if (!step.empty()) why += " at step '" + base::printable(step) + "'";
  if (error != 0) why += ": " + std::string(::strerrordesc_np(error) ? ::strerrordesc_np(error) : "?");
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

Engine::BoxPtr Engine::newBox(base::LaneId lane, base::ZygoteId zygote) {
  auto box = std::make_shared<Box>();
  box->id = next_box_++;
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
  if (box.stock != Box::Stock::no) r.flags |= spawner::kStock;
  if (rehearsed == ClonePool::Rehearsed::yes) r.flags |= spawner::kRehearse;
  link_.send(r);
}

void Engine::askBox(base::LaneId id, Lane& lane, ClonePool::Rehearsed rehearsed, const base::Limits& caps) {
  uint64_t now_ns = monotonicNs();
  BoxPtr box = takeStocked(lane);
  spawner::Op op = box ? spawner::Op::clone : spawner::Op::make;
  if (!box) box = newBox(id, lane.zygote);
  box->caps = caps;
  box->asked_ns = now_ns;
  lane.pool.asked(box->id, rehearsed);
  sendMake(*box, op, rehearsed);
  if (registry_.onClone(id, now_ns)) armTemplateTimer();
}

// For one task only, and none of the pool's: its zygote is not trusted yet.
void Engine::askTrialBox(base::ZygoteId zygote, base::TaskId task, ClonePool::Rehearsed rehearsed) {
  BoxPtr box = newBox(zygotes_.at(zygote).lane, zygote);
  box->trial = task;
  box->caps = registry_.get(box->tmpl)->defaults;
  sendMake(*box, spawner::Op::make, rehearsed);
}

// A clone that is made costs both cores some milliseconds. While more than half of the pool is
// there, they belong to the tasks that were claimed last.
bool Engine::mayPark(const ClonePool& pool, uint64_t now_ns) {
  if (2 * pool.parked() < pool.target()) return true;
  if (pool.parkedOfPresent() >= pool.target()) return false;
  uint64_t due_ns = claimed_ns_ + (claims_under_way_ == 0 ? kRefillQuiet_ns : kClaimQuietMax_ns);
  if (now_ns >= due_ns) return true;
  refill_timer_.expires_at(timePoint(due_ns));
  refill_timer_.async_wait([this](boost::system::error_code failed) {
    if (!failed) refillAll();
  });
  return false;
}

// Tasks that wait come first.
void Engine::refill(base::LaneId id) {
  Lane* lane = findLane(id);
  if (!spawner_ready_ || lane == nullptr) return;
  ClonePool& pool = lane->pool;
  uint64_t now_ns = monotonicNs();
  bool may_make = stopping_ == Stopping::no && registry_.ready(id);
  pool::Work work = pool.work(may_make, mayPark(pool, now_ns), now_ns);
  for (base::BoxId box_id : work.end)
    if (BoxPtr box = findBox(box_id)) endBox(*box);
  // Most tasks' own caps: what is made with them starts without the spawner's byte.
  const base::Limits& defaults = registry_.get(lane->tmpl)->defaults;
  for (uint32_t i = 0; i < work.make_for_tasks; ++i) {
    // Most likely for this one.
    TaskPtr waits = find(pool.waitingTask(pool.making()));
    askBox(id, *lane, ClonePool::Rehearsed::no, waits ? waits->machine.limits() : defaults);
  }
  for (uint32_t i = 0; i < work.make_to_park; ++i) askBox(id, *lane, ClonePool::Rehearsed::yes, defaults);
  poolChanged(lane->tmpl);
  stockSoon();
}

// --- boxes ahead of their clones ------------------------------------------------------

// The walls are most of what a task would wait for where no clone is parked. They come last:
// once nothing was claimed, made or ended for a while.
void Engine::stockSoon() {
  if (stopping_ != Stopping::no) return;
  uint64_t due_ns = UINT64_MAX;
  for (const auto& [id, lane] : lanes_)
    if (lane.stock.size() + lane.stocking != lane.stock_target) due_ns = std::min(due_ns, lane.stock_after_ns);
  if (due_ns == UINT64_MAX) return;
  stock_timer_.expires_at(timePoint(std::max(due_ns, monotonicNs() + kStockQuiet_ns)));
  stock_timer_.async_wait([this](boost::system::error_code failed) {
    if (failed || !spawner_ready_ || stopping_ != Stopping::no) return;
    for (auto& [id, lane] : lanes_) stockUp(id, lane);
  });
}

void Engine::stockUp(base::LaneId id, Lane& lane) {
  uint64_t now_ns = monotonicNs();
  while (lane.stock.size() > lane.stock_target) {
    if (BoxPtr box = findBox(lane.stock.front())) endBox(*box);
    lane.stock.pop_front();
  }
  bool claiming = claims_under_way_ != 0 && now_ns < claimed_ns_ + kClaimQuietMax_ns;
  if (!registry_.ready(id) || claiming || lane.stocking != 0 || lane.stock.size() >= lane.stock_target ||
      lane.pool.waiting() != 0 || lane.pool.making() != 0 || now_ns < lane.stock_after_ns)
    return;
  BoxPtr box = newBox(id, lane.zygote);
  box->stock = Box::Stock::making;
  box->was_stocked = true;
  box->caps = registry_.get(lane.tmpl)->defaults;
  ++lane.stocking;
  sendMake(*box, spawner::Op::make, ClonePool::Rehearsed::no);
}

Engine::BoxPtr Engine::takeStocked(Lane& lane) {
  while (!lane.stock.empty()) {
    BoxPtr box = findBox(lane.stock.front());
    lane.stock.pop_front();
    if (!box || box->ending) continue;
    box->stock = Box::Stock::no;
    return box;
  }
  return nullptr;
}

// No clone of the lane's next zygote can enter them.
void Engine::endStock(base::LaneId id, Lane& lane) {
  lane.stock.clear();
  lane.stocking = 0;
  for (const auto& [box_id, box] : boxes_)
    if (box->lane == id && box->stock != Box::Stock::no) endBox(*box);
}

void Engine::stockLost(const Box& box) {
  Lane* lane = findLane(box.lane);
  if (lane == nullptr || lane->zygote != box.zygote) return;
  if (box.stock == Box::Stock::making && !box.ending) --lane->stocking;
  std::erase(lane->stock, box.id);
  lane->stock_after_ns = monotonicNs() + kStockPause_ns;
  stockSoon();
}

void Engine::refillAll() {
  for (const auto& [id, lane] : lanes_) refill(id);
}

// Follows what was learnt: arrivals, times to make a clone, memory.
void Engine::resizePools() {
  if (!spawner_ready_) return;
  for (const pool::Target& target : plan_.plan(monotonicNs())) {
    Lane* lane = findLane(target.id);
    if (lane == nullptr || (lane->pool.target() == target.parked && lane->stock_target == target.stocked)) continue;
    lane->pool.setTarget(target.parked);
    lane->stock_target = target.stocked;
    refill(target.id);
  }
  armTemplateTimer();
}

void Engine::obtain(const TaskPtr& t) {
  Lane* lane = findLane(t->lane);
  if (t->trial_of != 0 || lane == nullptr) return;  // its box is asked for; a closed lane has no task
  auto parked = lane->pool.claim(t->id);
  ++(parked ? templates_[t->tmpl - 1].hits : templates_[t->tmpl - 1].misses);
  poolChanged(t->tmpl);
  if (parked) return bind(t, findBox(*parked));
  refill(t->lane);
}

// From here on the box is the task's, and no other's ever.
void Engine::bind(const TaskPtr& t, const BoxPtr& box) {
  uint64_t now_ns = monotonicNs();
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

void Engine::endBox(Box& box) {
  if (std::exchange(box.ending, true)) return;
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
  if (lane == nullptr || !lane->pool.holds(box->id)) return;
  auto waits = lane->pool.lost(box->id, now_ns);
  watcher_.onBoxLost(registry_.get(box->tmpl)->name, why);
  if (TaskPtr t = waits ? find(*waits) : nullptr)
    act(t, t->machine.boxFailed(std::move(why), again, now_ns));
  refill(box->lane);
  armTemplateTimer();
}

// --- what clones and streams say ----------------------------------------------------

void Engine::onCloneReady(base::BoxId id, const zygote::CloneReady& ready) {
  BoxPtr box = findBox(id);
  if (!box || box->task != 0 || box->ending) return;
  if (ready.error != 0) {
    endBox(*box);
    return boxLost(box, stepFailed("the clone failed", ready.step, ready.error, {}), Again::no);
  }
  box->ready_ns = ready.at_ns;
  if (box->trial != 0) {
    TaskPtr t = find(box->trial);
    return t && t->box == 0 ? bind(t, box) : endBox(*box);
  }
  Lane* lane = findLane(box->lane);
  if (lane == nullptr) return endBox(*box);
  if (!box->was_stocked) {
    uint64_t now_ns = monotonicNs();
    plan_.onMade(box->lane, now_ns - box->asked_ns, now_ns);
    observer_.cloneMade(registry_.get(box->tmpl)->name, now_ns - box->asked_ns);
  }
  ClonePool::Handed handed = lane->pool.ready(id, monotonicNs());
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
    if (BoxPtr box = findBox(id); box && box->task == 0 && !box->ending) {
      endBox(*box);
      boxLost(box, "the clone started before it had a task", Again::no);
    }
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
  BoxPtr box = findBox(id);
  if (!box || box->task != 0 || box->ending) return;
  endBox(*box);
  boxLost(box, std::move(why), Again::yes);
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
      watcher_.onSpawnerReady(base::printable(event.text));
      runTemplates();
      return;
    case Kind::templateReady:
    case Kind::templateFailed:
    case Kind::templateGone:
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
      if (box->io || box->ending) return;  // it ends: drop the descriptors
      box->pid_host = e.pid_host;
      box->stands_ns = e.box_ready_ns;
      box->io = std::make_shared<TaskIo>(io_, static_cast<TaskIo::Sink&>(*this), box->id);
      if (auto opened = box->io->open(fds); !opened) {
        endBox(*box);
        return boxLost(box, std::move(opened).error().message, Again::no);
      }
      box->io->pollControl();
      return;
    }
    case Kind::boxStocked: {
      Lane* lane = findLane(box->lane);
      if (box->stock != Box::Stock::making || box->ending || lane == nullptr) return;
      --lane->stocking;
      box->stock = Box::Stock::stands;
      lane->stock.push_back(box->id);
      return refill(box->lane);
    }
    case Kind::boxFailed:
      ledger_.neverMade(e.box, monotonicNs());
      dropBox(box);
      if (box->stock != Box::Stock::no) {
        stockLost(*box);
        return checkStopped();
      }
      boxLost(box, stepFailed("the box could not be made", e.step, e.sys, e.text),
              e.again != 0 ? Again::yes : Again::no);
      return checkStopped();
    case Kind::cloneExited:
    case Kind::boxDied:
    case Kind::capHit:
      if (box->ending) return;
      if (box->stock != Box::Stock::no) stockLost(*box);
      endBox(*box);
      return boxLost(box,
                     e.kind == Kind::boxDied  ? base::printable(e.text)
                     : e.kind == Kind::capHit ? "a clone without a task hit a cap of its template"
                                              : "a clone ended without a task",
                     e.kind == Kind::capHit ? Again::no : Again::yes);
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
    if (box && box->task == 0) watcher_.onReceiptIncomplete(closed->receipt);
    return;
  }
  admission_.release(closed->task);
  if (closed->when == reap::Closed::When::late) watcher_.onReceiptCompleted(closed->receipt);
  stockSoon();
  dispatch();
  checkStopped();
}

void Engine::onSpawnerLost(base::Error why) {
  spawner_ready_ = false;
  for (auto& [id, lane] : lanes_) {
    lane.pool.drop();
    lane.stock.clear();
    lane.stocking = 0;
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
    if (box->task == 0) watcher_.onReceiptIncomplete(ledger_.overdue(id, why.message).receipt);
  }
  if (stopping_ == Stopping::templates || stopping_ == Stopping::done) return checkStopped();
  watcher_.onFatal(std::move(why));
}

}  // namespace mayfly::clone
