// The engine's lanes and zygotes (started, renewed, restarted, given up) and its own end.
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

constexpr uint32_t kStockedOfLaneMax = 1;  // bursts are what parked clones are for
// Zygotes that live: no successor is started above it, and the spawner's uid ranges suffice.
constexpr size_t kZygotesOfRenewalMax = 48;
constexpr ptrdiff_t kZygotesOfLaneMax = 4;  // that serve, start, or whose last boxes end

// Hears how a trial ended.
class Engine::Trial final : public sched::TaskListener {
 public:
  Trial(Engine& engine, base::ZygoteId id) : engine_(engine), id_(id) {}
  void onResult(sched::TaskResult result) override { engine_.onTrial(id_, result); }

 private:
  Engine& engine_;  // outlives its tasks
  base::ZygoteId id_;
};

base::Result<base::TemplateId> Engine::addTemplate(pool::TemplateSpec spec, base::Fd seccomp) {
  spawner::Request r;
  std::string who = "template '" + base::printable(spec.name) + "'";
  if (!spec.image_digest.empty()) {
    if (spec.image_digest.size() != sizeof r.digest - 1)
      return fail(Code::invalidArgument, who + ": the image's digest is not 64 hex digits");
    if (spec.zygote.empty() || spec.zygote.size() > spawner::kZygoteArgsMax)
      return fail(Code::invalidArgument, who + ": the zygote's command has " +
                                             std::to_string(spec.zygote.size()) + " words; 1 to " +
                                             std::to_string(spawner::kZygoteArgsMax));
    for (const std::string& word : spec.zygote)
      if (word.empty() || word.size() >= sizeof r.zygote[0])
        return fail(Code::invalidArgument,
                    who + ": a word of the zygote's command is empty or has " + "more than " +
                        std::to_string(sizeof r.zygote[0] - 1) + " bytes");
  }
  MAYFLY_TRY(base::TemplateId id, registry_.add(std::move(spec), monotonicNs()));
  templates_.push_back(Template{.seccomp = std::make_shared<base::Fd>(std::move(seccomp))});
  syncLanes();
  return id;
}

base::Status Engine::start(base::Fd spawner_socket) {
  return link_.open(std::move(spawner_socket));  // its hello starts the templates
}

// --- what is told of templates ---

base::PoolState Engine::poolState(base::TemplateId id) const {
  const Template& t = templates_[id - 1];
  base::PoolState s{.renewals = registry_.renewals(id), .hits = t.hits, .misses = t.misses};
  for (const auto& [lane_id, lane] : lanes_) {
    if (lane.tmpl != id) continue;
    s.parked += lane.refill.parked();
    s.parked_target += lane.refill.parkedTarget();
    s.stocked += lane.refill.stocked();
    s.stocked_target += lane.refill.stockedTarget();
    s.making += lane.refill.making();
    s.waiting += lane.refill.waiting();
  }
  for (const auto& [zygote_id, zygote] : zygotes_)
    if (zygote.tmpl == id) ++s.zygotes;
  return s;
}

std::vector<sched::TemplateInfo> Engine::templates() const {
  std::vector<sched::TemplateInfo> list;
  for (base::TemplateId id = 1; id <= registry_.size(); ++id) {
    const pool::TemplateSpec& s = *registry_.get(id);
    sched::TemplateInfo info{s.name,
                             s.description,
                             s.mechanism,
                             std::string(registry_.state(id)),
                             std::string(registry_.stateText(id)),
                             s.image_digest,
                             s.defaults,
                             s.maximum,
                             0,
                             poolState(id)};
    for (const auto& [box_id, box] : boxes_)
      if (box->tmpl == id) ++info.boxes;
    list.push_back(std::move(info));
  }
  return list;
}

void Engine::templateChanged(base::TemplateId id) {
  const pool::TemplateSpec& s = *registry_.get(id);
  observer_.templateState(s.name, registry_.state(id), registry_.stateText(id));
  poolChanged(id);
  if (!settled_ && registry_.settled()) {
    settled_ = true;
    owner_.onSettled();
  }
}

void Engine::poolChanged(base::TemplateId id) {
  if (!std::exchange(templates_[id - 1].told, false)) return;
  boost::asio::post(io_, [this, id] {
    templates_[id - 1].told = true;
    observer_.poolState(registry_.get(id)->name, poolState(id));
  });
}

// --- lanes ---

// Follows the registry, which opens and closes them.
void Engine::syncLanes() {
  bool opened = false;
  for (base::LaneId id : registry_.takeOpened()) {
    const pool::Lane& lane = *registry_.lane(id);
    const pool::TemplateSpec& s = *registry_.get(lane.tmpl);
    lanes_.emplace(id, Lane(lane.tmpl, options_.making_max));
    const uint32_t stocked_max = std::min(kStockedOfLaneMax, options_.budget.stocked_max);
    plan_.add(id,
              {.parked_min = std::min(s.parked_min, options_.budget.parked_max),
               .parked_max = std::min(s.parked_max, options_.budget.parked_max),
               .stocked_min = std::min(1u, stocked_max),
               .stocked_max = stocked_max},
              monotonicNs());
    opened = true;
  }
  for (base::LaneId id : registry_.takeClosed()) closeLane(id);
  if (opened) boost::asio::post(io_, [this] { runTemplates(); });
}

// It has no task; its zygotes end when its boxes are gone.
void Engine::closeLane(base::LaneId id) {
  auto at = lanes_.find(id);
  if (at == lanes_.end()) return;
  Lane lane = std::move(at->second);
  lanes_.erase(at);
  plan_.remove(id);
  endBoxes(lane.refill.drop());
  for (base::ZygoteId zygote : {lane.zygote, lane.successor})
    if (auto z = zygotes_.find(zygote); z != zygotes_.end()) {
      z->second.draining = true;
      drain(zygote);
    }
  poolChanged(lane.tmpl);
}

void Engine::runTemplates() {
  if (!spawner_ready_ || stopping_ != Stopping::no) return;
  auto may_renew = [this](base::LaneId id) {
    auto of_lane = std::count_if(zygotes_.begin(), zygotes_.end(),
                                 [id](const auto& z) { return z.second.lane == id; });
    return of_lane < kZygotesOfLaneMax && zygotes_.size() < kZygotesOfRenewalMax;
  };
  for (const pool::Order& order : registry_.due(monotonicNs(), may_renew)) {
    Lane* lane = findLane(order.lane);
    if (lane == nullptr) continue;
    if (order.act == pool::Order::Act::publish)
      publish(order.lane, *lane);
    else
      retire(lane->successor != 0 ? lane->successor : lane->zygote);
  }
  syncLanes();
  if (!settled_ && registry_.settled()) {
    settled_ = true;
    owner_.onSettled();
  }
  armTemplateTimer();
}

void Engine::armTemplateTimer() {
  uint64_t next = registry_.nextDue_ns();
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
  });
}

// --- zygotes ---

// The lane's own, or the successor of the one that serves.
void Engine::publish(base::LaneId id, Lane& lane) {
  const pool::TemplateSpec& s = *registry_.get(lane.tmpl);
  base::ZygoteId zygote = next_zygote_++;
  (lane.zygote == 0 ? lane.zygote : lane.successor) = zygote;
  Zygote& z = zygotes_[zygote];
  z.tmpl = lane.tmpl;
  z.lane = id;
  auto pipe = base::makePipe();
  if (!pipe) return zygoteGone(zygote, std::move(pipe).error().message);
  z.log = std::make_shared<LogPump>(
      io_, [this, name = s.name](std::string_view line) { observer_.zygoteSaid(name, line); });
  if (auto opened = z.log->open(std::move(pipe->read)); !opened)
    return zygoteGone(zygote, std::move(opened).error().message);

  spawner::Request r;
  r.op = spawner::Op::publish;
  r.zygote_id = zygote;
  r.flags = s.loopback ? spawner::kLoopback : 0u;
  r.ptys = s.ptys;
  r.limits = s.maximum;
  r.limits.memory_bytes = s.zygote_memory_bytes;
  memcpy(r.digest, s.image_digest.data(), std::min(s.image_digest.size(), sizeof r.digest - 1));
  for (size_t i = 0; i < s.zygote.size(); ++i)
    memcpy(r.zygote[i], s.zygote[i].data(), std::min(s.zygote[i].size(), sizeof r.zygote[i] - 1));
  link_.send(
      r, {templates_[lane.tmpl - 1].seccomp, std::make_shared<base::Fd>(std::move(pipe->write))});
  if (lane.zygote == zygote) templateChanged(lane.tmpl);
}

void Engine::retire(base::ZygoteId id) {
  auto at = zygotes_.find(id);
  if (at == zygotes_.end() || std::exchange(at->second.retiring, true)) return;
  spawner::Request r;
  r.op = spawner::Op::retire;
  r.zygote_id = id;
  link_.send(r);
}

void Engine::drain(base::ZygoteId id) {
  const Zygote& z = zygotes_.at(id);
  if (z.draining && z.boxes == 0) retire(id);
}

void Engine::zygoteEvent(const Event& e) {
  auto at = zygotes_.find(e.zygote_id);
  if (at == zygotes_.end()) return;
  if (e.kind == Kind::templateReady) {
    if (at->second.draining || stopping_ != Stopping::no) return;
    if (registry_.get(at->second.tmpl)->trial_code.empty()) return zygoteReady(e.zygote_id);
    return startTrials(e.zygote_id);
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
  zygoteGone(e.zygote_id, std::move(why));
}

// Two clones, one of them rehearsed, run the template's trial; tasks wait meanwhile, or
// are served by the zygote that this one is to follow.
void Engine::startTrials(base::ZygoteId id) {
  Zygote& z = zygotes_.at(id);
  const pool::TemplateSpec& s = *registry_.get(z.tmpl);
  z.checking = true;
  uint64_t now_ns = monotonicNs();
  for (auto rehearsed : {pool::ClonePool::Rehearsed::yes, pool::ClonePool::Rehearsed::no}) {
    base::TaskId task = next_task_++;
    auto t = std::make_shared<Task>(io_, task, s.defaults, options_.bounds, now_ns);
    t->tmpl = z.tmpl;
    t->lane = z.lane;
    t->trial_of = id;
    t->rehearsed = rehearsed;
    t->spec.template_name = s.name;
    t->spec.kind = sched::CodeKind::string;
    t->spec.code = s.trial_code;
    t->spec.owner = kOwn;
    t->stdin_closed = true;
    t->listener = std::make_shared<Trial>(*this, id);
    tasks_[task] = t;
    askTrialBox(id, task, rehearsed);
    act(t, t->machine.admitted(now_ns));
  }
}

void Engine::onTrial(base::ZygoteId id, const sched::TaskResult& result) {
  auto at = zygotes_.find(id);
  if (at == zygotes_.end() || !at->second.checking) return;
  Zygote& z = at->second;
  std::optional<std::string> fault;
  if (result.verdict != base::Verdict::succeeded)
    fault = "its trial ended with " + std::string(base::name(result.verdict)) + ": " +
            result.reason + " " + base::printable(result.captured[1], 400);
  else if (z.trials.emplace_back(result.captured[0]); z.trials.size() == 2)
    fault = pool::findFault(z.trials[0], z.trials[1]);
  else
    return;
  z.checking = false;
  z.trials.clear();
  observer_.trialEnded(registry_.get(z.tmpl)->name, fault.value_or(""));
  if (!fault) return zygoteReady(id);
  z.fault = std::move(*fault);
  retire(id);
}

void Engine::zygoteReady(base::ZygoteId id) {
  if (zygotes_.at(id).draining) return;  // its lane was closed meanwhile
  base::LaneId lane_id = zygotes_.at(id).lane;
  Lane& lane = lanes_.at(lane_id);
  if (lane.successor == id) {
    base::ZygoteId old = std::exchange(lane.zygote, std::exchange(lane.successor, 0));
    zygotes_.at(old).draining = true;
    drain(old);
    observer_.zygoteRenewed(registry_.get(lane.tmpl)->name);
  }
  endBoxes(lane.refill.setZygote(id));
  const bool was_ready = registry_.ready(lane_id);
  registry_.onReady(lane_id, monotonicNs());
  if (was_ready)
    poolChanged(lane.tmpl);
  else
    templateChanged(lane.tmpl);
  dispatch();  // tasks first
  resizePools();
  runTemplates();
  refill(lane_id);
}

// It failed to start, or ended, asked or not. Its clones get no task.
void Engine::zygoteGone(base::ZygoteId id, std::string why) {
  auto at = zygotes_.find(id);
  Zygote z = std::move(at->second);
  zygotes_.erase(at);
  if (z.log) z.log->close();  // its last lines are shown before the reason
  poolChanged(z.tmpl);
  if (stopping_ != Stopping::no) return checkStopped();
  if (!z.fault.empty()) why = "it is unfit: " + z.fault;
  std::vector<TaskPtr> wait;
  for (const auto& [task_id, t] : tasks_)
    if (t->trial_of == id && t->box == 0) wait.push_back(t);
  uint64_t now_ns = monotonicNs();
  bool given_up = false;
  if (Lane* lane = findLane(z.lane)) {
    endBoxes(lane->refill.endZygote(id));
    if (z.draining) {
      refill(z.lane);
    } else if (lane->successor == id) {
      lane->successor = 0;
      registry_.onSuccessorDied(z.lane, now_ns, std::move(why));
    } else {
      lane->zygote = std::exchange(lane->successor, 0);
      given_up = registry_.onDied(z.lane, now_ns, std::move(why)) == ZygoteFsm::Do::failQueue;
      for (base::TaskId task : lane->refill.waitingTasks())
        if (TaskPtr t = find(task)) wait.push_back(t);
    }
    if (!z.draining) templateChanged(z.tmpl);
  }
  for (const TaskPtr& t : wait) act(t, t->machine.templateGone());
  if (given_up) failQueue(z.lane);
  runTemplates();
}

void Engine::failQueue(base::LaneId id) {
  const pool::Lane* lane = registry_.lane(id);
  if (lane == nullptr) return;
  std::string why = "template '" + registry_.get(lane->tmpl)->name +
                    "' is unhealthy: " + std::string(lane->fsm.text());
  for (base::TaskId task : admission_.queuedFor(id))
    if (TaskPtr t = find(task)) act(t, t->machine.stop(sched::Cause::internal, why, monotonicNs()));
}

// --- the end -----------------------------------------------------------------------

void Engine::stop(std::function<void()> done) {
  if (stopping_ != Stopping::no) return;
  stopping_ = Stopping::tasks;
  on_stopped_ = std::move(done);
  template_timer_.cancel();
  refill_timer_.cancel();
  std::vector<TaskPtr> all;
  for (const auto& [id, t] : tasks_) all.push_back(t);
  for (auto& [id, lane] : lanes_) endBoxes(lane.refill.drop());
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
  if (stopping_ == Stopping::templates && (!link_.isOpen() || zygotes_.empty())) stopped();
}

void Engine::stopTasksDone() {
  stopping_ = Stopping::templates;
  for (auto& [id, z] : zygotes_) retire(id);
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
      t->receipt =
          ledger_.overdue(t->box, "the daemon stopped before the spawner's receipt").receipt;
      t->slot_free = false;
    }
    t->machine.boxGone(false, monotonicNs());
    finish(t);
  }
  link_.close();
  if (on_stopped_) std::exchange(on_stopped_, nullptr)();
}

}  // namespace mayfly::clone
