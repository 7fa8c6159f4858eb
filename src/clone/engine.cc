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
  if (error != 0) why += ": " + std::string(::strerrordesc_np(error) ? ::strerrordesc_np(error) : "?");
  if (!text.empty()) why += ": " + base::printable(text);
  return why;
}

}  // namespace

Engine::Engine(boost::asio::io_context& io, EngineOptions options, base::Observer& observer,
               EngineWatcher& watcher)
    : io_(io),
      options_(std::move(options)),
      observer_(observer),
      watcher_(watcher),
      link_(io, *this),
      admission_(options_.budget),
      ledger_(options_.quarantine),
      template_timer_(io),
      stop_timer_(io) {}

Engine::~Engine() {
  for (auto& [id, t] : tasks_)
    if (t->io) t->io->close();
  for (Template& t : templates_)
    if (t.log) t.log->close();
}

Engine::TaskPtr Engine::find(base::TaskId id) const {
  auto at = tasks_.find(id);
  return at != tasks_.end() ? at->second : nullptr;
}

void Engine::phase(const Task& t, Phase p) {
  if (uint64_t at = t.machine.phases()[static_cast<size_t>(p)]; at != 0)
    observer_.taskPhase(t.id, p, at);
}

// --- what the edges ask ----------------------------------------------------------

base::Result<base::TaskId> Engine::submit(sched::TaskSpec spec,
                                          std::shared_ptr<sched::TaskListener> listener) {
  auto accepted = [&]() -> base::Result<base::TaskId> {
    if (stopping_ != Stopping::no) return fail(Code::unavailable, "the daemon is stopping");
    base::TemplateId tmpl_id = 0;
    const pool::TemplateSpec* tmpl = registry_.find(spec.template_name, &tmpl_id);
    if (tmpl == nullptr)
      return fail(Code::notFound,
                  "there is no template '" + base::printable(spec.template_name, 80) + "'",
                  "`mayfly templates` lists them.");
    MAYFLY_TRY(base::Limits limits, sched::checkSpec(spec, *tmpl));
    MAYFLY_CHECK(registry_.accepts(tmpl_id));
    MAYFLY_CHECK(ledger_.accepts(spec.owner));
    uint64_t held_bytes = sched::heldBytes(spec);
    if (input_held_bytes_ + held_bytes > options_.input_held_bytes_max)
      return fail(Code::resourceExhausted,
                  "the daemon holds " + base::humanBytes(input_held_bytes_) +
                      " of input for waiting tasks and may hold " +
                      base::humanBytes(options_.input_held_bytes_max),
                  "Try again later.");
    base::TaskId id = next_task_;
    MAYFLY_CHECK(admission_.enqueue(
        id, spec.owner, tmpl_id,
        {limits.memory_bytes, kFdsPerBox, limits.processes + kPidsPerBox}));
    ++next_task_;
    sched::Bounds bounds = options_.bounds;
    bounds.make_ns += sched::copyTime_ns(sched::inputBytes(spec), limits);
    auto t = std::make_shared<Task>(io_, id, limits, bounds, monotonicNs());
    t->tmpl = tmpl_id;
    t->input_left_bytes = limits.input_bytes - sched::inputBytes(spec);
    t->input_held_bytes = held_bytes;
    t->stdin_closed = !spec.stdin_open;
    t->spec = std::move(spec);
    t->listener = std::move(listener);
    input_held_bytes_ += held_bytes;
    tasks_[id] = t;
    phase(*t, Phase::queued);
    return id;
  }();
  if (!accepted) {
    observer_.taskRefused(base::printable(spec.template_name, 80),
                          base::name(accepted.error().code));
    return accepted;
  }
  observer_.taskAccepted(find(*accepted)->spec.template_name);
  // From the loop: the caller learns the id before the first callback comes.
  boost::asio::post(io_, [this] { dispatch(); });
  return accepted;
}

base::Status Engine::writeStdin(base::TaskId id, std::string data) {
  TaskPtr t = find(id);
  if (!t) return fail(Code::notFound, "there is no task " + std::to_string(id));
  if (t->stdin_closed) return fail(Code::failedPrecondition, "the task's stdin is closed");
  if (data.size() > t->input_left_bytes)
    return fail(Code::resourceExhausted,
                "standard input goes beyond the task's input cap of " +
                    base::humanBytes(t->machine.limits().input_bytes));
  if (input_held_bytes_ + data.size() > options_.input_held_bytes_max)
    return fail(Code::resourceExhausted, "the daemon holds too much input of waiting tasks",
                "Try again later.");
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
  if (!t) return fail(Code::notFound, "there is no task " + std::to_string(id));
  act(t, t->machine.stop(Cause::cancelled, {}, monotonicNs()));
  return base::Unit{};
}

void Engine::ownerGone(sched::OwnerId owner) {
  std::vector<TaskPtr> its;
  for (const auto& [id, t] : tasks_)
    if (t->spec.owner == owner) its.push_back(t);
  for (const TaskPtr& t : its) act(t, t->machine.stop(Cause::clientGone, {}, monotonicNs()));
}

std::vector<sched::TaskInfo> Engine::tasks() const {
  std::vector<sched::TaskInfo> list;
  list.reserve(tasks_.size());
  for (const auto& [id, t] : tasks_) {
    const base::Phases& p = t->machine.phases();
    TaskState s = t->machine.state();
    list.push_back({id, t->spec.template_name,
                    std::string(s == TaskState::claiming ? "making" : sched::name(s)),
                    p[static_cast<size_t>(Phase::queued)], p[static_cast<size_t>(Phase::started)],
                    t->pid_host, t->spec.owner});
  }
  std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.task < b.task; });
  return list;
}

// --- what the machine answers ------------------------------------------------------

void Engine::dispatch() {
  if (dispatching_ || !spawner_ready_ || stopping_ != Stopping::no) return;
  dispatching_ = true;
  while (auto id = admission_.next([this](base::TemplateId t) { return registry_.ready(t); })) {
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
  t->box = next_box_++;
  task_of_box_[t->box] = t->id;
  uint64_t now_ns = monotonicNs();
  ledger_.opened(t->box, t->id, t->spec.owner, now_ns);
  spawner::Request r;
  r.op = spawner::Op::make;
  r.box = t->box;
  r.template_id = t->tmpl;
  r.limits = t->machine.limits();
  link_.send(r);
  phase(*t, Phase::box);
  if (t->blob) return;  // of an earlier box, lost before the task started
  t->blob_bytes = sched::heldBytes(t->spec) - t->spec.stdin_data.size();
  auto blob = BlobWriter::create(t->spec, registry_.get(t->tmpl)->env);
  if (!blob) {
    act(t, t->machine.stop(Cause::internal, std::move(blob).error().message, now_ns));
    return;
  }
  t->blob = std::move(*blob);
  writeBlob(t);
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
  spawner::Request r;
  r.op = spawner::Op::claim;
  r.box = t->box;
  r.limits = l;
  link_.send(r);
  auto sent = t->io->claim(c, fds);
  t->machine.claimed(now_ns);
  phase(*t, Phase::claimed);
  if (!sent)
    act(t, t->machine.controlBroken(std::move(sent).error().in("cannot claim").message,
                                    sched::Again::yes, now_ns));
}

// Its box was lost before the task started: no fault of the task's.
void Engine::queueAgain(const TaskPtr& t) {
  if (t->io) t->io->close();
  t->io.reset();
  task_of_box_.erase(t->box);
  t->box = 0;
  t->pid_host = 0;
  t->claim_wanted = false;
  t->spool.reset();
  t->collect = spawner::CollectState::none;
  t->collect_text.clear();
  admission_.putBack(t->id, t->spec.owner, t->tmpl);
  armTimer(t);
  if (auto accepted = registry_.accepts(t->tmpl); !accepted)
    return act(t, t->machine.stop(Cause::internal, accepted.error().message, monotonicNs()));
  dispatch();
}

void Engine::dropInput(Task& t, uint64_t bytes) {
  bytes = std::min(bytes, t.input_held_bytes);
  t.input_held_bytes -= bytes;
  input_held_bytes_ -= bytes;
}

void Engine::end(const TaskPtr& t) {
  phase(*t, Phase::exited);
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
  link_.send(r, std::move(fds));
}

void Engine::collectFiles(Task& t, sched::TaskResult* r) const {
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
  r->spool = t.spool;
}

sched::TaskResult Engine::result(Task& t) const {
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
  r.usage = t.machine.usage(t.io ? t.io->bytes(Stream::out) : 0, t.io ? t.io->bytes(Stream::err) : 0);
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
  } else if (!t->machine.boxAskedFor()) {
    t->receipt.complete = true;  // no box was made: nothing can be left
  }
  admission_.withdraw(t->id);
  if (t->slot_free) admission_.release(t->id);
  dropInput(*t, t->input_held_bytes);
  tasks_.erase(t->id);
  if (t->slot_free) task_of_box_.erase(t->box);
  phase(*t, Phase::receipt);
  sched::TaskResult r = result(*t);
  observer_.taskEnded(r.template_name, r.verdict, r.usage, r.phases);
  observer_.receipt(r.template_name, r.receipt);
  if (!r.receipt.complete) watcher_.onReceiptIncomplete(r.receipt);
  t->listener->onResult(r);
  dispatch();
  checkStopped();
}

// --- what the clone and the streams say ---------------------------------------------

void Engine::onCloneReady(base::TaskId id, const zygote::CloneReady& ready) {
  TaskPtr t = find(id);
  if (!t) return;
  uint64_t now_ns = monotonicNs();
  act(t, ready.error != 0
             ? t->machine.controlBroken(stepFailed("the clone failed", ready.step, ready.error, {}),
                                        sched::Again::no, now_ns)
             : t->machine.cloneReady(ready.at_ns, now_ns));
}

void Engine::onCloneStarted(base::TaskId id, const zygote::Started& started) {
  TaskPtr t = find(id);
  if (!t) return;
  uint64_t now_ns = monotonicNs();
  if (started.error != 0)
    act(t, t->machine.controlBroken(
               stepFailed("the clone could not start the task", started.step, started.error, {}),
               sched::Again::no, now_ns));
  else if (t->machine.state() == TaskState::claiming &&
           t->machine.phases()[static_cast<size_t>(Phase::claimed)] == 0)
    act(t, t->machine.controlBroken("the clone started before it had a task",
                                    sched::Again::no, now_ns));
  else
    act(t, t->machine.started(started.at_ns, now_ns));
}

void Engine::onControlBroken(base::TaskId id, std::string why) {
  if (TaskPtr t = find(id)) 
    act(t, t->machine.controlBroken(std::move(why), sched::Again::yes, monotonicNs()));
}

void Engine::onTaskOutput(base::TaskId id, Stream stream, std::string_view bytes) {
  TaskPtr t = find(id);
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

void Engine::onOutputOver(base::TaskId id, Stream stream) {
  if (TaskPtr t = find(id))
    act(t, t->machine.outputOver(stream == Stream::out ? "stdout" : "stderr", monotonicNs()));
}

void Engine::onStdinTaken(base::TaskId id, uint64_t bytes) {
  TaskPtr t = find(id);
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
    default:
      return boxEvent(event, fds);
  }
}

void Engine::boxEvent(const Event& e, std::span<base::Fd> fds) {
  auto of = task_of_box_.find(e.box);
  TaskPtr t = of != task_of_box_.end() ? find(of->second) : nullptr;
  if (e.kind == Kind::boxGone) return boxGone(e, t);
  if (!t) return;
  // The clone's own words came first, though they are read from another socket.
  if (t->io) t->io->pollControl();
  uint64_t now_ns = monotonicNs();
  sched::ExitStatus exit{e.exit_code, e.exit_status};
  switch (e.kind) {
    case Kind::boxMade: {
      if (t->io) return;
      t->pid_host = e.pid_host;
      act(t, t->machine.boxMade(e.box_ready_ns, now_ns));
      if (t->machine.state() != TaskState::claiming) return;  // it ends: drop the descriptors
      phase(*t, Phase::boxReady);
      t->io = std::make_shared<TaskIo>(
          io_, static_cast<TaskIo::Sink&>(*this), t->id,
          t->spec.live_output ? Delivery::live : Delivery::captured,
          t->machine.limits().output_bytes);
      if (auto opened = t->io->open(fds); !opened)
        return act(t, t->machine.stop(Cause::internal, std::move(opened).error().message, now_ns));
      t->io->pollControl();
      return;
    }
    case Kind::boxFailed: {
      auto closed = ledger_.neverMade(e.box, now_ns);
      t->receipt = closed.receipt;
      return act(t, t->machine.boxFailed(
                        stepFailed("the box could not be made", e.step, e.sys, e.text),
                        e.again != 0 ? sched::Again::yes : sched::Again::no, now_ns));
    }
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

void Engine::boxGone(const Event& e, const TaskPtr& t) {
  uint64_t now_ns = monotonicNs();
  if (t && t->io) {
    t->io->drain();
    t->io->close();
    now_ns = monotonicNs();
  }
  auto closed = ledger_.gone(e, now_ns);
  if (!closed) return;
  if (!t) {  // its result was given without: only the ledger waited for this
    if (closed->slot == reap::Closed::Slot::free) {
      admission_.release(closed->task);
      task_of_box_.erase(e.box);
      watcher_.onReceiptCompleted(closed->receipt);
      dispatch();
    }
    checkStopped();
    return;
  }
  t->receipt = closed->receipt;
  t->slot_free = closed->slot == reap::Closed::Slot::free;
  t->collect = e.collect;
  if (e.collect == spawner::CollectState::failed) t->collect_text = base::printable(e.text);
  act(t, t->machine.boxGone(closed->receipt.complete, now_ns));
}

void Engine::onSpawnerLost(base::Error why) {
  spawner_ready_ = false;
  std::vector<TaskPtr> all;
  for (const auto& [id, t] : tasks_) all.push_back(t);
  for (const TaskPtr& t : all) {
    uint64_t now_ns = monotonicNs();
    t->machine.stop(Cause::internal, why.message, now_ns);
    if (t->io) t->io->close();
    if (t->machine.boxAskedFor()) {
      t->receipt = ledger_.overdue(t->box, why.message + ": the proof went with it").receipt;
      t->slot_free = false;
    }
    t->machine.boxGone(false, now_ns);
    finish(t);
  }
  if (stopping_ == Stopping::templates || stopping_ == Stopping::done) return checkStopped();
  watcher_.onFatal(std::move(why));
}

}  // namespace mayfly::clone
