// How a task ended: a pure function of the first cause, the kernel's exit status of the main
// process, the kernel's counters, and the limits.
//
// The first cause wins. If the main process ended by itself, the counters can reveal a reached cap,
// whatever its exit code. A task that was asked to end (SIGTERM) keeps the cause of that; its own
// exit code or signal goes with it.
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
  queueTime,
};

// The kernel's counters of a box.
struct Counters {
  uint64_t user_cpu_ns = 0, system_cpu_ns = 0;
  uint64_t memory_peak_bytes = 0;
  uint64_t oom_kills = 0, forks_refused = 0;
  uint32_t processes_peak = 0;
  uint64_t disk_bytes = 0, disk_inodes = 0, disk_bytes_max = 0, disk_inodes_max = 0;
};

// si_code and si_status of waitid; code 0: it did not end by itself.
struct ExitStatus {
  int code = 0, status = 0;
  bool terminated = false;  // SIGTERM was sent before it ended
};

bool diskFull(const Counters& c);
bool cpuTimeUsedUp(const Counters& c, const base::Limits& l);

struct End {
  Cause first = Cause::none;
  std::string detail;     // of the cause: what failed; empty if the cause says all
  bool asked = false;     // SIGTERM was sent for the first cause, and a grace began
  uint64_t grace_ns = 0;  // that it got: less than its own while the daemon stops
  // The cause that ended the grace; `exited`: its main process ended by itself; none: it is used
  // up. If it is not none, the detail is its own.
  Cause then = Cause::none;
  ExitStatus exit;
  bool counters_final = false;
  Counters counters;
  bool output_over = false;  // stdout or stderr exceeded the cap
};

struct Judgement {
  base::Verdict verdict = base::Verdict::internal;
  int exit_code = 0;
  int signal = 0;
  bool in_grace = false;  // the main process ended by itself, within its grace
  uint64_t cap_value = 0;
  std::string reason;
};

Judgement judge(const End& end, const base::Limits& limits);

}  // namespace mayfly::sched
