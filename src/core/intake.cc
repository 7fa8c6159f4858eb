#include "core/intake.h"

#include <utility>

#include "base/clock.h"
#include "base/text.h"
#include "sched/validate.h"

namespace mayfly::core {

using base::Code;
using base::fail;
using base::monotonicNs;
using base::RefusedBy;

constexpr uint32_t kStartMs = 1'000;  // a restarted daemon answers after about this time
constexpr uint64_t kAroundTask_ns = 1'000'000'000;  // of a slot: the box's making and end

namespace {

RefusedBy refusedBy(std::optional<sched::Accounts::Level> whose) {
  using Level = sched::Accounts::Level;
  if (!whose) return RefusedBy::other;
  switch (*whose) {
    case Level::tenant:
      return RefusedBy::tenant;
    case Level::user:
      return RefusedBy::user;
    case Level::pool:
      break;
  }
  return RefusedBy::host;
}

}  // namespace

Intake::Intake(Context& context, Lanes& lanes)
    : x_(context), lanes_(lanes), admission_(context.options.budget, context.accounts) {}

base::Status Intake::hasRoom(const sched::AccountRef& account, sched::Resource resource,
                             uint64_t amount, RefusedBy* by) const {
  base::Status room = x_.accounts.accepts(account, resource, amount);
  if (!room) *by = refusedBy(x_.accounts.refusedBy(account, resource, amount));
  return room;
}

base::Result<TaskPtr> Intake::accept(base::TaskId id, sched::TaskSpec spec,
                                     std::shared_ptr<sched::TaskListener> listener, RefusedBy* by) {
  *by = RefusedBy::stopping;
  if (x_.stopping != Context::Stopping::no)
    return fail(Code::unavailable, "the daemon is stopping", "Connect again once it is back.",
                kStartMs);
  *by = RefusedBy::unknownTemplate;
  base::TemplateId tmpl_id = 0;
  const pool::TemplateSpec* tmpl = x_.registry.find(spec.template_name, &tmpl_id);
  if (tmpl == nullptr)
    return fail(Code::notFound,
                "there is no template '" + base::printable(spec.template_name, 80) + "'",
                "`mayfly templates` lists them.");
  *by = RefusedBy::request;
  if (spec.session) sched::joinEnv(spec.env, spec.session->env());
  MAYFLY_TRY(base::Limits limits, sched::checkSpec(spec, *tmpl));
  const sched::AccountRef& account = spec.account;
  *by = RefusedBy::quarantine;
  if (!x_.ledger.serves(tmpl_id))
    return fail(Code::unavailable,
                "template '" + tmpl->name +
                    "' gets no more boxes: " + std::to_string(x_.ledger.quarantinedOf(tmpl_id)) +
                    " of its boxes are not proven gone",
                "The daemon's log names them and what is missing.", base::kRetryMs);
  MAYFLY_CHECK(x_.ledger.accepts(account));
  if (spec.collect_out_files) {
    MAYFLY_CHECK(hasRoom(account, sched::Resource::outFileBytes, 1, by));
    MAYFLY_CHECK(hasRoom(account, sched::Resource::spools, 1, by));
  }
  const uint64_t held_bytes = sched::heldBytes(spec);
  MAYFLY_CHECK(hasRoom(account, sched::Resource::inputBytes, held_bytes, by));
  sched::Share input = x_.accounts.charge(account, sched::Resource::inputBytes, held_bytes);
  sched::Bounds bounds = x_.options.bounds;
  bounds.make_ns += sched::copyTime_ns(sched::inputBytes(spec), limits);
  const uint64_t longest_ns = (limits.wall_time_ms + limits.grace_ms) * 1'000'000 + kAroundTask_ns;
  const sched::Demand demand{
      limits.memory_bytes + (spec.collect_out_files ? limits.out_files_bytes : 0),
      kFdsPerBox + (x_.options.broker != nullptr ? kDoorFdsPerBox : 0),
      limits.processes + kPidsPerBox,
      tmpl->ptys,
      longest_ns,
      limits.cpu_milli};
  // Before a lane is chosen: a refused task must not cost a tenant its zygote.
  if (base::Status room = admission_.accepts(account, spec.owner, demand); !room) {
    if (hasRoom(account, sched::Resource::queuedTasks, 1, by)) *by = RefusedBy::connection;
    return fail(std::move(room).error());
  }
  *by = RefusedBy::notServing;
  auto lane = x_.registry.laneFor(tmpl_id, account.key(), monotonicNs());
  x_.events.onLanesChanged();
  MAYFLY_CHECK(lane);
  MAYFLY_CHECK(admission_.enqueue(id, account, spec.owner, *lane, demand));
  auto t = std::make_shared<Task>(x_.io, id, limits, bounds, monotonicNs());
  t->tmpl = tmpl_id;
  t->lane = *lane;
  x_.registry.taskBegan(*lane);
  t->input_left_bytes = limits.input_bytes - sched::inputBytes(spec);
  t->input = std::move(input);
  t->stdin_closed = !spec.stdin_open;
  t->spec = std::move(spec);
  t->listener = std::move(listener);
  lanes_.arrived(*lane);
  return t;
}

base::TaskId Intake::next() {
  return admission_
      .next(monotonicNs(),
            [this](base::LaneId lane) {
              return x_.registry.ready(lane) && x_.ledger.serves(x_.registry.lane(lane)->tmpl);
            })
      .value_or(0);
}

void Intake::addTo(base::HostUse* use) const {
  const sched::Budget& budget = admission_.budget();
  const sched::Demand& used = admission_.used();
  use->memory_bytes = used.memory_bytes;
  use->memory_bytes_max = budget.memory_bytes_max;
  use->cpu_milli = used.cpu_milli;
  use->cpu_milli_max = x_.options.bounds.host_cores * 1'000;
  use->boxes = static_cast<uint32_t>(admission_.held());
  use->boxes_max = budget.boxes_max;
  use->fds = used.fds;
  use->fds_max = budget.fds_max;
  use->pids = used.pids;
  use->pids_max = budget.pids_max;
  use->ptys = used.ptys;
  use->ptys_max = budget.ptys_max;
}

void Intake::putBack(const Task& t) { admission_.putBack(t.id, t.lane); }

void Intake::ended(Task& t) {
  admission_.withdraw(t.id);
  if (t.slot_free) admission_.release(t.id);
  if (t.trial_of == 0) x_.registry.taskEnded(t.lane, monotonicNs());
  t.input.reset();
}

}  // namespace mayfly::core
