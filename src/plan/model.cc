#include "plan/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/text.h"
#include "budget/budget.h"
#include "host/report.h"
#include "pool/policies.h"

namespace mayfly::plan {

using config::PlanHost;
using config::PlanTemplate;
using pool::SimStep;
using pool::SimWork;

namespace {

constexpr uint64_t kAroundTask_ns = 1'000'000'000;  // as the daemon's Intake counts
constexpr uint32_t kMaking_max = 4;                 // core::EngineOptions::making_max
constexpr uint32_t kStockedOfLane_max = 1;          // as the daemon's Lanes

uint64_t nanos(double us) { return us <= 0 ? 0 : static_cast<uint64_t>(us * 1e3); }

// A step that takes `time_us` on an idle host, with this work. Threads come first; work that does
// not fit the time is done beside it.
SimStep stepOf(double time_us, double daemon_us, double spawner_us, double own_us) {
  const double threads_us = daemon_us + spawner_us;
  const double part = threads_us > time_us ? time_us / threads_us : 1;
  const double own = std::min(own_us, time_us - part * threads_us);
  SimStep step;
  step.before = {nanos(part * daemon_us), nanos(part * spawner_us), nanos(own)};
  step.wait_ns = nanos(time_us - part * threads_us - own);
  step.behind = {nanos((1 - part) * daemon_us), nanos((1 - part) * spawner_us),
                 nanos(own_us - own)};
  return step;
}

// Whether the simulated host gets the arrival, of `hosts`.
bool isOurs(uint64_t index, uint64_t seed, uint32_t hosts) {
  if (hosts == 1) return true;
  pool::Random random(seed * 0x9e3779b97f4a7c15 + index);
  return random.next() % hosts == 0;
}

// The load's arrivals that one host gets, each in its lane.
struct Part {
  pool::Trace trace;
  std::vector<const PlanTemplate*> lanes;  // by template of `trace`
};

base::Result<Part> partOf(const Input& in, uint32_t hosts, double load) {
  Part part;
  std::map<std::pair<uint32_t, uint32_t>, uint32_t> lanes;
  std::vector<const PlanTemplate*> templates;
  for (const std::string& name : in.trace.templates) templates.push_back(in.host.find(name));
  const auto scaled = [&](uint64_t ns) {
    return kLead_ns + static_cast<uint64_t>(static_cast<double>(ns) / load);
  };
  part.trace.tenants = in.trace.tenants;
  part.trace.end_ns = scaled(in.trace.end_ns);
  for (size_t i = 0; i < in.trace.arrivals.size(); ++i) {
    if (!isOurs(i, in.seed, hosts)) continue;
    pool::Arrival a = in.trace.arrivals[i];
    const PlanTemplate& t = *templates[a.template_index];
    const uint32_t tenant = t.per_tenant ? a.tenant_index : 0;
    const auto [at, is_new] =
        lanes.try_emplace({a.template_index, tenant}, static_cast<uint32_t>(part.lanes.size()));
    if (is_new) {
      std::string name = t.name;
      if (t.per_tenant && !in.trace.tenants.empty())
        name += "/" + in.trace.tenants[tenant].user + "." + in.trace.tenants[tenant].tenant;
      if (part.lanes.size() >= pool::kTraceTemplates_max)
        return base::fail(base::Code::invalidArgument,
                          fmt::format("the load needs more than {} pools: each tenant of template "
                                      "'{}' has one",
                                      pool::kTraceTemplates_max, t.name),
                          "Plan for fewer tenants, or without per_tenant.");
      part.trace.templates.push_back(std::move(name));
      part.lanes.push_back(&t);
    }
    a.template_index = at->second;
    a.at_ns = scaled(a.at_ns);
    if (a.memory_bytes == 0) a.memory_bytes = t.task.memory_bytes;
    part.trace.arrivals.push_back(a);
  }
  return part;
}

host::HostBudget hostBudget(const PlanHost& host) {
  host::HostBudget b;
  b.fds_hard = host.open_files;
  b.pids_max = host.processes;
  b.user_namespaces_max = host.user_namespaces;
  b.ptys_max = host.ptys;
  b.memory_total_bytes = b.memory_available_bytes = host.memory_bytes;
  host::countBoxes(b);
  return b;
}

pool::SimOptions optionsOf(const Input& in, const Part& part, double load) {
  pool::SimOptions o;
  o.processors = in.host.processors - in.host.background;
  o.making_max = kMaking_max;
  o.makers = UINT32_MAX;
  o.seed = in.seed;
  o.make_spread = 0;
  o.count_from_ns = kLead_ns + static_cast<uint64_t>(static_cast<double>(in.warm_up_ns) / load);
  for (const PlanTemplate* t : part.lanes) {
    pool::SimTemplate each;
    each.clone_bytes = t->clone_bytes - std::min(t->clone_bytes, o.box_bytes);
    each.costs = costsOf(*t, in.host.clients_here);
    o.make_spread = std::max(o.make_spread, t->make.spread);
    o.templates.push_back(std::move(each));
  }
  return o;
}

}  // namespace

pool::SimCosts costsOf(const PlanTemplate& t, bool clients_here) {
  const auto us = [](uint64_t n) { return static_cast<double>(n); };
  const config::PlanMake& m = t.make;
  const config::PlanTask& k = t.task;
  pool::SimCosts c;
  const double box = us(m.box_us) / us(std::max<uint64_t>(1, m.time_us));
  const auto make = [&](double part) {
    return stepOf(part * us(m.time_us), part * us(m.daemon_us), part * us(m.spawner_us),
                  part * us(m.other_us));
  };
  c.box = make(box);
  c.clone = make(1 - box);
  // The box's own work before and after its program runs is part of the claim.
  const double run_cpu = std::min(us(k.box_cpu_us), us(k.run_us));
  const double first_cpu = std::min(run_cpu, us(k.first_us));
  const double around_cpu = us(k.box_cpu_us) - run_cpu;
  const double other = us(k.other_us) + (clients_here ? us(k.client_us) : 0);
  const double ends = us(k.claim_us + k.end_us);
  const double claim = ends > 0 ? us(k.claim_us) / ends : 0.5;
  c.claim = stepOf(us(k.claim_us), claim * us(k.daemon_us), claim * us(k.spawner_us),
                   claim * other + around_cpu);
  c.first = stepOf(us(k.first_us), 0, 0, first_cpu);
  c.end = stepOf(us(k.end_us), (1 - claim) * us(k.daemon_us), (1 - claim) * us(k.spawner_us),
                 (1 - claim) * other);
  for (uint64_t late : k.late_us) c.late_ns.push_back(late * 1'000);
  for (uint64_t late : k.late_full_us.empty() ? k.late_us : k.late_full_us)
    c.late_full_ns.push_back(late * 1'000);
  c.cpu_before_ns = nanos(around_cpu + first_cpu);
  c.cpu_default_ns = nanos(us(k.box_cpu_us));
  return c;
}

sched::Budget budgetOf(const PlanHost& host, const config::Daemon& settings) {
  return budget::deriveBudget(hostBudget(host), settings);
}

sched::Demand demandOf(const PlanTemplate& t, const sched::Budget& budget, bool broker) {
  sched::Demand d;
  d.memory_bytes = t.limits.memory_bytes;
  d.fds = host::kDaemonFdsPerBox + (broker ? host::kDoorFdsPerBox : 0);
  d.pids = t.limits.processes + budget::kPidsPerBox;
  d.ptys = budget::grantPtys(budget, t.ptys);
  d.time_ns = (t.limits.wall_time_ms + t.limits.grace_ms) * 1'000'000 + kAroundTask_ns;
  return d;
}

base::Result<pool::Trace> makeLoad(const config::PlanScenario& scenario, const PlanHost& host) {
  std::vector<pool::Trace> traces;
  uint64_t seed = scenario.seed;
  for (const config::PlanLoad& load : scenario.loads) {
    const PlanTemplate* t = host.find(load.template_name);
    if (t == nullptr)
      return base::fail(
          base::Code::notFound,
          fmt::format("the load names template '{}', and {} has no measure of it",
                      base::printable(load.template_name, 60), base::printable(host.file)),
          "`mayfly plan calibrate --template NAME` measures a template.");
    using Kind = pool::TraceShape::Kind;
    constexpr Kind kinds[] = {Kind::steady, Kind::constant, Kind::bursty, Kind::onOff};
    pool::TraceShape s;
    s.kind = kinds[static_cast<size_t>(load.arrivals)];
    s.time_s = static_cast<double>(scenario.time_ms) * 1e-3;
    s.rate_hz = load.rate_hz;
    s.every_s = static_cast<double>(load.every_ms) * 1e-3;
    s.batch = load.burst;
    s.spread_s = static_cast<double>(load.spread_ms) * 1e-3;
    s.on_s = static_cast<double>(load.on_ms) * 1e-3;
    s.off_s = static_cast<double>(load.off_ms) * 1e-3;
    s.run_s = static_cast<double>(load.run_ms) * 1e-3;
    s.runs = static_cast<pool::TraceShape::Runs>(load.runs);
    s.run_spread = load.run_spread;
    s.seed = seed++;
    MAYFLY_TRY(pool::Trace trace, pool::makeTrace(s));
    trace.templates = {load.template_name};
    trace.tenants = {{load.user, load.tenant}};
    for (pool::Arrival& a : trace.arrivals) {
      a.cpu_ns = t->task.box_cpu_us * 1'000 +
                 static_cast<uint64_t>(load.cpu_share * static_cast<double>(a.run_ns));
      a.run_ns += t->task.run_us * 1'000;
      a.memory_bytes = std::max(load.memory_bytes, t->task.memory_bytes);
    }
    traces.push_back(std::move(trace));
  }
  return pool::mergeTraces(traces, "generated");
}

base::Status checkInput(const Input& in) {
  if (in.trace.arrivals.empty())
    return base::fail(base::Code::invalidArgument, "there is no load: no task arrives",
                      "Give a trace, or [[load]] tables with a higher rate or a longer time.");
  if (in.warm_up_ns >= in.trace.end_ns)
    return base::fail(base::Code::invalidArgument,
                      fmt::format("the warm-up of {:g} s leaves nothing of the trace's {:g} s",
                                  static_cast<double>(in.warm_up_ns) * 1e-9,
                                  static_cast<double>(in.trace.end_ns) * 1e-9),
                      "Set a shorter `warm_up`.");
  const sched::Budget budget = budgetOf(in.host, in.settings);
  const std::string file = base::printable(in.host.file);
  for (const std::string& name : in.trace.templates) {
    const PlanTemplate* t = in.host.find(name);
    if (t == nullptr)
      return base::fail(base::Code::notFound,
                        fmt::format("the trace names template '{}', and {} has no measure of it",
                                    base::printable(name, 60), file),
                        "`mayfly plan calibrate --template NAME` measures a template.");
    sched::Accounts accounts;
    const sched::Admission admission(budget, accounts);
    auto account = accounts.open(sched::Account::ofSubject("u", "", false));
    if (!account) return tl::unexpected<base::Error>(account.error());
    if (base::Status fits = admission.accepts(
            *account, 1, demandOf(*t, budget, !in.settings.broker_policy.empty()));
        !fits)
      return base::fail(std::move(fits).error().in(
          fmt::format("{}: no task of template '{}' can ever run", file, name)));
  }
  return base::Unit{};
}

base::Result<Outcome> predict(const Input& in, uint32_t hosts, double load) {
  MAYFLY_TRY(Part part, partOf(in, hosts, load));
  const pool::SimOptions o = optionsOf(in, part, load);
  Outcome out;
  out.processors = o.processors;
  out.budget = budgetOf(in.host, in.settings);
  const bool broker = !in.settings.broker_policy.empty();
  pool::PlanOptions plan;
  plan.makers = kMaking_max;
  plan.memory_bytes_max = in.settings.parked_memory_bytes;
  plan.boxes_max = out.budget.parked_max + out.budget.stocked_max;
  plan.parked_max = out.budget.parked_max;
  plan.box_bytes = o.box_bytes;
  const uint32_t stocked_max = std::min(kStockedOfLane_max, out.budget.stocked_max);
  std::vector<pool::DemandOptions> demands;
  std::vector<uint64_t> clone_bytes;
  std::vector<sched::Demand> tasks;
  for (size_t i = 0; i < part.lanes.size(); ++i) {
    const PlanTemplate& t = *part.lanes[i];
    pool::DemandOptions d;
    d.parked_min = std::min(t.parked_min, out.budget.parked_max);
    d.parked_max = std::min(t.parked_max, out.budget.parked_max);
    d.stocked_min = std::min(1u, stocked_max);
    d.stocked_max = stocked_max;
    demands.push_back(d);
    clone_bytes.push_back(o.templates[i].clone_bytes);
    tasks.push_back(demandOf(t, out.budget, broker));
  }
  pool::DemandSizing sizing(plan, demands, clone_bytes);
  HostAdmission admission(out.budget, budget::deriveAccountBounds(hostBudget(in.host), in.settings),
                          std::move(tasks), part.trace.tenants, o.count_from_ns, part.trace.end_ns);
  MAYFLY_TRY(out.sim, pool::simulate(part.trace, o, sizing, &admission));
  out.uses = admission.uses();
  out.parked_bytes_max = in.settings.parked_memory_bytes;
  for (uint32_t i = 0; i < part.lanes.size(); ++i)
    out.lanes.push_back({part.trace.templates[i], sizing.wantedMax(i), sizing.grantedMax(i),
                         demands[i].parked_max, clone_bytes[i] + o.box_bytes});
  return out;
}

}  // namespace mayfly::plan
