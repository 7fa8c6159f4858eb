// One host under a load: what the simulator needs of it, and what comes out.
//
// The host's costs (config/plan_file.h) become the simulator's steps; the daemon's settings become
// the budget that the daemon itself would derive (budget/budget.h), and its pool::Plan sizes the
// pools. Of several hosts, one is simulated: it gets each arrival with the same chance.
//
// Layer: plan. Pure and deterministic by seed.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "config/daemon.h"
#include "config/plan_file.h"
#include "plan/admission.h"
#include "pool/sim.h"
#include "pool/trace.h"
#include "sched/admission.h"

namespace mayfly::plan {

inline constexpr uint64_t kLead_ns = 10'000'000'000;  // before the first arrival: the pools fill
inline constexpr double kLoad_max = 64;               // times the given load

struct Input {
  config::PlanHost host;
  config::Daemon settings;
  pool::Trace trace;
  uint64_t warm_up_ns = 0;  // of the trace: left out of the figures
  uint64_t seed = 1;
};

// The arrivals that a scenario's [[load]] tables describe. Each task takes what an empty task of
// its template takes, and its own program's time.
base::Result<pool::Trace> makeLoad(const config::PlanScenario& scenario,
                                   const config::PlanHost& host);
// Names the templates that the host's file lacks, and tasks that can never fit.
base::Status checkInput(const Input& input);

struct LaneFigures {
  std::string name;      // the template; with a zygote for each tenant: "template/tenant"
  uint32_t wanted = 0;   // the most that its tasks wanted parked
  uint32_t granted = 0;  // the most that the budget gave it
  uint32_t most = 0;     // that its template may have parked
  uint64_t clone_bytes = 0;
};
struct Outcome {
  pool::SimResult sim;
  std::vector<LaneFigures> lanes;
  std::array<Use, kBounds> uses;
  sched::Budget budget;
  uint64_t parked_bytes_max = 0;
  double processors = 0;  // without the background
};
// `hosts` share the load, which comes `load` times as fast.
base::Result<Outcome> predict(const Input& input, uint32_t hosts, double load);

// The steps of a template's boxes and tasks.
pool::SimCosts costsOf(const config::PlanTemplate& t, bool clients_here);
// What a daemon with these settings takes of the host.
sched::Budget budgetOf(const config::PlanHost& host, const config::Daemon& settings);
sched::Demand demandOf(const config::PlanTemplate& t, const sched::Budget& budget, bool broker);

}  // namespace mayfly::plan
