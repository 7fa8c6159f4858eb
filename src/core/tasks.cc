#include "core/tasks.h"

#include <boost/asio/post.hpp>
#include <utility>

#include "base/clock.h"
#include "base/text.h"
#include "sched/validate.h"

namespace mayfly::core {

using base::Code;
using base::fail;
using base::monotonicNs;
using base::Phase;
using sched::Act;
using sched::Acts;
using sched::Again;
using sched::Cause;
using sched::Stream;
using sched::TaskStage;
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

}  // namespace

Tasks::Tasks(Context& context, Boxes& boxes, Lanes& lanes)
    : x_(context),
      boxes_(boxes),
      lanes_(lanes),
      table_(context, boxes),
      intake_(context, lanes),
      claims_(context, boxes, lanes, [this](const TaskPtr& t, const Acts& acts) { act(t, acts); }) {
}

// --- calls of the edges ----------------------------------------------------------

base::Result<base::TaskId> Tasks::submit(sched::TaskSpec spec,
                                         std::shared_ptr<sched::TaskListener> listener) {
  const std::string template_name = base::printable(spec.template_name, 80);
  const sched::AccountRef account = spec.account;
  auto by = base::RefusedBy::other;
  auto accept = [&]() -> base::Result<TaskPtr> {
    MAYFLY_TRY(const base::TaskId id, x_.ids.take());
    return intake_.accept(id, std::move(spec), std::move(listener), &by);
  };
  auto accepted = accept();
  if (!accepted) {
    if (accepted.error().code == base::Code::invalidArgument) by = base::RefusedBy::request;
    x_.observer.taskRefused({.template_name = template_name,
                             .user = account.userName(),
                             .tenant = account.tenantName()},
                            base::name(accepted.error().code), by);
    return fail(std::move(accepted).error());
  }
  const TaskPtr t = std::move(*accepted);
  table_.add(t);
  tell(x_, *t, Phase::queued);
  x_.observer.taskAccepted(labelsOf(x_, *t));
  // Posted, so that the caller has the id before the first callback.
  boost::asio::post(x_.io, [this, t] {
    dispatch();
    if (t->machine.stage() == TaskStage::queued) armTimer(t);
    lanes_.resize();
  });
  return t->id;
}

base::Status Tasks::cancel(base::TaskId id, const sched::AccountRef& asks, sched::Cancel how) {
  TaskPtr t = table_.find(id);
  if (!t || !asks.sees(t->spec.account.id())) return fail(table_.noTask(id));
  act(t, t->machine.cancel(how, monotonicNs()));
  return base::Unit{};
}

void Tasks::ownerGone(sched::OwnerId owner) {
  for (const TaskPtr& t : table_.all())
    if (t->spec.owner == owner) act(t, t->machine.stop(Cause::clientGone, {}, monotonicNs()));
}

void Tasks::tryOut(const ZygoteRef& zygote, pool::ClonePool::Rehearsed rehearsed,
                   std::shared_ptr<sched::TaskListener> listener) {
  const pool::TemplateSpec& s = *x_.registry.get(zygote.tmpl);
  const uint64_t now_ns = monotonicNs();
  auto t = std::make_shared<Task>(x_.io, next_trial_++, s.defaults, x_.options.bounds, now_ns);
  t->tmpl = zygote.tmpl;
  t->lane = zygote.lane;
  t->trial_of = zygote.id;
  t->rehearsed = rehearsed;
  t->spec.template_name = s.name;
  t->spec.kind = sched::CodeKind::string;
  t->spec.code = s.trial_code;
  t->spec.owner = kOwn;
  t->stdin_closed = true;
  t->listener = std::move(listener);
  table_.add(t);
  x_.trial_boxes->askTrialBox(zygote.id, t->id, rehearsed);
  act(t, t->machine.admitted(now_ns));
}

// --- the machine's actions ---------------------------------------------------------

void Tasks::dispatch() {
  if (dispatching_ || !x_.serving()) return;
  dispatching_ = true;
  while (base::TaskId id = intake_.next()) {
    if (TaskPtr t = table_.find(id))
      act(t, t->machine.admitted(monotonicNs()));
    else
      intake_.slotFree(id);
  }
  dispatching_ = false;
  x_.observer.queueLength(intake_.queued());
  x_.observer.boxesAlive(static_cast<uint32_t>(x_.ledger.alive()));
}

void Tasks::act(const TaskPtr& t, const Acts& acts) {
  for (Act a : acts) {
    switch (a) {
      case Act::make:
        make(t);
        break;
      case Act::claim:
        tell(x_, *t, Phase::clone);
        claims_.wanted(t);
        break;
      case Act::begin:
        begin(t);
        break;
      case Act::sample:
        boxes_.sample(t->box);
        break;
      case Act::terminate:
        boxes_.terminate(t->box);
        break;
      case Act::end:
        end(t);
        break;
      case Act::drain:
        if (t->io) t->io->drain();
        break;
      case Act::queue:
        return queueAgain(t);
      case Act::finish:
        return finish(t);
    }
  }
  armTimer(t);
}

void Tasks::armTimer(const TaskPtr& t) {
  uint64_t due = t->machine.deadline_ns();
  if (due == t->armed_ns) return;
  t->armed_ns = due;
  if (due == 0) {
    t->timer.cancel();
    return;
  }
  t->timer.expires_at(timePoint(due));
  t->timer.async_wait([this, weak = std::weak_ptr<Task>(t)](boost::system::error_code failed) {
    TaskPtr task = weak.lock();
    if (failed || !task || task->machine.stage() == TaskStage::done) return;
    task->armed_ns = 0;
    act(task, task->machine.tick(monotonicNs()));
  });
}

void Tasks::make(const TaskPtr& t) {
  tell(x_, *t, Phase::box);
  claims_.write(t);
  // A trial's box is already requested.
  if (t->machine.stage() == TaskStage::making && t->trial_of == 0) lanes_.obtain(t->lane, t->id);
}

const base::Limits* Tasks::limitsOf(base::TaskId id) const {
  TaskPtr t = table_.find(id);
  return t ? &t->machine.limits() : nullptr;
}

bool Tasks::giveBox(base::TaskId id, const BoxPtr& box, base::ClaimKind found) {
  TaskPtr t = table_.find(id);
  if (!t || t->box != 0) return false;
  const uint64_t now_ns = monotonicNs();
  if (!box || !boxes_.claim(box, t->id, t->spec.account)) {
    const std::string name = box ? "box " + std::to_string(box->id) : "its box";
    act(t, t->machine.boxFailed(name + " had no clone to give", Again::yes, now_ns));
    return true;
  }
  t->box = box->id;
  t->io = box->io;
  t->launch = found == base::ClaimKind::parked ? base::Launch::parked
              : box->machine.wasStocked()      ? base::Launch::stocked
                                               : base::Launch::made;
  if (t->spec.owner != kOwn) x_.observer.cloneClaimed(labelsOf(x_, *t), found);
  t->io->bind(t->spec.live_output ? Delivery::live : Delivery::captured,
              t->machine.limits().output_bytes);
  act(t, t->machine.boxMade(box->stands_ns, now_ns));
  tell(x_, *t, Phase::boxReady);
  act(t, t->machine.cloneReady(box->ready_ns, now_ns));
  return true;
}

void Tasks::boxFailed(base::TaskId id, std::string why, Again again) {
  if (TaskPtr t = table_.find(id))
    act(t, t->machine.boxFailed(std::move(why), again, monotonicNs()));
}

void Tasks::begin(const TaskPtr& t) {
  tell(x_, *t, Phase::started);
  claims_.started(*t);
  t->listener->onStarted();
  if (t->machine.stage() != TaskStage::running) return;
  t->io->begin();
  t->io->pushStdin(std::exchange(t->spec.stdin_data, {}));
  if (t->stdin_closed) t->io->endStdin();
}

// The box died before the task started: not the task's fault.
void Tasks::queueAgain(const TaskPtr& t) {
  lanes_.withdraw(t->lane, t->id);
  t->forgetBox();
  intake_.putBack(*t);
  armTimer(t);
  if (t->trial_of != 0) {
    if (!x_.serving() || !x_.trial_boxes->askTrialBox(t->trial_of, t->id, t->rehearsed))
      return act(t, t->machine.stop(Cause::internal, "its box was lost", monotonicNs()));
    return act(t, t->machine.admitted(monotonicNs()));
  }
  if (auto accepted = x_.registry.accepts(t->lane, monotonicNs()); !accepted)
    return act(t, t->machine.stop(Cause::internal, accepted.error().message, monotonicNs()));
  dispatch();
}

// Revokes before the box is killed. A task that never started keeps its session for another box.
void Tasks::leaveBroker(const TaskPtr& t) {
  const BoxPtr box = boxes_.find(t->box);
  if (!t->spec.session || !box || box->at_broker != Box::AtBroker::open) return;
  const auto left = [this, id = box->id](sched::SessionEnd end) {
    boxes_.brokerClosed(id, std::move(end));
  };
  if (t->ran())
    t->spec.session->end(left);
  else
    t->spec.session->leave(left);
}

void Tasks::end(const TaskPtr& t) {
  claims_.over(*t);
  tell(x_, *t, Phase::exited);
  leaveBroker(t);
  if (t->box == 0) {  // it still waited for a box
    lanes_.withdraw(t->lane, t->id);
    return act(t, t->machine.boxFailed({}, Again::no, monotonicNs()));
  }
  spawner::Request r;
  std::vector<SpawnerLink::SharedFd> fds;
  t->collectWith(&r, &fds, x_.options.collect_ms_max);
  boxes_.endClaimed(t->box, r, std::move(fds));
}

void Tasks::finish(const TaskPtr& t) {
  t->timer.cancel();
  if (t->io) t->io->close();
  if (t->machine.receiptOverdue()) {
    t->receipt = x_.ledger
                     .overdue(t->box, boxes_.awaitsBroker(t->box)
                                          ? "the broker did not confirm in time that it is closed"
                                          : "the spawner gave no receipt in time")
                     .receipt;
    t->slot_free = false;
    if (x_.link.isSilent()) t->machine.unproven("the spawner does not answer");
  } else if (t->box == 0) {
    t->receipt.complete = true;  // it had no box: nothing can be left
  }
  intake_.ended(*t);
  table_.remove(t->id);
  tell(x_, *t, Phase::receipt);
  sched::TaskResult r = t->result(x_.accounts, x_.options.collect_ms_max);
  if (t->spec.owner != kOwn) x_.observer.taskEnded(labelsOf(x_, *t), r.verdict, r.usage, r.phases);
  x_.observer.receipt(r.template_name, r.receipt);
  t->spec.account.reset();
  if (t->spec.session) std::exchange(t->spec.session, nullptr)->end({});
  t->listener->onResult(std::move(r));
  dispatch();
  x_.events.onTaskEnded();
}

// --- events of clones and streams ---------------------------------------------------

void Tasks::onCloneStarted(base::TaskId id, const zygote::Started& started) {
  TaskPtr t = table_.find(id);
  if (!t) return;
  const uint64_t now_ns = monotonicNs();
  if (started.error != 0)
    return act(t, t->machine.controlBroken(stepFailed("the clone could not start the task",
                                                      started.step, started.error, {}),
                                           Again::no, now_ns));
  if (t->machine.stage() == TaskStage::claiming && t->phase(Phase::claimed) == 0)
    return act(
        t, t->machine.controlBroken("the clone started before it had a task", Again::no, now_ns));
  t->fresh_runtime = started.fresh != 0;
  act(t, t->machine.started(started.at_ns, now_ns));
}

void Tasks::onControlBroken(base::TaskId id, std::string why) {
  if (TaskPtr t = table_.find(id))
    act(t, t->machine.controlBroken(std::move(why), Again::yes, monotonicNs()));
}

void Tasks::onTaskOutput(base::TaskId id, Stream stream, std::string_view bytes) {
  TaskPtr t = table_.find(id);
  if (!t) return;
  if (t->phase(Phase::firstByte) == 0) {
    t->machine.firstByte(monotonicNs());
    tell(x_, *t, Phase::firstByte);
  }
  if (t->spec.live_output)
    t->listener->onOutput(stream, bytes);
  else
    t->keep(stream, bytes);
}

void Tasks::onOutputOver(base::TaskId id, Stream stream) {
  if (TaskPtr t = table_.find(id))
    act(t, t->machine.outputOver(stream == Stream::out ? "stdout" : "stderr", monotonicNs()));
}

void Tasks::onStdinTaken(base::TaskId id, uint64_t bytes) {
  TaskPtr t = table_.find(id);
  if (!t) return;
  t->input.shrink(bytes);
  t->listener->onStdinAccepted(bytes);
}

// --- events of the spawner ------------------------------------------------------------

void Tasks::onBoxEvent(base::TaskId id, const Event& e) {
  TaskPtr t = table_.find(id);
  if (!t) return;  // it already has its result: only the receipt is awaited
  const uint64_t now_ns = monotonicNs();
  const sched::ExitStatus exit{e.exit_code, e.exit_status, e.terminated != 0};
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
      // A sample from before the claim belongs to the clone's making.
      if (e.at_ns < t->phase(Phase::claimed)) return;
      return act(t, t->machine.sampled(toCounters(e.counters), now_ns));
    case Kind::boxReaped:
      act(t, t->machine.boxReaped(exit, toCounters(e.counters), e.clone_exited_ns, now_ns));
      return tell(x_, *t, Phase::reaped);
    default:
      return;
  }
}

bool Tasks::onBoxGone(base::TaskId id, const Event& e, const reap::Closed& closed) {
  TaskPtr t = table_.find(id);
  if (!t) return false;
  t->receipt = closed.receipt;
  t->slot_free = closed.slot == reap::Closed::Slot::free;
  t->collected(e);
  act(t, t->machine.boxGone(closed.receipt.complete, monotonicNs()));
  return true;
}

void Tasks::onSlotFree(base::TaskId id) {
  intake_.slotFree(id);
  dispatch();
  x_.events.onTaskEnded();
}

// --- templates, and the end -----------------------------------------------------------

void Tasks::zygoteGone(base::ZygoteId zygote, const std::vector<base::TaskId>& waiting) {
  std::vector<TaskPtr> wait;
  for (const TaskPtr& t : table_.all())
    if (t->trial_of == zygote && t->box == 0) wait.push_back(t);
  for (base::TaskId id : waiting)
    if (TaskPtr t = table_.find(id)) wait.push_back(t);
  for (const TaskPtr& t : wait) act(t, t->machine.templateGone(monotonicNs()));
}

void Tasks::failQueue(base::LaneId lane, const std::string& why) {
  for (base::TaskId id : intake_.queuedFor(lane))
    if (TaskPtr t = table_.find(id)) act(t, t->machine.stop(Cause::internal, why, monotonicNs()));
}

void Tasks::stopAll(Cause cause) {
  for (const TaskPtr& t : table_.all()) act(t, t->machine.stop(cause, {}, monotonicNs()));
}

void Tasks::abandon(Cause cause, const std::string& why, const std::string& no_receipt) {
  for (const TaskPtr& t : table_.all()) {
    const uint64_t now_ns = monotonicNs();
    if (!why.empty()) {
      t->machine.stop(cause, why, now_ns);
      t->machine.unproven(why);
    }
    if (t->io) t->io->close();
    if (t->box != 0) {
      t->receipt = x_.ledger.overdue(t->box, no_receipt).receipt;
      t->slot_free = false;
    }
    t->machine.boxGone(false, now_ns);
    finish(t);
  }
}

}  // namespace mayfly::core
