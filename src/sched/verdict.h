// How a task ended: a pure function of the first cause, what the kernel said of
// the main process, what the kernel counted, and the limits.
//
// The first cause wins. Where the main process ended by itself, the counters can
// reveal that a cap was hit, whatever exit code it chose.
//
// Layer: sched. Pure.
#pragma once

#include <cstdint>
#include <string>

#include "base/task.h"

namespace mayfly::sched {

enum class Cause : uint8_t {
  none,
  exited,   // the main process ended by itself
  boxDied,  // the init ended unasked
  memory,
  processes,
  wallTime,
  cpuTime,
  output,
  disk,
  cancelled,
  clientGone,
  daemonStopping,
  internal,
};

// What the kernel counted for a box.
struct Counters {
  uint64_t user_cpu_ns = 0, system_cpu_ns = 0;
  uint64_t memory_peak_bytes = 0;
  uint64_t oom_kills = 0, forks_refused = 0;
  uint32_t processes_peak = 0;
  uint64_t disk_bytes = 0, disk_inodes = 0, disk_bytes_max = 0, disk_inodes_max = 0;
};

// As si_code and si_status of waitid say it; code 0: it did not end by itself.
struct ExitStatus {
  int code = 0, status = 0;
};

bool diskFull(const Counters& c);
bool cpuTimeUsedUp(const Counters& c, const base::Limits& l);

struct End {
  Cause first = Cause::none;
  std::string detail;  // of the cause: what failed; empty where the cause says all
  ExitStatus exit;
  bool counters_final = false;
  Counters counters;
  bool output_over = false;  // stdout or stderr passed its cap
};

struct Judgement {
  base::Verdict verdict = base::Verdict::internal;
  int exit_code = 0;
  int signal = 0;
  uint64_t cap_value = 0;
  std::string reason;
};

Judgement judge(const End& end, const base::Limits& limits);

}  // namespace mayfly::sched
