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

Engine::BoxPtr Engine::newBox(base::TemplateId tmpl) {
  auto box = std::make_shared<Box>();
  box->id = next_box_++;
  box->tmpl = tmpl;
  boxes_[box->id] = box;
  ledger_.opened(box->id, monotonicNs());
  return box;
}

void Engine::askBox(base::TemplateId tmpl, ClonePool::Rehearsed rehearsed, const base::Limits& caps) {
  BoxPtr box = takeStocked(tmpl);
  spawner::Request r;
  r.op = box ? spawner::Op::clone : spawner::Op::make;
  if (!box) box = newBox(tmpl);
  box->caps = caps;
  box->asked_ns = monotonicNs();
  templates_[tmpl - 1].pool.asked(box->id, rehearsed);
  r.box = box->id;
  r.template_id = tmpl;
  r.limits = caps;
  if (rehearsed == ClonePool::Rehearsed::yes) r.flags |= spawner::kRehearse;
  link_.send(r);
}

// Tasks that wait come first; parking goes on when no task is on its way into a clone.
void Engine::refill(base::TemplateId tmpl) {
  if (!spawner_ready_) return;
  ClonePool& pool = templates_[tmpl - 1].pool;
  bool going = stopping_ == Stopping::no;
  bool quiet = claims_under_way_ == 0 || 2 * pool.parked() < pool.target();
  bool checked = registry_.ready(tmpl);
  pool::Work work = pool.work(going && (checked || templates_[tmpl - 1].checking),
                              going && checked && quiet, monotonicNs());
  for (base::BoxId id : work.end)
    if (BoxPtr box = findBox(id)) endBox(*box);
  const base::Limits& maximum = registry_.get(tmpl)->maximum;
  for (uint32_t i = 0; i < work.make_for_tasks; ++i) {
    // Most likely for this one; where its caps stand already, the claim need not be awaited.
    TaskPtr waits = find(pool.waitingTask(pool.making()));
    askBox(tmpl, ClonePool::Rehearsed::no, waits ? waits->machine.limits() : maximum);
  }
  for (uint32_t i = 0; i < work.make_to_park; ++i) askBox(tmpl, ClonePool::Rehearsed::yes, maximum);
  stockSoon();
}

// --- boxes ahead of their clones ------------------------------------------------------

// The walls are most of what a task would wait for where no clone is parked. They come last:
// once nothing was claimed, made or ended for a while.
void Engine::stockSoon() {
  if (stopping_ != Stopping::no) return;
  uint64_t due_ns = UINT64_MAX;
  for (const Template& t : templates_)
    if (t.stock.size() + t.stocking != t.stock_target) due_ns = std::min(due_ns, t.stock_after_ns);
  if (due_ns == UINT64_MAX) return;
  stock_timer_.expires_at(timePoint(std::max(due_ns, monotonicNs() + kStockQuiet_ns)));
  stock_timer_.async_wait([this](boost::system::error_code failed) {
    if (failed || !spawner_ready_ || stopping_ != Stopping::no) return;
    for (base::TemplateId id = 1; id <= templates_.size(); ++id) stockUp(id);
  });
}

void Engine::stockUp(base::TemplateId tmpl) {
  Template& t = templates_[tmpl - 1];
  while (t.stock.size() > t.stock_target) {
    if (BoxPtr box = findBox(t.stock.front())) endBox(*box);
    t.stock.pop_front();
  }
  if (!registry_.ready(tmpl) || claims_under_way_ != 0 || t.stocking != 0 || t.stock.size() >= t.stock_target || t.pool.waiting() != 0 ||
      t.pool.making() != 0 || monotonicNs() < t.stock_after_ns)
    return;
  BoxPtr box = newBox(tmpl);
  box->stock = Box::Stock::making;
  box->was_stocked = true;
  ++t.stocking;
  spawner::Request r;
  r.op = spawner::Op::make;
  r.flags = spawner::kStock;
  r.box = box->id;
  r.template_id = tmpl;
  r.limits = registry_.get(tmpl)->defaults;  // most tasks' own
  link_.send(r);
}

Engine::BoxPtr Engine::takeStocked(base::TemplateId tmpl) {
  Template& t = templates_[tmpl - 1];
  while (!t.stock.empty()) {
    BoxPtr box = findBox(t.stock.front());
    t.stock.pop_front();
    if (!box || box->ending) continue;
    box->stock = Box::Stock::no;
    return box;
  }
  return nullptr;
}

void Engine::stockLost(const Box& box) {
  Template& t = templates_[box.tmpl - 1];
  if (box.stock == Box::Stock::making) --t.stocking;
  std::erase(t.stock, box.id);
  t.stock_after_ns = monotonicNs() + kStockPause_ns;
  stockSoon();
}

void Engine::refillAll() {
  for (base::TemplateId id = 1; id <= templates_.size(); ++id) refill(id);
}

// Follows what was learnt: arrivals, times to make a clone, memory.
void Engine::resizePools() {
  if (!spawner_ready_) return;
  for (const pool::Target& target : plan_.plan(monotonicNs())) {
    ClonePool& pool = templates_[target.id - 1].pool;
    uint32_t& stocked = templates_[target.id - 1].stock_target;
    if (pool.target() == target.parked && stocked == target.stocked) continue;
    pool.setTarget(target.parked);
    stocked = target.stocked;
    refill(target.id);
  }
  armTemplateTimer();
}

void Engine::obtain(const TaskPtr& t) {
  auto parked = templates_[t->tmpl - 1].pool.claim(t->id);
  if (parked) return bind(t, findBox(*parked));
  refill(t->tmpl);
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
  if (!templates_[box->tmpl - 1].pool.holds(box->id)) return;
  uint64_t now_ns = monotonicNs();
  auto waits = templates_[box->tmpl - 1].pool.lost(box->id, now_ns);
  watcher_.onBoxLost(registry_.get(box->tmpl)->name, why);
  if (TaskPtr t = waits ? find(*waits) : nullptr)
    act(t, t->machine.boxFailed(std::move(why), again, now_ns));
  refill(box->tmpl);
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
  if (!box->was_stocked) plan_.onMade(box->tmpl, monotonicNs() - box->asked_ns, monotonicNs());
  ClonePool::Handed handed = templates_[box->tmpl - 1].pool.ready(id);
  TaskPtr t = handed.task != 0 ? find(handed.task) : nullptr;
  if (t)
    bind(t, box);
  else if (handed.end || handed.task != 0)
    endBox(*box);
  else
    measure(*box);
  refill(box->tmpl);
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
  else
    act(t, t->machine.started(started.at_ns, now_ns));
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
      return templateEvent(event);
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
    case Kind::boxStocked:
      if (box->stock != Box::Stock::making) return;
      --templates_[box->tmpl - 1].stocking;
      box->stock = Box::Stock::stands;
      if (box->ending) return;
      templates_[box->tmpl - 1].stock.push_back(box->id);
      return refill(box->tmpl);
    case Kind::boxFailed:
      ledger_.neverMade(e.box, monotonicNs());
      boxes_.erase(e.box);
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
      endBox(*box);
      return boxLost(box,
                     e.kind == Kind::boxDied  ? base::printable(e.text)
                     : e.kind == Kind::capHit ? "a clone without a task hit a cap of its template"
                                              : "a clone ended without a task",
                     e.kind == Kind::capHit ? Again::no : Again::yes);
    case Kind::sampled:
      plan_.onMeasured(box->tmpl, e.counters.memory_peak_bytes);
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
  if (free) boxes_.erase(e.box);
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
  for (Template& t : templates_) {
    t.pool.drop();
    t.stock.clear();
    t.stocking = 0;
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
