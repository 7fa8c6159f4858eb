// The engine's templates (zygotes started, restarted, given up) and its own end.
//
// Layer: clone. Core thread.
#include <string.h>

#include <algorithm>

#include "base/clock.h"
#include "base/text.h"
#include "clone/engine.h"
#include "clone/engine_task.h"
#include "pool/trial.h"

namespace mayfly::clone {

using base::Code;
using base::fail;
using base::monotonicNs;
using pool::ZygoteFsm;
using spawner::Event;
using spawner::Kind;

constexpr uint32_t kStockedOfTemplateMax = 1;  // bursts are what parked clones are for

// Hears how a trial ended.
class Engine::Trial final : public sched::TaskListener {
 public:
  Trial(Engine& engine, base::TemplateId id) : engine_(engine), id_(id) {}
  void onResult(const sched::TaskResult& result) override { engine_.onTrial(id_, result); }

 private:
  Engine& engine_;  // outlives its tasks
  base::TemplateId id_;
};

base::Result<base::TemplateId> Engine::addTemplate(pool::TemplateSpec spec, base::Fd seccomp) {
  spawner::Request r;
  std::string who = "template '" + base::printable(spec.name) + "'";
  if (!spec.image_digest.empty()) {
    if (spec.image_digest.size() != sizeof r.digest - 1)
      return fail(Code::invalidArgument, who + ": the image's digest is not 64 hex digits");
    if (spec.zygote.empty() || spec.zygote.size() > spawner::kZygoteArgsMax)
      return fail(Code::invalidArgument, who + ": the zygote's command has " +
                                             std::to_string(spec.zygote.size()) +
                                             " words; 1 to " +
                                             std::to_string(spawner::kZygoteArgsMax));
    for (const std::string& word : spec.zygote)
      if (word.empty() || word.size() >= sizeof r.zygote[0])
        return fail(Code::invalidArgument, who + ": a word of the zygote's command is empty or has " +
                                               "more than " +
                                               std::to_string(sizeof r.zygote[0] - 1) + " bytes");
  }
  MAYFLY_TRY(base::TemplateId id, registry_.add(std::move(spec)));
  templates_.push_back(Template{.seccomp = std::make_shared<base::Fd>(std::move(seccomp)),
                                .pool = pool::ClonePool(options_.making_max)});
  const pool::TemplateSpec& added = *registry_.get(id);
  const uint32_t stocked_max = std::min(kStockedOfTemplateMax, options_.budget.stocked_max);
  plan_.add(id,
            {.parked_min = added.parked_min, .parked_max = std::min(added.parked_max, options_.budget.parked_max),
             .stocked_min = std::min(1u, stocked_max), .stocked_max = stocked_max},
            monotonicNs());
  return id;
}

base::Status Engine::start(base::Fd spawner_socket) {
  return link_.open(std::move(spawner_socket));  // its hello starts the templates
}

std::vector<sched::TemplateInfo> Engine::templates() const {
  std::vector<sched::TemplateInfo> list;
  for (base::TemplateId id = 1; id <= registry_.size(); ++id) {
    const pool::TemplateSpec& s = *registry_.get(id);
    sched::TemplateInfo info{s.name, s.description, s.mechanism, std::string(registry_.state(id)),
                             std::string(registry_.stateText(id)), s.image_digest, s.defaults,
                             s.maximum, 0};
    for (const auto& [box_id, box] : boxes_)
      if (box->tmpl == id) ++info.boxes;
    info.parked = templates_[id - 1].pool.parked();
    info.stocked = static_cast<uint32_t>(templates_[id - 1].stock.size()) + templates_[id - 1].stocking;
    list.push_back(std::move(info));
  }
  return list;
}

void Engine::templateChanged(base::TemplateId id) {
  const pool::TemplateSpec& s = *registry_.get(id);
  observer_.templateState(s.name, registry_.state(id));
  watcher_.onTemplate(s.name, registry_.state(id), registry_.stateText(id));
  if (!settled_ && registry_.settled()) {
    settled_ = true;
    watcher_.onSettled();
  }
}

void Engine::runTemplates() {
  if (!spawner_ready_ || stopping_ != Stopping::no) return;
  for (const pool::Order& order : registry_.due(monotonicNs())) {
    if (order.act == ZygoteFsm::Do::publish) publish(order.id);
    if (order.act == ZygoteFsm::Do::retire) {
      spawner::Request r;
      r.op = spawner::Op::retire;
      r.template_id = order.id;
      link_.send(r);
    }
  }
  if (!settled_ && registry_.settled()) {
    settled_ = true;
    watcher_.onSettled();
  }
  armTemplateTimer();
}

void Engine::armTemplateTimer() {
  uint64_t next = registry_.nextDue_ns();
  for (const Template& t : templates_)
    if (uint64_t due = t.pool.due_ns(); due != 0 && (next == 0 || due < next)) next = due;
  if (uint64_t due = plan_.nextDue_ns(); due != 0 && (next == 0 || due < next)) next = due;
  if (next == 0) {
    template_timer_.cancel();
    return;
  }
  template_timer_.expires_at(timePoint(next));
  template_timer_.async_wait([this](boost::system::error_code failed) {
    if (failed) return;
    runTemplates();
    resizePools();
    refillAll();
  });
}

void Engine::publish(base::TemplateId id) {
  const pool::TemplateSpec& s = *registry_.get(id);
  Template& t = templates_[id - 1];
  auto refuse = [&](base::Error why) {
    if (registry_.onDied(id, monotonicNs(), std::move(why.message)) == ZygoteFsm::Do::failQueue)
      failQueue(id);
    templateChanged(id);
  };
  auto pipe = base::makePipe();
  if (!pipe) return refuse(std::move(pipe).error());
  if (t.log) t.log->close();
  t.log = std::make_shared<LogPump>(io_, [this, name = s.name](std::string_view line) {
    watcher_.onZygoteLine(name, line);
  });
  if (auto opened = t.log->open(std::move(pipe->read)); !opened)
    return refuse(std::move(opened).error());

  spawner::Request r;
  r.op = spawner::Op::publish;
  r.template_id = id;
  r.flags = s.loopback ? spawner::kLoopback : 0u;
  r.limits = s.maximum;
  r.limits.memory_bytes = s.zygote_memory_bytes;
  memcpy(r.digest, s.image_digest.data(), std::min(s.image_digest.size(), sizeof r.digest - 1));
  for (size_t i = 0; i < s.zygote.size(); ++i)
    memcpy(r.zygote[i], s.zygote[i].data(), std::min(s.zygote[i].size(), sizeof r.zygote[i] - 1));
  t.published = true;
  link_.send(r, {t.seccomp, std::make_shared<base::Fd>(std::move(pipe->write))});
  templateChanged(id);
}

void Engine::templateEvent(const Event& e) {
  base::TemplateId id = e.template_id;
  if (registry_.get(id) == nullptr) return;
  uint64_t now_ns = monotonicNs();
  if (e.kind == Kind::templateReady) {
    if (registry_.get(id)->trial_code.empty()) return zygoteReady(id);
    return startTrials(id);
  }
  Template& t = templates_[id - 1];
  t.published = false;
  t.checking = false;
  // Its clones are the old zygote's: none of them gets a task.
  t.pool.newGeneration();
  t.stock.clear();  // those boxes end with it
  if (t.log) {
    t.log->close();  // its last lines are shown before the reason
    t.log.reset();
  }
  if (stopping_ != Stopping::no) {
    registry_.onRetired(id);
    return checkStopped();
  }
  std::string why = base::printable(e.text);
  if (e.kind == Kind::templateFailed) {
    why = "step '" + base::printable(e.step) + "'";
    if (e.sys != 0) {
      const char* text = ::strerrordesc_np(e.sys);
      why += ": " + std::string(text != nullptr ? text : "unknown error");
    }
    if (e.text[0] != '\0') why += ": " + base::printable(e.text);
  }
  if (!t.fault.empty()) why = "it is unfit: " + std::exchange(t.fault, {});
  bool given_up = registry_.onDied(id, now_ns, std::move(why)) == ZygoteFsm::Do::failQueue;
  templateChanged(id);
  refill(id);
  for (base::TaskId task : t.pool.waitingTasks())
    if (TaskPtr waits = find(task)) act(waits, waits->machine.templateGone());
  if (given_up) failQueue(id);
  runTemplates();
}

// Two clones, one of them rehearsed, run the template's trial; tasks wait meanwhile.
void Engine::startTrials(base::TemplateId id) {
  const pool::TemplateSpec& s = *registry_.get(id);
  templates_[id - 1].checking = true;
  templates_[id - 1].trials.clear();
  templates_[id - 1].fault.clear();
  const base::Limits& maximum = registry_.get(id)->maximum;
  askBox(id, pool::ClonePool::Rehearsed::yes, maximum);
  askBox(id, pool::ClonePool::Rehearsed::no, maximum);
  uint64_t now_ns = monotonicNs();
  for (int i = 0; i < 2; ++i) {
    base::TaskId task = next_task_++;
    auto t = std::make_shared<Task>(io_, task, s.defaults, options_.bounds, now_ns);
    t->tmpl = id;
    t->spec.template_name = s.name;
    t->spec.kind = sched::CodeKind::string;
    t->spec.code = s.trial_code;
    t->spec.owner = kOwn;
    t->stdin_closed = true;
    t->listener = std::make_shared<Trial>(*this, id);
    tasks_[task] = t;
    act(t, t->machine.admitted(now_ns));
  }
}

void Engine::onTrial(base::TemplateId id, const sched::TaskResult& result) {
  Template& t = templates_[id - 1];
  if (!t.checking) return;
  std::optional<std::string> fault;
  if (result.verdict != base::Verdict::succeeded)
    fault = "its trial ended with " + std::string(base::name(result.verdict)) + ": " + result.reason +
            " " + base::printable(result.captured[1], 400);
  else if (t.trials.emplace_back(result.captured[0]); t.trials.size() == 2)
    fault = pool::findFault(t.trials[0], t.trials[1]);
  else
    return;
  t.checking = false;
  t.trials.clear();
  if (!fault) return zygoteReady(id);
  t.fault = std::move(*fault);
  spawner::Request r;
  r.op = spawner::Op::retire;
  r.template_id = id;
  link_.send(r);
}

void Engine::zygoteReady(base::TemplateId id) {
  registry_.onReady(id, monotonicNs());
  resizePools();
  templateChanged(id);
  runTemplates();
  refill(id);
  dispatch();
}

void Engine::failQueue(base::TemplateId id) {
  std::string why = "template '" + registry_.get(id)->name +
                    "' is unhealthy: " + std::string(registry_.stateText(id));
  for (base::TaskId task : admission_.queuedFor(id))
    if (TaskPtr t = find(task))
      act(t, t->machine.stop(sched::Cause::internal, why, monotonicNs()));
}

// --- the end -----------------------------------------------------------------------

void Engine::stop(std::function<void()> done) {
  if (stopping_ != Stopping::no) return;
  stopping_ = Stopping::tasks;
  on_stopped_ = std::move(done);
  template_timer_.cancel();
  stock_timer_.cancel();
  std::vector<TaskPtr> all;
  for (const auto& [id, t] : tasks_) all.push_back(t);
  for (Template& t : templates_)
    for (base::BoxId id : t.pool.drop())
      if (BoxPtr box = findBox(id)) endBox(*box);
  for (Template& t : templates_) t.stock.clear();
  for (const auto& [id, box] : boxes_)
    if (box->stock != Box::Stock::no) endBox(*box);
  stop_timer_.expires_at(timePoint(monotonicNs() + options_.stop_tasks_ns_max));
  stop_timer_.async_wait([this](boost::system::error_code failed) {
    if (!failed && stopping_ == Stopping::tasks) stopTasksDone();
  });
  for (const TaskPtr& t : all)
    act(t, t->machine.stop(sched::Cause::daemonStopping, {}, monotonicNs()));
  checkStopped();
}

void Engine::checkStopped() {
  // Without the spawner no receipt can come any more.
  if (stopping_ == Stopping::tasks && tasks_.empty() && (ledger_.alive() == 0 || !link_.isOpen()))
    stopTasksDone();
  if (stopping_ == Stopping::templates &&
      (!link_.isOpen() || std::none_of(templates_.begin(), templates_.end(),
                                       [](const Template& t) { return t.published; })))
    stopped();
}

void Engine::stopTasksDone() {
  stopping_ = Stopping::templates;
  for (base::TemplateId id = 1; id <= templates_.size(); ++id) {
    if (!templates_[id - 1].published) continue;
    spawner::Request r;
    r.op = spawner::Op::retire;
    r.template_id = id;
    link_.send(r);
  }
  stop_timer_.expires_at(timePoint(monotonicNs() + options_.stop_templates_ns_max));
  stop_timer_.async_wait([this](boost::system::error_code failed) {
    if (!failed && stopping_ == Stopping::templates) stopped();
  });
  checkStopped();
}

void Engine::stopped() {
  stopping_ = Stopping::done;
  stop_timer_.cancel();
  std::vector<TaskPtr> late;  // their receipts did not come within the bound
  for (const auto& [id, t] : tasks_) late.push_back(t);
  for (const TaskPtr& t : late) {
    if (t->box != 0) {
      t->receipt = ledger_.overdue(t->box, "the daemon stopped before the spawner's receipt").receipt;
      t->slot_free = false;
    }
    t->machine.boxGone(false, monotonicNs());
    finish(t);
  }
  link_.close();
  if (on_stopped_) std::exchange(on_stopped_, nullptr)();
}

}  // namespace mayfly::clone
