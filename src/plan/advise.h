// The answers to "how many hosts, how large, what binds": searches over plan/model.h.
//
// Layer: plan. Pure and deterministic by seed. A call simulates the load some sixty times.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/plan_file.h"
#include "plan/model.h"

namespace mayfly::plan {

// First bytes below this are not the model's to predict: docs/planner.md, "How true it is".
inline constexpr uint64_t kFirstByteTrusted_ms = 5;

// How much of one resource of a host is in use.
struct Resource {
  std::string name;  // "processors"
  std::string unit;  // "", "bytes"
  double mean = 0, most = 0, of = 0;
  double share = 0;       // what counts: the mean of processors and threads, else the most
  double full_share = 0;  // of the time: tasks waited because of it
};

// An outcome against the goal.
struct Score {
  uint64_t tasks = 0;  // that the simulated host got
  double missed = 0, refused = 0;
  uint64_t first_p50_ns = 0, first_p99_ns = 0, whole_p99_ns = 0;
  bool met = false;
};
Score scoreOf(const Outcome& outcome, const config::PlanGoal& goal);
std::vector<Resource> resourcesOf(const Outcome& outcome);
// The resource that binds a host that misses the goal, in a few words: "the processors: 97 % busy".
std::string bindingOf(const Outcome& outcome, const config::PlanGoal& goal);

struct Row {
  std::string what;  // "twice the load"
  Score score;       // on the planned number of hosts
  double processors = 0;
  uint32_t hosts = 0;  // that the goal needs; 0: no number up to hosts_max is enough
  std::string binds;   // empty: the goal is met
};
struct Point {  // of the load on each of the planned hosts
  double load = 0;
  Score score;
  double processors = 0;
};
struct PoolAdvice {
  std::string name;
  uint32_t wanted = 0;  // the most that would ever be parked if nothing bounded the pools
  uint32_t most = 0;    // the most parked within the settings as they are
  double mean = 0, missed = 0;
  uint64_t tasks = 0, first_p99_ns = 0;  // of its tasks
};

struct Advice {
  uint64_t tasks = 0;  // of the whole load, without the warm-up
  double seconds = 0, rate_hz = 0;
  uint32_t hosts = 0;        // 0: no number up to hosts_max meets the goal
  uint32_t hosts_spare = 0;  // of these, goal.spare_hosts may fail; 0: the same
  uint32_t shown = 1;        // the number of hosts that the figures are of
  Outcome planned;           // one of them
  Score score;
  std::vector<Resource> resources;  // by share, largest first
  double headroom = 0;              // times the load that these hosts bear; 0: not even a 64th
  bool unbound = false;             // nothing bound up to kLoad_max
  std::string binds;                // beyond the headroom; words
  Score beyond;                     // there
  std::vector<Point> curve;         // by load
  std::vector<Row> what_ifs;
  std::vector<PoolAdvice> pools;
  std::string settings_toml;  // to paste
};

base::Result<Advice> advise(const Input& input, const config::PlanScenario& scenario);
// The settings that this load wants: no less than they are, but for the pools' memory if memory
// binds, because tasks get what pools leave.
config::Daemon settingsFor(const Input& input, const Outcome& unbounded, bool memory_binds);

}  // namespace mayfly::plan
