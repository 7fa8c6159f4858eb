#include "core/lanes.h"

#include <algorithm>
#include <boost/asio/post.hpp>

#include "base/clock.h"

namespace mayfly::core {

using base::monotonicNs;
using pool::BoxMachine;
using pool::ClonePool;
using pool::Refill;
using sched::Again;

constexpr uint32_t kStockedOfLaneMax = 1;  // parked clones serve bursts

namespace {

// Times of another process are clamped: they may be odd, and only ours are in order.
base::CloneTimes timesOf(const Box& box, uint64_t now_ns) {
  const bool stocked = box.machine.wasStocked();
  const uint64_t stood = std::clamp(stocked ? 0 : box.stands_ns, box.asked_ns, now_ns);
  const uint64_t made = std::clamp(box.made_ns, stood, now_ns);
  return {stocked ? base::Launch::stocked : base::Launch::made,
          {stood - box.asked_ns, made - stood, now_ns - made, now_ns - box.asked_ns}};
}

}  // namespace

Lanes::Lanes(Context& context, Boxes& boxes)
    : x_(context),
      boxes_(boxes),
      plan_({.makers = static_cast<double>(context.options.making_max),
             .memory_bytes_max = context.options.parked_memory_bytes_max,
             .boxes_max = context.options.budget.parked_max + context.options.budget.stocked_max,
             .parked_max = context.options.budget.parked_max}),
      refill_timer_(context.io),
      plan_timer_(context.io) {}

Lanes::Lane* Lanes::find(base::LaneId id) {
  auto at = lanes_.find(id);
  return at != lanes_.end() ? &at->second : nullptr;
}

void Lanes::open(base::LaneId id, base::TemplateId tmpl) {
  const pool::TemplateSpec& s = *x_.registry.get(tmpl);
  const sched::Budget& budget = x_.options.budget;
  lanes_.emplace(id, Lane(tmpl, x_.options.making_max));
  const uint32_t stocked_max = std::min(kStockedOfLaneMax, budget.stocked_max);
  plan_.add(id,
            {.parked_min = std::min(s.parked_min, budget.parked_max),
             .parked_max = std::min(s.parked_max, budget.parked_max),
             .stocked_min = std::min(1u, stocked_max),
             .stocked_max = stocked_max},
            monotonicNs());
}

void Lanes::close(base::LaneId id) {
  auto at = lanes_.find(id);
  if (at == lanes_.end()) return;
  Lane lane = std::move(at->second);
  lanes_.erase(at);
  plan_.remove(id);
  boxes_.end(lane.refill.drop());
  x_.events.onPoolChanged(lane.tmpl);
}

void Lanes::closeAll() {
  refill_timer_.cancel();
  plan_timer_.cancel();
  for (auto& [id, lane] : lanes_) boxes_.end(lane.refill.drop());
}

void Lanes::onSpawnerLost() {
  for (auto& [id, lane] : lanes_) lane.refill.drop();
}

// --- tasks ------------------------------------------------------------------------------

void Lanes::arrived(base::LaneId id) { plan_.onArrival(id, monotonicNs()); }

void Lanes::obtain(base::LaneId id, base::TaskId task) {
  Lane* lane = find(id);
  if (lane == nullptr) return;  // a closed lane has no task
  auto parked = lane->refill.claim(task);
  Finds& finds = finds_[lane->tmpl];
  ++(parked ? finds.hits : finds.misses);
  x_.events.onPoolChanged(lane->tmpl);
  if (parked)
    x_.lane_tasks->giveBox(task, boxes_.find(*parked), base::ClaimKind::parked);
  else
    refill(id);
}

void Lanes::withdraw(base::LaneId id, base::TaskId task) {
  if (Lane* lane = find(id)) lane->refill.withdraw(task);
}

void Lanes::claimBegan(base::LaneId id, uint64_t now_ns) {
  if (Lane* lane = find(id)) lane->refill.claimBegan(now_ns);
}

// Parking may resume.
void Lanes::claimOver(base::LaneId id) {
  Lane* lane = find(id);
  if (lane == nullptr) return;
  lane->refill.claimOver();
  boost::asio::post(x_.io, [this, id] { refill(id); });
}

std::vector<base::TaskId> Lanes::waitingTasks(base::LaneId id) const {
  auto at = lanes_.find(id);
  return at != lanes_.end() ? at->second.refill.waitingTasks() : std::vector<base::TaskId>();
}

// --- zygotes ----------------------------------------------------------------------------

void Lanes::setZygote(base::LaneId id, base::ZygoteId zygote) {
  Lane* lane = find(id);
  if (lane == nullptr) return;
  lane->zygote = zygote;
  boxes_.end(lane->refill.setZygote(zygote));
}

void Lanes::endZygote(base::LaneId id, base::ZygoteId zygote) {
  if (Lane* lane = find(id)) boxes_.end(lane->refill.endZygote(zygote));
}

// --- making -----------------------------------------------------------------------------

void Lanes::make(base::LaneId id, Lane& lane, const Refill::Make& make) {
  const bool stock = make.what == Refill::Make::What::stock;
  // Most tasks keep the template's default caps: a clone that is made with them starts its task
  // without the spawner's byte.
  const base::Limits* caps = make.task != 0 ? x_.lane_tasks->limitsOf(make.task) : nullptr;
  if (caps == nullptr) caps = &x_.registry.get(lane.tmpl)->defaults;
  BoxPtr box = make.in != 0 ? boxes_.find(make.in) : nullptr;
  if (box)
    boxes_.makeClone(box, *caps, make.rehearsed());
  else
    box = boxes_.make({lane.zygote, lane.tmpl, id}, *this,
                      stock ? BoxMachine::First::stocking : BoxMachine::First::making, *caps,
                      make.rehearsed());
  box->for_task = make.what == Refill::Make::What::forTask;
  lane.refill.asked(make, box->id);
  if (!stock) x_.events.onCloneAsked(id);
}

void Lanes::refill(base::LaneId id) {
  Lane* lane = find(id);
  if (!x_.spawner_ready || lane == nullptr) return;
  lane->held_back = !x_.ledger.serves(lane->tmpl);
  const bool serves = x_.serving() && x_.registry.ready(id) && !lane->held_back;
  Refill::Work work = lane->refill.work(serves, monotonicNs());
  boxes_.end(work.end);
  for (const Refill::Make& one : work.make) make(id, *lane, one);
  x_.events.onPoolChanged(lane->tmpl);
  armRefill();
}

void Lanes::armRefill() {
  uint64_t due_ns = 0;
  for (const auto& [id, lane] : lanes_)
    if (uint64_t its = lane.refill.due_ns(); its != 0 && (due_ns == 0 || its < due_ns))
      due_ns = its;
  // A timer that fires too early is set again.
  if (x_.stopping != Context::Stopping::no || due_ns == 0 ||
      (refill_due_ns_ != 0 && refill_due_ns_ <= due_ns))
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

// Adapts to new data: arrivals, times to make a clone, memory.
void Lanes::resize() {
  if (!x_.spawner_ready) return;
  for (const pool::Target& target : plan_.plan(monotonicNs())) {
    Lane* lane = find(target.id);
    if (lane == nullptr || lane->refill.hasTarget(target.parked, target.stocked)) continue;
    lane->refill.setTarget(target.parked, target.stocked);
    refill(target.id);
  }
  armPlan();
}

void Lanes::armPlan() {
  const uint64_t due_ns = plan_.nextDue_ns();
  if (due_ns == 0 || x_.stopping != Context::Stopping::no) {
    plan_timer_.cancel();
    return;
  }
  plan_timer_.expires_at(timePoint(due_ns));
  plan_timer_.async_wait([this](boost::system::error_code failed) {
    if (!failed) resize();
  });
}

// --- reports about a lane's boxes --------------------------------------------------------

void Lanes::onReady(const BoxPtr& box) {
  Lane* lane = find(box->zygote.lane);
  if (lane == nullptr) return boxes_.end(box);
  const uint64_t now_ns = monotonicNs();
  if (!box->machine.wasStocked()) plan_.onMade(box->zygote.lane, now_ns - box->asked_ns, now_ns);
  x_.observer.cloneMade(x_.registry.get(box->zygote.tmpl)->name, timesOf(*box, now_ns));
  const ClonePool::Handed handed = lane->refill.ready(box->id, now_ns);
  const base::ClaimKind found = box->for_task ? base::ClaimKind::made : base::ClaimKind::waited;
  if (handed.task != 0 ? !x_.lane_tasks->giveBox(handed.task, box, found) : handed.end)
    boxes_.end(box);
  else if (handed.task == 0)
    boxes_.sample(box->id);  // a just-parked clone's cgroup charge is its private memory
  refill(box->zygote.lane);
}

void Lanes::onStocked(const BoxPtr& box) {
  Lane* lane = find(box->zygote.lane);
  if (lane == nullptr) return;
  lane->refill.stocked(box->id, monotonicNs());
  refill(box->zygote.lane);
}

void Lanes::onLost(const BoxPtr& box, std::string why, Again again) {
  Lane* lane = find(box->zygote.lane);
  if (lane == nullptr) return;
  const Refill::Lost lost = lane->refill.lost(box->id, monotonicNs());
  if (lost.clone) x_.observer.boxLost(x_.registry.get(box->zygote.tmpl)->name, why);
  if (lost.task != 0) x_.lane_tasks->boxFailed(lost.task, std::move(why), again);
  refill(box->zygote.lane);
}

void Lanes::onMeasured(const BoxPtr& box, uint64_t memory_bytes) {
  plan_.onMeasured(box->zygote.lane, memory_bytes);
  resize();
}

void Lanes::onGone(const BoxPtr& box) {
  if (Lane* lane = find(box->zygote.lane)) lane->refill.happened(monotonicNs());
  if (!x_.ledger.serves(box->zygote.tmpl)) return;
  for (auto& [id, lane] : lanes_)
    if (lane.tmpl == box->zygote.tmpl && lane.held_back) refill(id);
}

// --- figures for reports -----------------------------------------------------------------

void Lanes::addTo(base::PoolState* s, base::TemplateId tmpl) const {
  if (auto at = finds_.find(tmpl); at != finds_.end()) {
    s->hits = at->second.hits;
    s->misses = at->second.misses;
  }
  for (const auto& [id, lane] : lanes_) {
    if (lane.tmpl != tmpl) continue;
    s->parked += lane.refill.parked();
    s->parked_target += lane.refill.parkedTarget();
    s->stocked += lane.refill.stocked();
    s->stocked_target += lane.refill.stockedTarget();
    s->making += lane.refill.making();
    s->waiting += lane.refill.waiting();
  }
}

// A lane's bounds are the smaller of its template's and the daemon's: its own reason cannot tell
// these apart.
base::SizeReason Lanes::reasonOf(const Lane& lane, const pool::LaneDemand& demand,
                                 uint32_t wanted) const {
  using base::SizeReason;
  const uint32_t parked = lane.refill.parkedTarget(), lane_max = demand.options().parked_max;
  const uint32_t template_max = x_.registry.get(lane.tmpl)->parked_max;
  const SizeReason own = demand.reason();
  if (parked < wanted) return SizeReason::budget;
  if (own == SizeReason::unused) return own;
  if (template_max == 0) return SizeReason::maximum;
  const bool bounded = own == SizeReason::minimum || own == SizeReason::maximum;
  if (bounded && parked >= lane_max && lane_max < template_max) return SizeReason::budget;
  return own;
}

// Rates and sizes add up; the chance of a miss is that of the template's next task.
void Lanes::addTo(base::TemplateReport* report, base::TemplateId tmpl) const {
  addTo(&report->pool, tmpl);
  base::PoolForecast& f = report->forecast;
  double missed_hz = 0, miss_max = 0;
  for (const auto& [id, lane] : lanes_) {
    const pool::LaneDemand* demand = lane.tmpl == tmpl ? plan_.demand(id) : nullptr;
    if (demand == nullptr) continue;
    const pool::Target* target = plan_.target(id);
    const uint32_t parked = lane.refill.parkedTarget();
    const uint32_t wanted = target != nullptr ? target->parked_wanted : 0;
    const double miss = demand->empty(parked);
    f.arrivals_hz += demand->rate_hz();
    f.makers += demand->load();
    missed_hz += miss * demand->rate_hz();
    miss_max = std::max(miss_max, miss);
    f.wanted += wanted;
    f.make_ns = std::max(f.make_ns, demand->make_ns());
    const auto why = static_cast<size_t>(reasonOf(lane, *demand, wanted));
    f.target_by_reason[why] += parked;
    ++f.lanes_by_reason[why];
    report->clone_memory_bytes = std::max(report->clone_memory_bytes, plan_.cloneBytes(id));
  }
  f.miss_share = f.arrivals_hz > 0 ? missed_hz / f.arrivals_hz : miss_max;
}

void Lanes::addTo(base::HostUse* use) const {
  const pool::PlanOptions& o = plan_.options();
  for (const auto& [id, lane] : lanes_) {
    const uint32_t parked = lane.refill.parked() + lane.refill.making();
    use->parked += parked;
    use->parked_memory_bytes +=
        parked * (o.box_bytes + plan_.cloneBytes(id)) + lane.refill.stocked() * o.box_bytes;
  }
  use->parked_max = o.parked_max;
  use->parked_memory_bytes_max = o.memory_bytes_max;
}

}  // namespace mayfly::core
