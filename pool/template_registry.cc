#include "pool/template_registry.h"

#include <algorithm>

#include "base/text.h"

namespace mayfly::pool {

using base::Code;
using base::fail;
using base::LaneId;
using base::TemplateId;

base::Result<TemplateId> TemplateRegistry::add(TemplateSpec spec, uint64_t now_ns) {
  if (templates_.size() >= kTemplatesServedMax)
    return fail(Code::resourceExhausted,
                "cannot serve template '" + base::printable(spec.name) + "': a daemon serves " +
                    std::to_string(kTemplatesServedMax) + " templates at most");
  if (find(spec.name) != nullptr)
    return fail(Code::alreadyExists,
                "template '" + base::printable(spec.name) + "' is listed twice");
  const bool has_image = !spec.image_digest.empty(), per_tenant = spec.tenants_max != 0;
  templates_.push_back(Template{std::move(spec), !has_image});
  auto id = static_cast<TemplateId>(templates_.size());
  if (has_image) open(id, per_tenant, now_ns);
  return id;
}

// --- templates ---

const TemplateSpec* TemplateRegistry::find(std::string_view name, TemplateId* id) const {
  for (size_t i = 0; i < templates_.size(); ++i)
    if (templates_[i].spec.name == name) {
      if (id != nullptr) *id = static_cast<TemplateId>(i + 1);
      return &templates_[i].spec;
    }
  return nullptr;
}

const TemplateSpec* TemplateRegistry::get(TemplateId id) const {
  return id >= 1 && id <= templates_.size() ? &templates_[id - 1].spec : nullptr;
}

void TemplateRegistry::setLeast(TemplateId id, uint64_t memory_bytes, uint32_t processes) {
  if (id < 1 || id > templates_.size()) return;
  templates_[id - 1].spec.memory_least_bytes = memory_bytes;
  templates_[id - 1].spec.processes_least = processes;
}

// The lane that represents the template: a ready one, else the youngest.
const Lane* TemplateRegistry::shown(TemplateId id) const {
  const Lane* found = nullptr;
  for (const auto& [lane_id, lane] : lanes_) {
    if (lane.tmpl != id) continue;
    if (lane.fsm.state() == ZygoteState::ready && lane.fsm.text().empty()) return &lane;
    if (found == nullptr || found->fsm.state() != ZygoteState::ready) found = &lane;
  }
  return found;
}

std::string_view TemplateRegistry::state(TemplateId id) const {
  const TemplateSpec* spec = get(id);
  if (spec == nullptr) return "unknown";
  if (spec->image_digest.empty()) return "missingImage";
  const Lane* lane = shown(id);
  if (lane == nullptr) return "starting";
  switch (lane->fsm.state()) {
    case ZygoteState::waiting:
    case ZygoteState::starting:
      return "starting";
    case ZygoteState::ready:
      return "ready";
    case ZygoteState::unhealthy:
      break;
  }
  return "unhealthy";
}

std::string_view TemplateRegistry::stateText(TemplateId id) const {
  const TemplateSpec* spec = get(id);
  if (spec == nullptr) return {};
  if (spec->image_digest.empty()) return spec->missing_image_text;
  const Lane* lane = shown(id);
  return lane != nullptr ? lane->fsm.text() : std::string_view();
}

uint32_t TemplateRegistry::renewals(TemplateId id) const {
  uint32_t sum = 0;
  for (const auto& [lane_id, lane] : lanes_)
    if (lane.tmpl == id) sum += lane.fsm.renewals();
  return sum;
}

bool TemplateRegistry::settled() const {
  return std::all_of(templates_.begin(), templates_.end(),
                     [](const Template& t) { return t.settled; });
}

// --- lanes ---

LaneId TemplateRegistry::open(TemplateId id, bool spare, uint64_t now_ns) {
  const TemplateSpec& spec = templates_[id - 1].spec;
  LaneId lane = next_lane_++;
  lanes_.emplace(lane, Lane{.tmpl = id,
                            .tenant = {},
                            .spare = spare,
                            .tasks = 0,
                            .used_ns = now_ns,
                            .fsm = ZygoteFsm(spec.start_ns_max, spec.renewal)});
  opened_.push_back(lane);
  return lane;
}

void TemplateRegistry::close(LaneId id) {
  lanes_.erase(id);
  closed_.push_back(id);
}

Lane* TemplateRegistry::find(LaneId id) {
  auto at = lanes_.find(id);
  return at != lanes_.end() ? &at->second : nullptr;
}

const Lane* TemplateRegistry::lane(LaneId id) const {
  auto at = lanes_.find(id);
  return at != lanes_.end() ? &at->second : nullptr;
}

const TemplateSpec& TemplateRegistry::specOf(LaneId id) const {
  return templates_[lanes_.at(id).tmpl - 1].spec;
}

bool TemplateRegistry::ready(LaneId id) const {
  const Lane* l = lane(id);
  return l != nullptr && l->fsm.state() == ZygoteState::ready;
}

bool TemplateRegistry::unhealthy(LaneId id) const {
  const Lane* l = lane(id);
  return l != nullptr && l->fsm.state() == ZygoteState::unhealthy;
}

bool TemplateRegistry::probing(LaneId id) const {
  const Lane* l = lane(id);
  return l != nullptr && l->fsm.probing();
}

base::Status TemplateRegistry::accepts(LaneId id, uint64_t now_ns) const {
  const Lane* l = lane(id);
  if (l == nullptr)
    return fail(Code::unavailable, "its zygote has ended", "Submit it again.", base::kRetryMs);
  return accepts(*l, now_ns);
}

base::Status TemplateRegistry::accepts(const Lane& lane, uint64_t now_ns) const {
  if (lane.fsm.state() != ZygoteState::unhealthy) return base::Unit{};
  uint64_t due_ns = std::max(lane.fsm.due_ns(), now_ns);
  return fail(Code::unavailable,
              "template '" + templates_[lane.tmpl - 1].spec.name +
                  "' is unhealthy: " + std::string(lane.fsm.text()),
              "The daemon's log shows what its zygote said.",
              static_cast<uint32_t>((due_ns - now_ns) / 1'000'000));
}

base::Result<LaneId> TemplateRegistry::laneFor(TemplateId id, std::string_view tenant,
                                               uint64_t now_ns) {
  const TemplateSpec* spec = get(id);
  if (spec == nullptr) return fail(Code::notFound, "there is no such template");
  if (spec->image_digest.empty())
    return fail(
        Code::failedPrecondition,
        spec->missing_image_text.empty() ? "template '" + spec->name + "' has no image"
                                         : spec->missing_image_text,
        "Build it with `mayfly image build " + spec->name + "` and start the daemon again.");
  if (spec->tenants_max != 0) return laneOfTenant(id, tenant, now_ns);
  auto at = std::find_if(lanes_.begin(), lanes_.end(),
                         [id](const auto& l) { return l.second.tmpl == id; });
  MAYFLY_CHECK(accepts(at->second, now_ns));
  return at->first;
}

base::Result<LaneId> TemplateRegistry::laneOfTenant(TemplateId id, std::string_view tenant,
                                                    uint64_t now_ns) {
  const TemplateSpec& spec = templates_[id - 1].spec;
  LaneId spare = 0, idle = 0;
  uint32_t taken = 0, taken_of_all = 0;
  for (const auto& [lane_id, lane] : lanes_) {
    if (!lane.spare && !lane.tenant.empty()) ++taken_of_all;
    if (lane.tmpl != id) continue;
    if (lane.spare) {
      spare = lane_id;
      continue;
    }
    ++taken;
    if (lane.tenant == tenant) {
      MAYFLY_CHECK(accepts(lane, now_ns));
      return lane_id;
    }
    const bool may_go = lane.tasks == 0 && now_ns >= lane.used_ns + kTenantKept_ns;
    if (may_go && (idle == 0 || lane.used_ns < lanes_.at(idle).used_ns)) idle = lane_id;
  }
  const bool full = taken >= spec.tenants_max || taken_of_all >= kTenantLanesMax;
  if (full && idle == 0)
    return fail(
        Code::resourceExhausted,
        "template '" + spec.name + "' has tasks of " + std::to_string(taken) +
            " tenants, each with a zygote of its own, the most that it may have",
        "Try again a second after a tenant's tasks have ended, or raise zygote.tenants_max.",
        base::kRetryMs);
  if (spare == 0) spare = open(id, true, now_ns);
  MAYFLY_CHECK(accepts(lanes_.at(spare), now_ns));
  if (full) close(idle);
  Lane& lane = lanes_.at(spare);
  lane.spare = false;
  lane.tenant = tenant;
  lane.used_ns = now_ns;
  open(id, true, now_ns);
  return spare;
}

void TemplateRegistry::taskBegan(LaneId id) {
  if (Lane* l = find(id)) ++l->tasks;
}

void TemplateRegistry::taskEnded(LaneId id, uint64_t now_ns) {
  if (Lane* l = find(id)) {
    --l->tasks;
    l->used_ns = now_ns;
  }
}

// --- the lanes' zygotes ---

std::vector<Order> TemplateRegistry::due(uint64_t now_ns,
                                         const std::function<bool(LaneId)>& may_renew) {
  std::vector<Order> orders;
  std::vector<LaneId> idle;
  for (auto& [id, lane] : lanes_) {
    if (!lane.tenant.empty() && lane.tasks == 0 && now_ns >= lane.used_ns + kTenantIdle_ns) {
      idle.push_back(id);
      continue;
    }
    if (lane.fsm.state() == ZygoteState::ready && !lane.fsm.renewing() && lane.fsm.due_ns() != 0 &&
        lane.fsm.due_ns() <= now_ns && !may_renew(id))
      lane.fsm.postponeRenewal(now_ns);
    switch (lane.fsm.tick(now_ns)) {
      case ZygoteFsm::Do::publish:
        orders.push_back({id, Order::Act::publish});
        break;
      case ZygoteFsm::Do::retire:
        orders.push_back({id, Order::Act::retire});
        break;
      default:
        break;
    }
  }
  for (LaneId id : idle) close(id);
  return orders;
}

uint64_t TemplateRegistry::nextDue_ns() const {
  uint64_t next = 0;
  auto take = [&](uint64_t due_ns) {
    if (due_ns != 0 && (next == 0 || due_ns < next)) next = due_ns;
  };
  for (const auto& [id, lane] : lanes_) {
    take(lane.fsm.due_ns());
    if (!lane.tenant.empty() && lane.tasks == 0) take(lane.used_ns + kTenantIdle_ns);
  }
  return next;
}

void TemplateRegistry::onReady(LaneId id, uint64_t now_ns) {
  if (Lane* l = find(id)) {
    l->fsm.ready(now_ns);
    templates_[l->tmpl - 1].settled = true;
  }
}

bool TemplateRegistry::onClone(LaneId id, uint64_t now_ns) {
  Lane* l = find(id);
  if (l == nullptr) return false;
  uint64_t before_ns = l->fsm.due_ns();
  l->fsm.cloned(now_ns);
  return l->fsm.due_ns() != before_ns;
}

ZygoteFsm::Do TemplateRegistry::onDied(LaneId id, uint64_t now_ns, std::string why) {
  Lane* l = find(id);
  if (l == nullptr) return ZygoteFsm::Do::nothing;
  auto act = l->fsm.died(now_ns, std::move(why));
  // A template that was never ready counts as settled only once the breaker is open.
  if (l->fsm.state() == ZygoteState::unhealthy) templates_[l->tmpl - 1].settled = true;
  return act;
}

void TemplateRegistry::onSuccessorDied(LaneId id, uint64_t now_ns, std::string why) {
  if (Lane* l = find(id)) l->fsm.successorDied(now_ns, std::move(why));
}

void TemplateRegistry::askRenewal(LaneId id, uint64_t now_ns) {
  if (Lane* l = find(id)) l->fsm.askRenewal(now_ns);
}

void TemplateRegistry::withdrawRenewal(LaneId id, uint64_t now_ns) {
  if (Lane* l = find(id)) l->fsm.withdrawRenewal(now_ns);
}

}  // namespace mayfly::pool
