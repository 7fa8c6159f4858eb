// The core's gauges at one moment, for those who publish figures. Made on demand: events cost
// nothing for it.
//
// Layer: base. Plain data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/observer.h"

namespace mayfly::base {

struct TemplateReport {
  std::string name, mechanism, state, state_text;
  PoolState pool;
  PoolForecast forecast;
  uint32_t boxes = 0;    // not yet proven gone
  uint32_t claimed = 0;  // of those: with a task
  uint32_t dying = 0;    // of those: their end is requested; without the quarantined ones
  uint32_t quarantined = 0;
  uint64_t clone_memory_bytes = 0;  // a parked clone's own memory, by measurement; 0: none yet
};

// The tasks of one account.
struct AccountReport {
  std::string user, tenant;
  uint32_t queued = 0, running = 0;  // running: they have a box
};

// What all boxes with a task take of the host, and the daemon's bound on it.
struct HostUse {
  uint64_t memory_bytes = 0, memory_bytes_max = 0;
  uint32_t cpu_milli = 0, cpu_milli_max = 0;  // caps, so this may go beyond the host's cores
  uint32_t boxes = 0, boxes_max = 0;
  uint32_t fds = 0, fds_max = 0;
  uint32_t pids = 0, pids_max = 0;
  uint32_t ptys = 0, ptys_max = 0;
  uint32_t parked = 0, parked_max = 0;  // boxes without a task
  uint64_t parked_memory_bytes = 0, parked_memory_bytes_max = 0;
};

struct CoreReport {
  std::vector<TemplateReport> templates;  // by TemplateId, whose first is 1
  std::vector<AccountReport> accounts;    // with tasks
  HostUse use;
  uint32_t queued = 0, queue_max = 0;  // tasks
  uint64_t queue_age_ns = 0;           // of the oldest one
  uint32_t boxes = 0, quarantined = 0;
  bool settled = false;  // every template is ready, or was given up
  bool serving = false;  // takes tasks
};

}  // namespace mayfly::base
