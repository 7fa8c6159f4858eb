#include "core/engine.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "base/clock.h"
#include "base/text.h"

namespace mayfly::core {

using base::Code;
using base::fail;
using base::monotonicNs;
using pool::ZygoteFsm;
using spawner::Event;
using spawner::Kind;
using Stopping = Context::Stopping;

Engine::Engine(boost::asio::io_context& io, EngineOptions options, sched::TaskIds& ids,
               base::Observer& observer, EngineOwner& owner)
    : options_(std::move(options)),
      owner_(owner),
      link_(io, *this),
      accounts_(options_.accounts),
      ledger_(accounts_),
      context_{io, options_, ids, observer, link_, registry_, ledger_, accounts_, *this},
      boxes_(context_),
      lanes_(context_, boxes_),
      tasks_(context_, boxes_, lanes_),
      trials_(context_, boxes_, tasks_),
      zygotes_(context_, boxes_),
      stop_timer_(io) {
  context_.claimant = &tasks_;
  context_.lane_tasks = &tasks_;
  context_.trial_boxes = &trials_;
}

base::Result<base::TemplateId> Engine::addTemplate(pool::TemplateSpec spec, base::Fd seccomp,
                                                   base::Fd snapshot) {
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
                    who + ": a word of the zygote's command is empty or has more than " +
                        std::to_string(sizeof r.zygote[0] - 1) + " bytes");
  }
  MAYFLY_TRY(base::TemplateId id, registry_.add(std::move(spec), monotonicNs()));
  zygotes_.addTemplate(id, std::move(seccomp), std::move(snapshot));
  onLanesChanged();
  return id;
}

base::Status Engine::start(base::Fd spawner_socket) {
  return link_.open(std::move(spawner_socket));  // the spawner's hello starts the templates
}

void Engine::refresh(std::string_view name, NewSnapshot snapshot, Zygotes::Refreshed done) {
  base::TemplateId id = 0;
  const pool::TemplateSpec* spec = registry_.find(name, &id);
  const std::string who = "template '" + base::printable(name) + "'";
  if (spec == nullptr) return done(fail(Code::notFound, who + " is not served"));
  if (!context_.serving()) return done(fail(Code::unavailable, "the daemon starts or stops"));
  if (spec->image_digest.empty())
    return done(fail(Code::failedPrecondition,
                     who + " is refused since the daemon's start: " + spec->missing_image_text,
                     "Start the daemon again."));
  zygotes_.refresh(id, std::move(snapshot), std::move(done));
}

// --- events of the spawner ---------------------------------------------------------------

void Engine::onSpawnerEvent(const Event& event, std::span<base::Fd> fds) {
  switch (event.kind) {
    case Kind::hello:
      context_.spawner_ready = true;
      context_.observer.spawnerReady(base::printable(event.text));
      owner_.onSpawnerReady(fds.empty() ? base::Fd() : std::move(fds[0]));
      if (options_.spawner_ping_ns != 0)
        link_.watch(options_.spawner_ping_ns, options_.spawner_busy);
      return runTemplates();
    case Kind::zygoteReady:
    case Kind::zygoteFailed:
    case Kind::zygoteGone:
      return zygotes_.onSpawnerEvent(event);
    default:
      return boxes_.onSpawnerEvent(event, fds);
  }
}

void Engine::onSpawnerLost(base::Error why) {
  context_.spawner_ready = false;
  lanes_.onSpawnerLost();
  tasks_.abandon(sched::Cause::internal, why.message, why.message + ": the proof is lost with it");
  boxes_.onSpawnerLost(why.message);
  if (context_.stopping >= Stopping::templates) return checkStopped();
  owner_.onFatal(std::move(why));
}

// --- templates, lanes, zygotes ----------------------------------------------------------

void Engine::onLanesChanged() {
  bool opened = false;
  for (base::LaneId id : registry_.takeOpened()) {
    lanes_.open(id, registry_.lane(id)->tmpl);
    opened = true;
  }
  for (base::LaneId id : registry_.takeClosed()) {
    lanes_.close(id);
    zygotes_.closeLane(id);
  }
  if (opened) boost::asio::post(context_.io, [this] { runTemplates(); });
}

void Engine::runTemplates() {
  zygotes_.run();
  lanes_.resize();
  checkSettled();
}

void Engine::onCloneAsked(base::LaneId id) {
  if (registry_.onClone(id, monotonicNs())) zygotes_.arm();
}

void Engine::onZygoteReady(const ZygoteRef& zygote) {
  if (registry_.get(zygote.tmpl)->trial_code.empty())
    serve(zygote);
  else
    trials_.start(zygote);
}

void Engine::onTrialsEnded(const ZygoteRef& zygote, std::string fault) {
  if (fault.empty())
    serve(zygote);
  else
    zygotes_.refuse(zygote.id, std::move(fault));
}

void Engine::serve(const ZygoteRef& zygote) {
  if (!zygotes_.promote(zygote.id)) return;
  lanes_.setZygote(zygote.lane, zygote.id);
  const bool was_ready = registry_.ready(zygote.lane);
  registry_.onReady(zygote.lane, monotonicNs());
  if (was_ready)
    onPoolChanged(zygote.tmpl);
  else
    onTemplateChanged(zygote.tmpl);
  tasks_.dispatch();  // tasks first
  runTemplates();
  lanes_.refill(zygote.lane);
}

// Its clones get no task.
void Engine::onZygoteGone(const ZygoteEnd& end) {
  const ZygoteRef& zygote = end.zygote;
  onPoolChanged(zygote.tmpl);
  trials_.zygoteGone(zygote.id);
  if (context_.stopping != Stopping::no) return checkStopped();
  lanes_.endZygote(zygote.lane, zygote.id);
  const uint64_t now_ns = monotonicNs();
  if (end.was != ZygoteEnd::Was::draining)
    context_.observer.zygoteDied(registry_.get(zygote.tmpl)->name, base::printable(end.why));
  std::vector<base::TaskId> waiting;
  bool given_up = false;
  switch (end.was) {
    case ZygoteEnd::Was::draining:
      lanes_.refill(zygote.lane);
      break;
    case ZygoteEnd::Was::successor:
      registry_.onSuccessorDied(zygote.lane, now_ns, end.why);
      break;
    case ZygoteEnd::Was::serving:
      given_up = registry_.onDied(zygote.lane, now_ns, end.why) == ZygoteFsm::Do::failQueue;
      waiting = lanes_.waitingTasks(zygote.lane);
      break;
  }
  if (end.was != ZygoteEnd::Was::draining) onTemplateChanged(zygote.tmpl);
  tasks_.zygoteGone(zygote.id, waiting);
  if (given_up)
    tasks_.failQueue(zygote.lane,
                     "template '" + registry_.get(zygote.tmpl)->name +
                         "' is unhealthy: " + std::string(registry_.lane(zygote.lane)->fsm.text()));
  runTemplates();
}

// --- reports about templates -------------------------------------------------------------

base::PoolState Engine::poolState(base::TemplateId id) const {
  base::PoolState s{.zygotes = zygotes_.countOf(id), .renewals = registry_.renewals(id)};
  lanes_.addTo(&s, id);
  return s;
}

base::CoreReport Engine::report() const {
  base::CoreReport r;
  r.templates.resize(registry_.size());
  boxes_.addTo(&r.templates);
  for (base::TemplateId id = 1; id <= registry_.size(); ++id) {
    base::TemplateReport& t = r.templates[id - 1];
    const pool::TemplateSpec& s = *registry_.get(id);
    t.name = s.name;
    t.mechanism = s.mechanism;
    t.state = ledger_.serves(id) ? registry_.state(id) : "unhealthy";
    t.state_text = registry_.stateText(id);
    t.pool.zygotes = zygotes_.countOf(id);
    t.pool.renewals = registry_.renewals(id);
    lanes_.addTo(&t, id);
    t.quarantined = ledger_.quarantinedOf(id);
    t.dying -= std::min(t.dying, t.quarantined);  // a quarantined box is ending, too
  }
  lanes_.addTo(&r.use);
  tasks_.intake().addTo(&r.use);
  r.queued = tasks_.intake().queued();
  r.queue_max = static_cast<uint32_t>(
      std::min<uint64_t>(UINT32_MAX, accounts_.bounds().of(sched::Resource::queuedTasks).pool_max));
  if (const uint64_t since_ns = tasks_.table().addTo(&r.accounts); since_ns != 0)
    r.queue_age_ns = monotonicNs() - since_ns;
  r.boxes = static_cast<uint32_t>(ledger_.alive());
  r.quarantined = static_cast<uint32_t>(ledger_.quarantined());
  r.settled = settled_;
  r.serving = context_.serving();
  return r;
}

std::vector<sched::TemplateInfo> Engine::templates() const {
  std::vector<sched::TemplateInfo> list;
  for (base::TemplateId id = 1; id <= registry_.size(); ++id) {
    const pool::TemplateSpec& s = *registry_.get(id);
    const bool serves = ledger_.serves(id);
    list.push_back(
        {s.name, s.description, s.mechanism,
         serves ? std::string(registry_.state(id)) : "unhealthy",
         serves ? std::string(registry_.stateText(id))
                : std::to_string(ledger_.quarantinedOf(id)) + " of its boxes are not proven gone",
         s.image_digest, s.defaults, s.maximum, boxes_.countOf(id), poolState(id)});
  }
  return list;
}

void Engine::onTemplateChanged(base::TemplateId id) {
  const pool::TemplateSpec& s = *registry_.get(id);
  context_.observer.templateState(s.name, registry_.state(id), registry_.stateText(id));
  onPoolChanged(id);
  checkSettled();
}

void Engine::onPoolChanged(base::TemplateId id) {
  if (!pools_to_tell_.insert(id).second) return;
  boost::asio::post(context_.io, [this, id] {
    pools_to_tell_.erase(id);
    context_.observer.poolState(registry_.get(id)->name, poolState(id));
  });
}

void Engine::checkSettled() {
  if (settled_ || !registry_.settled() || !context_.serving()) return;
  settled_ = true;
  owner_.onSettled();
}

// --- the end ----------------------------------------------------------------------------

void Engine::stop(std::function<void()> done) {
  if (context_.stopping != Stopping::no) return;
  context_.stopping = Stopping::tasks;
  on_stopped_ = std::move(done);
  zygotes_.stop();
  lanes_.closeAll();
  stop_timer_.expires_at(timePoint(monotonicNs() + options_.stop_tasks_ns_max));
  stop_timer_.async_wait([this](boost::system::error_code failed) {
    if (!failed && context_.stopping == Stopping::tasks) stopTemplates();
  });
  tasks_.stopAll(sched::Cause::daemonStopping);
  checkStopped();
}

void Engine::checkStopped() {
  // Boxes without a task end with their zygotes: a box that a maker never makes delays nothing.
  if (context_.stopping == Stopping::tasks && tasks_.table().empty()) stopTemplates();
  const bool nothing_left = zygotes_.empty() && ledger_.alive() == 0;
  if (context_.stopping == Stopping::templates && (!link_.isOpen() || nothing_left)) stopped();
}

void Engine::stopTemplates() {
  context_.stopping = Stopping::templates;
  zygotes_.retireAll();
  stop_timer_.expires_at(timePoint(monotonicNs() + options_.stop_templates_ns_max));
  stop_timer_.async_wait([this](boost::system::error_code failed) {
    if (!failed && context_.stopping == Stopping::templates) stopped();
  });
  checkStopped();
}

void Engine::stopped() {
  context_.stopping = Stopping::done;
  stop_timer_.cancel();
  // Their receipts did not come in time.
  tasks_.abandon(sched::Cause::daemonStopping, {},
                 "the daemon stopped before the spawner's receipt");
  link_.close();
  if (on_stopped_) std::exchange(on_stopped_, nullptr)();
}

}  // namespace mayfly::core
