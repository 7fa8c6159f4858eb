#include "clone/engine.h"

#include <string.h>

#include <algorithm>
#include <boost/asio/post.hpp>

#include "base/clock.h"
#include "base/text.h"
#include "clone/engine_task.h"
#include "clone/spool.h"
#include "sched/validate.h"

namespace mayfly::clone {

using base::Code;
using base::fail;
using base::monotonicNs;
using base::Phase;
using sched::Act;
using sched::Acts;
using sched::Cause;
using sched::Stream;
using sched::TaskState;
using spawner::Event;
using spawner::Kind;

namespace {

constexpr uint32_t kStartMs = 1'000;  // a daemon that is started anew answers about then

// The caps that the spawner keeps; the clone sets the others by itself.
bool sameBoxCaps(const base::Limits& a, const base::Limits& b) {
  return a.cpu_milli == b.cpu_milli && a.memory_bytes == b.memory_bytes &&
         a.processes == b.processes && a.disk_bytes == b.disk_bytes &&
         a.disk_inodes == b.disk_inodes;
}

}  // namespace

Engine::Engine(boost::asio::io_context& io, EngineOptions options, base::Observer& observer,
               EngineOwner& owner)
    : io_(io),
      options_(std::move(options)),
      observer_(observer),
      owner_(owner),
      link_(io, *this),
      plan_({.makers = static_cast<double>(options_.making_max),
             .memory_bytes_max = options_.parked_memory_bytes_max,
             .boxes_max = options_.budget.parked_max + options_.budget.stocked_max,
             .parked_max = options_.budget.parked_max}),
      admission_(options_.budget),
      ledger_(options_.quarantine),
      spools_(options_.out_files_held_bytes_max),
      template_timer_(io),
      stop_timer_(io),
      refill_timer_(io) {}

Engine::~Engine() {
  for (auto& [id, box] : boxes_)
    if (box->io) box->io->close();
  for (auto& [id, z] : zygotes_)
    if (z.log) z.log->close();
}

Engine::TaskPtr Engine::find(base::TaskId id) const {
  auto at = tasks_.find(id);
  return at != tasks_.end() ? at->second : nullptr;
}

base::TaskLabels Engine::labelsOf(const Task& t) const {
  const pool::TemplateSpec& tmpl = *registry_.get(t.tmpl);
  return {t.id, tmpl.name, tmpl.mechanism, t.spec.user, t.spec.tenant};
}

void Engine::phase(const Task& t, Phase p) {
  if (uint64_t at = t.machine.phases()[static_cast<size_t>(p)]; at != 0 && t.spec.owner != kOwn)
    observer_.taskPhase(labelsOf(t), p, at);
}

// --- what the edges ask ----------------------------------------------------------

base::Result<base::TaskId> Engine::submit(sched::TaskSpec spec,
                                          std::shared_ptr<sched::TaskListener> listener) {
  auto accepted = [&]() -> base::Result<base::TaskId> {
    if (stopping_ != Stopping::no)
      return fail(Code::unavailable, "the daemon is stopping", "Connect anew when it is back.",
                  kStartMs);
    base::TemplateId tmpl_id = 0;
    const pool::TemplateSpec* tmpl = registry_.find(spec.template_name, &tmpl_id);
    if (tmpl == nullptr)
      return fail(Code::notFound,
                  "there is no template '" + base::printable(spec.template_name, 80) + "'",
                  "`mayfly templates` lists them.");
    MAYFLY_TRY(base::Limits limits, sched::checkSpec(spec, *tmpl));
    MAYFLY_CHECK(ledger_.accepts(spec.owner));
    if (spec.collect_out_files) MAYFLY_CHECK(spools_.accepts(spec.owner));
    uint64_t held_bytes = sched::heldBytes(spec);
    if (input_held_bytes_ + held_bytes > options_.input_held_bytes_max)
      return fail(Code::resourceExhausted,
                  "the daemon holds " + base::humanBytes(input_held_bytes_) +
                      " of input for waiting tasks and may hold " +
                      base::humanBytes(options_.input_held_bytes_max),
                  "Try again later.", base::kRetryMs);
    const sched::Demand demand{
        limits.memory_bytes + (spec.collect_out_files ? limits.out_files_bytes : 0), kFdsPerBox,
        limits.processes + kPidsPerBox, tmpl->ptys};
    // What is refused takes no tenant's zygote away.
    MAYFLY_CHECK(admission_.accepts(spec.owner, demand));
    auto lane =
        registry_.laneFor(tmpl_id, std::to_string(spec.user) + "/" + spec.tenant, monotonicNs());
    syncLanes();
    MAYFLY_CHECK(lane);
    base::TaskId id = next_task_;
    MAYFLY_CHECK(admission_.enqueue(id, spec.owner, *lane, demand));
    ++next_task_;
    sched::Bounds bounds = options_.bounds;
    bounds.make_ns += sched::copyTime_ns(sched::inputBytes(spec), limits);
    auto t = std::make_shared<Task>(io_, id, limits, bounds, monotonicNs());
    t->tmpl = tmpl_id;
    t->lane = *lane;
    registry_.taskBegan(*lane);
    t->input_left_bytes = limits.input_bytes - sched::inputBytes(spec);
    t->input_held_bytes = held_bytes;
    t->stdin_closed = !spec.stdin_open;
    t->spec = std::move(spec);
    t->listener = std::move(listener);
    input_held_bytes_ += held_bytes;
    tasks_[id] = t;
    plan_.onArrival(*lane, monotonicNs());
    phase(*t, Phase::queued);
    return id;
  }();
  if (!accepted) {
    observer_.taskRefused(base::printable(spec.template_name, 80),
                          base::name(accepted.error().code));
    return accepted;
  }
  observer_.taskAccepted(labelsOf(*find(*accepted)));
  // From the loop: the caller learns the id before the first callback comes.
  boost::asio::post(io_, [this] {
    dispatch();
    resizePools();
  });
  return accepted;
}

base::Status Engine::writeStdin(base::TaskId id, std::string data) {
  TaskPtr t = find(id);
  if (!t) return fail(Code::notFound, "there is no task " + std::to_string(id));
  if (t->stdin_closed) return fail(Code::failedPrecondition, "the task's stdin is closed");
  if (data.size() > t->input_left_bytes)
    return fail(Code::invalidArgument,
                "standard input goes beyond the task's input cap of " +
                    base::humanBytes(t->machine.limits().input_bytes),
                "Give the task a larger cap `input`.");
  if (input_held_bytes_ + data.size() > options_.input_held_bytes_max)
    return fail(Code::resourceExhausted, "the daemon holds too much input of waiting tasks",
                "Try again later.", base::kRetryMs);
  t->input_left_bytes -= data.size();
  t->input_held_bytes += data.size();
  input_held_bytes_ += data.size();
  if (t->machine.state() == TaskState::running)
    t->io->pushStdin(std::move(data));
  else if (t->machine.state() < TaskState::running)
    t->spec.stdin_data += data;
  else
    onStdinTaken(id, data.size());  // it ends: nobody reads any more
  return base::Unit{};
}

base::Status Engine::closeStdin(base::TaskId id) {
  TaskPtr t = find(id);
  if (!t) return fail(Code::notFound, "there is no task " + std::to_string(id));
  if (t->stdin_closed) return base::Unit{};
  t->stdin_closed = true;
  if (t->machine.state() == TaskState::running) t->io->endStdin();
  return base::Unit{};
}

void Engine::acknowledgeOutput(base::TaskId id, Stream stream, uint64_t bytes) {
  if (TaskPtr t = find(id); t && t->io) t->io->acknowledge(stream, bytes);
}

base::Status Engine::cancel(base::TaskId id) {
  TaskPtr t = find(id);
  if (!t || t->spec.owner == kOwn)
    return fail(Code::notFound, "there is no task " + std::to_string(id));
  act(t, t->machine.stop(Cause::cancelled, {}, monotonicNs()));
  return base::Unit{};
}

void Engine::ownerGone(sched::OwnerId owner) {
  std::vector<TaskPtr> its;
  for (const auto& [id, t] : tasks_)
    if (t->spec.owner == owner) its.push_back(t);
  for (const TaskPtr& t : its) act(t, t->machine.stop(Cause::clientGone, {}, monotonicNs()));
}

sched::TaskInfo Engine::infoOf(const Task& t) const {
  const base::Phases& p = t.machine.phases();
  TaskState s = t.machine.state();
  return {t.id,
          t.spec.template_name,
          std::string(s == TaskState::claiming ? "making" : sched::name(s)),
          p[static_cast<size_t>(Phase::queued)],
          p[static_cast<size_t>(Phase::started)],
          pidOf(t.box),
          t.spec.owner};
}

std::optional<sched::TaskInfo> Engine::info(base::TaskId id) const {
  TaskPtr t = find(id);
  return t && t->spec.owner != kOwn ? std::optional(infoOf(*t)) : std::nullopt;
}

std::vector<sched::TaskInfo> Engine::tasks() const {
  std::vector<sched::TaskInfo> list;
  list.reserve(tasks_.size());
  for (const auto& [id, t] : tasks_)
    if (t->spec.owner != kOwn) list.push_back(infoOf(*t));
  std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.task < b.task; });
  return list;
}

// --- what the machine answers ------------------------------------------------------

void Engine::dispatch() {
  if (dispatching_ || !spawner_ready_ || stopping_ != Stopping::no) return;
  dispatching_ = true;
  while (auto id = admission_.next([this](base::LaneId lane) { return registry_.ready(lane); })) {
    TaskPtr t = find(*id);
    if (t)
      act(t, t->machine.admitted(monotonicNs()));
    else
      admission_.release(*id);
  }
  dispatching_ = false;
  observer_.queueLength(static_cast<uint32_t>(admission_.queued()));
  observer_.boxesAlive(static_cast<uint32_t>(ledger_.alive()));
}

void Engine::act(const TaskPtr& t, const Acts& acts) {
  for (Act a : acts) {
    switch (a) {
      case Act::make:
        make(t);
        break;
      case Act::claim:
        t->claim_wanted = true;
        phase(*t, Phase::clone);
        claim(t);
        break;
      case Act::begin:
        phase(*t, Phase::started);
        claimOver(*t);
        t->blob.reset();
        dropInput(*t, t->blob_bytes);
        t->listener->onStarted();
        if (t->machine.state() != TaskState::running) break;
        t->io->begin();
        t->io->pushStdin(std::exchange(t->spec.stdin_data, {}));
        if (t->stdin_closed) t->io->endStdin();
        break;
      case Act::sample: {
        spawner::Request r;
        r.op = spawner::Op::sample;
        r.box = t->box;
        link_.send(r);
        break;
      }
      case Act::end:
        end(t);
        break;
      case Act::drain:
        if (t->io) t->io->drain();
        break;
      case Act::queue:
        queueAgain(t);
        return;
      case Act::finish:
        finish(t);
        return;
    }
  }
  armTimer(t);
}

void Engine::armTimer(const TaskPtr& t) {
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
    if (failed || !task || task->machine.state() == TaskState::done) return;
    task->armed_ns = 0;
    act(task, task->machine.tick(monotonicNs()));
  });
}

void Engine::make(const TaskPtr& t) {
  uint64_t now_ns = monotonicNs();
  phase(*t, Phase::box);
  if (t->blob) return obtain(t);  // of an earlier box, lost before the task started
  t->blob_bytes = sched::heldBytes(t->spec) - t->spec.stdin_data.size();
  const pool::TemplateSpec& spec = *registry_.get(t->tmpl);
  auto env = spec.env;
  const uint32_t cpus = (t->machine.limits().cpu_milli + 999) / 1'000;
  for (const std::string& name : spec.cpus_env) env.emplace_back(name, std::to_string(cpus));
  auto blob = BlobWriter::create(t->spec, env);
  if (!blob) {
    act(t, t->machine.stop(Cause::internal, std::move(blob).error().message, now_ns));
    return;
  }
  t->blob = std::move(*blob);
  writeBlob(t);
  if (t->machine.state() == TaskState::making) obtain(t);
}

void Engine::writeBlob(const TaskPtr& t) {
  if (!t->blob || t->machine.state() == TaskState::done) return;
  auto done = t->blob->step();
  if (!done) {
    act(t, t->machine.stop(Cause::internal, std::move(done).error().message, monotonicNs()));
    return;
  }
  if (!*done) {
    boost::asio::post(io_, [this, t] { writeBlob(t); });
    return;
  }
  t->blob_written = true;
  t->spec.code = {};
  t->spec.files = {};
  claim(t);
}

void Engine::claim(const TaskPtr& t) {
  if (!t->claim_wanted || !t->blob_written || t->machine.state() != TaskState::claiming) return;
  const base::Limits& l = t->machine.limits();
  zygote::Claim c;
  std::vector<int> fds = t->blob->fds();
  c.block_bytes = t->blob->bytes();
  c.blob_fds = static_cast<uint32_t>(fds.size() - 1);
  c.open_files = l.open_files;
  c.file_size_bytes = l.file_size_bytes;
  c.cpu_time_s = l.cpu_time_ms / 1000 + 2;  // the backstop; sampling is first
  uint64_t now_ns = monotonicNs();
  BoxPtr box = findBox(t->box);
  const bool stand = box && sameBoxCaps(box->caps, l);
  c.caps_stand = stand ? 1 : 0;
  spawner::Request r;
  r.op = spawner::Op::claim;
  r.box = t->box;
  r.limits = l;
  r.claimed_ns = now_ns;
  // Whom the task waits for is woken first.
  if (stand)
    r.flags |= spawner::kCapsStand;
  else
    link_.send(r);
  auto sent = t->io->claim(c, fds);
  if (stand) link_.send(r);
  t->machine.claimed(now_ns);
  phase(*t, Phase::claimed);
  if (Lane* lane = findLane(t->lane)) {
    t->under_way = true;
    lane->refill.claimBegan(now_ns);
  }
  if (!sent)
    act(t, t->machine.controlBroken(std::move(sent).error().in("cannot claim").message,
                                    sched::Again::yes, now_ns));
}

// Its box was lost before the task started: no fault of the task's.
void Engine::queueAgain(const TaskPtr& t) {
  if (Lane* lane = findLane(t->lane)) lane->refill.withdraw(t->id);
  t->io.reset();
  t->box = 0;
  t->claim_wanted = false;
  t->spool.reset();
  t->collect = spawner::CollectState::none;
  t->collect_text.clear();
  admission_.putBack(t->id, t->spec.owner, t->lane);
  armTimer(t);
  if (t->spec.owner == kOwn) {
    if (stopping_ != Stopping::no || zygotes_.count(t->trial_of) == 0)
      return act(t, t->machine.stop(Cause::internal, "its box was lost", monotonicNs()));
    askTrialBox(t->trial_of, t->id, t->rehearsed);
    return act(t, t->machine.admitted(monotonicNs()));
  }
  if (auto accepted = registry_.accepts(t->lane, monotonicNs()); !accepted)
    return act(t, t->machine.stop(Cause::internal, accepted.error().message, monotonicNs()));
  dispatch();
}

void Engine::dropInput(Task& t, uint64_t bytes) {
  bytes = std::min(bytes, t.input_held_bytes);
  t.input_held_bytes -= bytes;
  input_held_bytes_ -= bytes;
}

// It started, or never will: parking may go on.
void Engine::claimOver(Task& t) {
  if (!std::exchange(t.under_way, false)) return;
  Lane* lane = findLane(t.lane);
  if (lane == nullptr) return;
  lane->refill.claimOver();
  boost::asio::post(io_, [this, id = t.lane] { refill(id); });
}

void Engine::end(const TaskPtr& t) {
  claimOver(*t);
  phase(*t, Phase::exited);
  if (t->box == 0) {  // it still waited for one
    if (Lane* lane = findLane(t->lane)) lane->refill.withdraw(t->id);
    return act(t, t->machine.boxFailed({}, sched::Again::no, monotonicNs()));
  }
  spawner::Request r;
  r.op = spawner::Op::end;
  r.box = t->box;
  std::vector<SpawnerLink::SharedFd> fds;
  bool ran = t->machine.phases()[static_cast<size_t>(Phase::started)] != 0;
  Cause cause = t->machine.ending().first;
  if (t->spec.collect_out_files && ran && cause != Cause::clientGone) {
    auto spool = base::makeMemfd("out");
    if (spool) {
      t->spool = std::make_shared<base::Fd>(std::move(*spool));
      r.flags |= spawner::kCollect;
      r.collect_ms_max = options_.collect_ms_max;
      r.limits = t->machine.limits();
      fds.push_back(t->spool);
    } else {
      t->collect_text = std::move(spool).error().message;
    }
  }
  if (BoxPtr box = findBox(t->box)) box->machine.on(pool::BoxEvent::end);
  link_.send(r, std::move(fds));
}

void Engine::collectFiles(Task& t, sched::TaskResult* r) {
  r->out_files_note = t.collect_text;
  if (!t.spool) return;
  if (t.collect == spawner::CollectState::timedOut)
    r->out_files_note = "collecting took longer than " + std::to_string(options_.collect_ms_max) +
                        " ms; what is there may not be all";
  if (t.collect == spawner::CollectState::failed && r->out_files_note.empty())
    r->out_files_note = "collecting failed";
  if (t.collect == spawner::CollectState::none) {
    r->out_files_note = "nothing was collected";
    return;
  }
  auto files = readSpool(t.spool->view(), t.machine.limits());
  if (!files) {
    if (r->out_files_note.empty()) r->out_files_note = files.error().message;
    return;
  }
  // A note without a name is on /task/out itself.
  std::erase_if(*files, [&](const base::OutFile& file) {
    if (!file.path.empty()) return false;
    if (r->out_files_note.empty()) r->out_files_note = file.skipped;
    return true;
  });
  r->out_files = std::move(*files);
  // Where it left nothing, nothing is kept.
  if (!r->out_files.empty()) r->spool = spools_.hold(std::move(t.spool), t.spec.owner);
  t.spool.reset();
}

sched::TaskResult Engine::result(Task& t) {
  sched::TaskResult r;
  sched::Judgement j = t.machine.judgement();
  r.task = t.id;
  r.template_name = t.spec.template_name;
  r.verdict = j.verdict;
  r.exit_code = j.exit_code;
  r.signal = j.signal;
  r.reason = std::move(j.reason);
  r.cap_value = j.cap_value;
  r.limits = t.machine.limits();
  r.usage =
      t.machine.usage(t.io ? t.io->bytes(Stream::out) : 0, t.io ? t.io->bytes(Stream::err) : 0);
  r.usage.fresh_runtime = t.fresh_runtime;
  r.phases = t.machine.phases();
  r.receipt = t.receipt;
  for (size_t s = 0; s < 2; ++s) {
    r.captured[s] = std::move(t.captured[s]);
    r.truncated[s] = t.truncated[s];
  }
  collectFiles(t, &r);
  return r;
}

void Engine::finish(const TaskPtr& t) {
  t->timer.cancel();
  if (t->io) t->io->close();
  if (t->machine.receiptOverdue()) {
    auto closed = ledger_.overdue(t->box, "the spawner gave no receipt in time");
    t->receipt = closed.receipt;
    t->slot_free = false;
  } else if (t->box == 0) {
    t->receipt.complete = true;  // it had no box: nothing can be left
  }
  admission_.withdraw(t->id);
  if (t->slot_free) admission_.release(t->id);
  if (t->trial_of == 0) registry_.taskEnded(t->lane, monotonicNs());
  dropInput(*t, t->input_held_bytes);
  tasks_.erase(t->id);
  phase(*t, Phase::receipt);
  sched::TaskResult r = result(*t);
  if (t->spec.owner != kOwn) observer_.taskEnded(labelsOf(*t), r.verdict, r.usage, r.phases);
  observer_.receipt(r.template_name, r.receipt);
  t->listener->onResult(std::move(r));
  dispatch();
  checkStopped();
}

}  // namespace mayfly::clone
