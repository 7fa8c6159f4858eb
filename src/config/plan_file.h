// The files that `mayfly plan` reads: a host as `mayfly plan calibrate` measured it, and the load
// and the goal to plan for.
//
// Layer: config. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/task.h"

namespace mayfly::config {

inline constexpr size_t kPlanFileBytesMax = 256u << 10;
inline constexpr size_t kPlanTemplatesMax = 63;
inline constexpr size_t kPlanLoadsMax = 256;
inline constexpr size_t kPlanQuantilesMax = 101;

// Times in microseconds, of an otherwise idle host; "work": of a processor.
struct PlanMake {
  uint64_t time_us = 5'000;  // from the request to a clone that is ready
  uint64_t box_us = 2'000;   // the box's part of it
  double spread = 0.2;       // deviation of the logarithm
  uint64_t daemon_us = 100, spawner_us = 500, other_us = 4'000;  // work
};
// Of a task whose program does nothing.
struct PlanTask {
  uint64_t claim_us = 1'000;    // from the claim to the first instruction
  uint64_t first_us = 1'000;    // from there to the first byte of output
  uint64_t run_us = 2'000;      // from the first instruction to the exit
  uint64_t end_us = 2'000;      // from the exit to the receipt
  uint64_t box_cpu_us = 3'000;  // work, as its box counts it
  uint64_t daemon_us = 300, spawner_us = 700, other_us = 1'000;  // work outside its box
  uint64_t client_us = 0;              // work of the client; counts if clients run on the host
  uint64_t memory_bytes = 4ull << 20;  // its peak
  // How much later than claim_us + first_us a client has the first byte: quantiles in equal steps,
  // from the least to the most; empty: never later. `late_full`: while no processor is idle.
  std::vector<uint64_t> late_us, late_full_us;
};
struct PlanTemplate {
  std::string name;
  std::string mechanism = "fork";
  uint64_t clone_bytes = 2ull << 20;  // what a parked clone is charged
  uint32_t parked_min = 1, parked_max = 64;
  bool per_tenant = false;  // each tenant has a zygote and a pool of its own
  uint32_t ptys = 0;
  base::Limits limits;  // the default caps: memory, processes, out_files_size and times count
  PlanMake make;
  PlanTask task;
};
struct PlanHost {
  std::string file;  // for messages
  double processors = 2;
  double background = 0;  // processors that other programs keep busy
  bool clients_here = true;
  uint64_t memory_bytes = 0;
  uint64_t open_files = 0, processes = 0, user_namespaces = 0, ptys = 0;
  std::vector<PlanTemplate> templates;  // by name
  const PlanTemplate* find(std::string_view name) const;
};

struct PlanGoal {
  uint64_t first_byte_ms = 100;  // p99, from submit
  double missed = 0.05;          // share of tasks that may find no parked clone
  double refused = 0.001;        // share of tasks that may be refused
  uint32_t spare_hosts = 1;      // that may fail while the goal holds
};
struct PlanLoad {
  enum class Arrivals : uint8_t { poisson, constant, bursts, onoff };
  enum class Runs : uint8_t { exponential, constant, lognormal, pareto };
  std::string template_name = "python", user = "u1", tenant;
  Arrivals arrivals = Arrivals::poisson;
  double rate_hz = 1;
  double burst = 20;
  uint64_t every_ms = 30'000, spread_ms = 0, on_ms = 60'000, off_ms = 300'000;
  // Of the program itself, besides what every task of its template takes.
  uint64_t run_ms = 0;
  Runs runs = Runs::exponential;
  double run_spread = 1;
  double cpu_share = 1;       // processors that it keeps busy while it runs
  uint64_t memory_bytes = 0;  // its peak; 0: that of an empty task
};
struct PlanScenario {
  std::string host_file, settings_file, trace_file;  // empty: none; as the file has them
  uint64_t time_ms = 600'000;
  std::optional<uint64_t> warm_up_ms;  // nothing: a tenth of the time, at most 30 s
  uint64_t seed = 1;
  uint32_t hosts_max = 64;
  PlanGoal goal;
  std::vector<PlanLoad> loads;
};

// Errors name file, line and key.
base::Result<PlanHost> parsePlanHost(std::string_view text, std::string_view file);
base::Result<PlanScenario> parsePlanScenario(std::string_view text, std::string_view file);
// The file that parsePlanHost reads; `remarks` become comments at its top.
std::string formatPlanHost(const PlanHost& host, const std::vector<std::string>& remarks);

}  // namespace mayfly::config
