// The part of a template's manifest that scheduling and publishing need.
//
// Layer: pool. Plain data.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/task.h"
#include "pool/zygote_fsm.h"

namespace mayfly::pool {

struct TemplateSpec {
  std::string name, description, mechanism;
  std::string image_digest;         // 64 hex digits; empty: there is no image
  std::string missing_image_text;   // why image_digest is empty
  std::vector<std::string> zygote;  // argv; [0] a path in the image
  std::string trial_code;           // two clones run it before the zygote serves; may be empty
  std::vector<std::pair<std::string, std::string>> env;  // the tasks' environment
  std::vector<std::string> cpus_env;  // variables set to a task's number of processors
  bool runs_commands = false;         // CodeKind::command
  bool runs_code = false;             // CodeKind::file, string, stdinText, path
  bool runs_modules = false;          // CodeKind::module, and path of a folder
  bool loopback = true;
  uint32_t ptys = 0;                         // pseudo-terminals that a task may have open at once
  uint32_t parked_min = 1, parked_max = 64;  // clones parked ahead while the template is in use
  uint64_t zygote_memory_bytes = 1ull << 30;
  uint64_t start_ns_max = 60'000'000'000;  // publish -> ready
  Renewal renewal;
  uint32_t tenants_max =
      0;  // not 0: each tenant has a zygote of its own, at most this many at once
  base::Limits defaults, maximum;
  // What a clone takes before its task runs: a task with a lower cap is refused.
  uint64_t memory_least_bytes = 0;
  uint32_t processes_least = 0;  // threads count
};

}  // namespace mayfly::pool
