#include "core/boxes.h"

#include <string.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/text.h"
#include "core/doors.h"

namespace mayfly::core {

using base::monotonicNs;
using pool::BoxEvent;
using pool::BoxMachine;
using pool::BoxStep;
using pool::ClonePool;
using sched::Again;
using sched::Stream;
using spawner::Event;
using spawner::Kind;

std::string stepFailed(std::string_view what, std::string_view step, int error,
                       std::string_view text) {
  std::string why(what);
  if (!step.empty()) why += " at step '" + base::printable(step) + "'";
  if (error != 0)
    why += ": " + std::string(::strerrordesc_np(error) ? ::strerrordesc_np(error) : "?");
  if (!text.empty()) why += ": " + base::printable(text);
  return why;
}

Boxes::~Boxes() {
  for (auto& [id, box] : boxes_)
    if (box->io) box->io->close();
}

BoxPtr Boxes::find(base::BoxId id) const {
  auto at = boxes_.find(id);
  return at != boxes_.end() ? at->second : nullptr;
}

base::TaskId Boxes::taskOf(base::BoxId id) const {
  BoxPtr box = find(id);
  return box ? box->task : 0;
}

uint32_t Boxes::countOf(base::TemplateId id) const {
  uint32_t count = 0;
  for (const auto& [box_id, box] : boxes_) count += box->zygote.tmpl == id ? 1 : 0;
  return count;
}

uint32_t Boxes::ofZygote(base::ZygoteId id) const {
  auto at = of_zygote_.find(id);
  return at != of_zygote_.end() ? at->second : 0;
}

void Boxes::addTo(std::vector<base::TemplateReport>* reports) const {
  for (const auto& [id, box] : boxes_) {
    const size_t at = box->zygote.tmpl - 1;
    if (at >= reports->size()) continue;
    base::TemplateReport& r = (*reports)[at];
    ++r.boxes;
    if (box->machine.state() == pool::BoxState::claimed) ++r.claimed;
    if (box->machine.state() == pool::BoxState::ending) ++r.dying;
  }
}

// --- asked by keepers and tasks -------------------------------------------------------

BoxPtr Boxes::make(const ZygoteRef& zygote, BoxKeeper& keeper, BoxMachine::First first,
                   const base::Limits& caps, ClonePool::Rehearsed rehearsed) {
  auto box = std::make_shared<Box>(next_box_++, keeper, first);
  box->zygote = zygote;
  box->caps = caps;
  box->asked_ns = monotonicNs();
  boxes_[box->id] = box;
  ++of_zygote_[zygote.id];
  x_.ledger.opened(box->id, zygote.tmpl, box->asked_ns);
  sendMake(*box, spawner::Op::make, rehearsed);
  return box;
}

void Boxes::makeClone(const BoxPtr& box, const base::Limits& caps, ClonePool::Rehearsed rehearsed) {
  box->machine.on(BoxEvent::clone);
  box->caps = caps;
  box->asked_ns = monotonicNs();
  sendMake(*box, spawner::Op::clone, rehearsed);
}

void Boxes::sendMake(const Box& box, spawner::Op op, ClonePool::Rehearsed rehearsed) {
  spawner::Request r;
  r.op = op;
  r.box = box.id;
  r.zygote_id = box.zygote.id;
  r.limits = box.caps;
  if (box.machine.stock()) r.flags |= spawner::kStock;
  if (rehearsed == ClonePool::Rehearsed::yes) r.flags |= spawner::kRehearse;
  x_.link.send(r);
}

void Boxes::end(const BoxPtr& box) {
  if (box->machine.on(BoxEvent::end) == BoxStep::next) sendEnd(*box);
}

void Boxes::end(const std::vector<base::BoxId>& boxes) {
  for (base::BoxId id : boxes)
    if (BoxPtr box = find(id)) end(box);
}

// Every descriptor of ours.
void Boxes::close(Box& box) {
  if (box.io) box.io->close();
  box.doors.reset();
}

void Boxes::sendEnd(Box& box) {
  close(box);
  spawner::Request r;
  r.op = spawner::Op::end;
  r.box = box.id;
  x_.link.send(r);
}

void Boxes::sample(base::BoxId box) {
  spawner::Request r;
  r.op = spawner::Op::sample;
  r.box = box;
  x_.link.send(r);
}

void Boxes::terminate(base::BoxId box) {
  spawner::Request r;
  r.op = spawner::Op::terminate;
  r.box = box;
  x_.link.send(r);
}

bool Boxes::claim(const BoxPtr& box, base::TaskId task, const sched::AccountRef& account) {
  if (box->machine.on(BoxEvent::claim) != BoxStep::next) return false;
  box->task = task;
  x_.ledger.claimed(box->id, task, account);
  return true;
}

void Boxes::endClaimed(base::BoxId id, spawner::Request r, std::vector<SpawnerLink::SharedFd> fds) {
  r.op = spawner::Op::end;
  r.box = id;
  if (BoxPtr box = find(id)) box->machine.on(BoxEvent::end);
  x_.link.send(r, std::move(fds));
}

// Whether the event was in its place. If the box must end because of it, the box is lost for the
// reason `why`.
bool Boxes::step(const BoxPtr& box, BoxEvent event, std::string why, Again again) {
  const BoxStep step = box->machine.on(event);
  if (step == BoxStep::end) {
    sendEnd(*box);
    box->keeper.onLost(box, std::move(why), again);
  }
  return step == BoxStep::next;
}

// Proven gone, or never made.
void Boxes::drop(const BoxPtr& box) {
  box->machine.on(BoxEvent::gone);
  boxes_.erase(box->id);
  if (auto at = of_zygote_.find(box->zygote.id); --at->second == 0) of_zygote_.erase(at);
  x_.events.onBoxDropped(box->zygote.id);
}

void Boxes::tellReceipt(const Box& box, const base::Receipt& receipt) {
  x_.observer.receipt(x_.registry.get(box.zygote.tmpl)->name, receipt);
}

// --- events of clones and streams ---------------------------------------------------

void Boxes::onCloneReady(base::BoxId id, const zygote::CloneReady& ready) {
  BoxPtr box = find(id);
  if (!box) return;
  if (ready.error != 0) {
    step(box, BoxEvent::lost, stepFailed("the clone failed", ready.step, ready.error, {}),
         Again::no);
    return;
  }
  if (!step(box, BoxEvent::ready, "the clone said out of place that it is ready", Again::no))
    return;
  box->ready_ns = ready.at_ns;
  box->keeper.onReady(box);
}

void Boxes::onCloneStarted(base::BoxId id, const zygote::Started& started) {
  BoxPtr box = find(id);
  if (!box) return;
  if (box->task != 0)
    x_.claimant->onCloneStarted(box->task, started);
  else
    step(box, BoxEvent::lost, "the clone started before it had a task", Again::no);
}

void Boxes::onControlBroken(base::BoxId id, std::string why) {
  BoxPtr box = find(id);
  if (!box) return;
  if (box->task != 0)
    x_.claimant->onControlBroken(box->task, std::move(why));
  else
    step(box, BoxEvent::lost, std::move(why), Again::yes);
}

void Boxes::onTaskOutput(base::BoxId id, Stream stream, std::string_view bytes) {
  if (base::TaskId task = taskOf(id)) x_.claimant->onTaskOutput(task, stream, bytes);
}

void Boxes::onOutputOver(base::BoxId id, Stream stream) {
  if (base::TaskId task = taskOf(id)) x_.claimant->onOutputOver(task, stream);
}

void Boxes::onStdinTaken(base::BoxId id, uint64_t bytes) {
  if (base::TaskId task = taskOf(id)) x_.claimant->onStdinTaken(task, bytes);
}

// --- events of the spawner ----------------------------------------------------------------

void Boxes::onSpawnerEvent(const Event& event, std::span<base::Fd> fds) {
  if (event.kind == Kind::boxGone) return gone(event);
  BoxPtr box = find(event.box);
  if (!box) return;
  // Read first: the clone sent its messages earlier, though on another socket.
  if (box->io) box->io->pollControl();
  if (event.kind == Kind::boxReaped) x_.ledger.reaped(event);
  if (box->task != 0)
    x_.claimant->onBoxEvent(box->task, event);
  else
    unclaimedEvent(box, event, fds);
}

void Boxes::unclaimedEvent(const BoxPtr& box, const Event& e, std::span<base::Fd> fds) {
  switch (e.kind) {
    case Kind::boxMade:
      return made(box, e, fds);
    case Kind::boxStocked:
      if (step(box, BoxEvent::stocked, "the spawner reported a stocked box out of place",
               Again::no))
        box->keeper.onStocked(box);
      return;
    case Kind::boxFailed:
      x_.ledger.neverMade(e.box, monotonicNs());
      drop(box);
      box->keeper.onLost(box, stepFailed("the box could not be made", e.step, e.sys, e.text),
                         e.again != 0 ? Again::yes : Again::no);
      return x_.claimant->onSlotFree(0);
    case Kind::cloneExited:
      step(box, BoxEvent::lost, "a clone ended without a task", Again::yes);
      return;
    case Kind::boxDied:
      step(box, BoxEvent::lost, base::printable(e.text), Again::yes);
      return;
    case Kind::capHit:
      step(box, BoxEvent::lost, "a clone without a task reached a cap of its template", Again::no);
      return;
    case Kind::sampled:
      return box->keeper.onMeasured(box, e.counters.memory_peak_bytes);
    default:
      return;
  }
}

void Boxes::made(const BoxPtr& box, const Event& e, std::span<base::Fd> fds) {
  // If the box is ending, the descriptors are dropped.
  if (!step(box, BoxEvent::made, "the spawner reported a clone out of place", Again::no)) return;
  box->pid_host = e.pid_host;
  box->stands_ns = e.box_ready_ns;
  box->made_ns = e.at_ns;
  box->io = std::make_shared<TaskIo>(x_.io, static_cast<TaskIo::Sink&>(*this), box->id);
  const bool doors = x_.options.broker != nullptr;
  const size_t streams = doors ? std::min(fds.size(), kStreamFds) : fds.size();
  if (doors && !openDoors(box, fds.subspan(streams))) return;
  if (auto opened = box->io->open(fds.first(streams)); !opened)
    step(box, BoxEvent::lost, opened.error().message,
         opened.error().code == base::Code::resourceExhausted ? Again::yes : Again::no);
  else
    box->io->pollControl();
  if (box->machine.state() == pool::BoxState::made) awaitReady(box->id);
}

bool Boxes::openDoors(const BoxPtr& box, std::span<base::Fd> fds) {
  auto doors = core::openDoors(fds);
  if (doors) {
    box->doors = std::move(*doors);
    return true;
  }
  step(box, BoxEvent::lost, doors.error().message,
       doors.error().code == base::Code::resourceExhausted ? Again::yes : Again::no);
  return false;
}

void Boxes::awaitReady(base::BoxId id) {
  unready_.push_back({monotonicNs() + x_.options.clone_ready_ns_max, id});
  if (unready_.size() == 1) armReadyTimer();
}

void Boxes::armReadyTimer() {
  ready_timer_.expires_at(timePoint(unready_.front().due_ns));
  ready_timer_.async_wait([this](boost::system::error_code failed) {
    if (failed) return;
    const uint64_t now_ns = monotonicNs();
    while (!unready_.empty() && unready_.front().due_ns <= now_ns) {
      const BoxPtr box = find(unready_.front().box);
      unready_.pop_front();
      if (!box || box->machine.state() != pool::BoxState::made) continue;
      box->io->pollControl();
      if (box->machine.state() == pool::BoxState::made)
        step(box, BoxEvent::lost,
             "its clone was not ready within " +
                 std::to_string(x_.options.clone_ready_ns_max / 1'000'000) + " ms",
             Again::yes);
    }
    if (!unready_.empty()) armReadyTimer();
  });
}

void Boxes::gone(const Event& e) {
  BoxPtr box = find(e.box);
  if (box && box->io && box->task != 0) box->io->drain();
  if (box) close(*box);
  if (box && box->at_broker == Box::AtBroker::open) {
    box->gone = e;
    return;
  }
  auto closed = x_.ledger.gone(e, monotonicNs());
  if (!closed) return;
  if (box && box->at_broker == Box::AtBroker::closed) {
    closed->receipt.revoked_ns = box->session_end.revoked_ns;
    closed->receipt.broker_closed_ns = box->session_end.broker_closed_ns;
    closed->receipt.note = box->session_end.note;
  }
  const bool free = closed->slot == reap::Closed::Slot::free;
  if (box && box->task == 0) step(box, BoxEvent::lost, "it ended unasked", Again::yes);
  if (free && box) drop(box);
  if (box && box->task != 0 && x_.claimant->onBoxGone(box->task, e, *closed)) return;
  // Parked, or its task's result was already given: only the ledger waited for the receipt.
  if (closed->when == reap::Closed::When::late && free)
    x_.observer.receiptCompleted(closed->receipt);
  else if (box && box->task == 0)
    tellReceipt(*box, closed->receipt);
  if (!free) return;
  if (box && box->task == 0 && box->ready_ns != 0)
    x_.observer.cloneDiscarded(x_.registry.get(box->zygote.tmpl)->name);
  if (box) box->keeper.onGone(box);
  x_.claimant->onSlotFree(closed->task);
}

void Boxes::brokerClosed(base::BoxId id, sched::SessionEnd end) {
  const BoxPtr box = find(id);
  if (!box) return;
  box->at_broker = Box::AtBroker::closed;
  box->session_end = std::move(end);
  if (box->gone) gone(*std::exchange(box->gone, std::nullopt));
}

bool Boxes::awaitsBroker(base::BoxId id) const {
  const BoxPtr box = find(id);
  return box && box->gone;
}

void Boxes::onSpawnerLost(const std::string& why) {
  for (const auto& [id, box] : boxes_) {
    close(*box);
    if (box->task == 0) tellReceipt(*box, x_.ledger.overdue(id, why).receipt);
  }
}

}  // namespace mayfly::core
