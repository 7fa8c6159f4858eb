// The values that every room uses: a task's limits, verdict, usage, phases and receipt. Plain data;
// units stand last in the names.
//
// Layer: base. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mayfly/caps.h"

namespace mayfly::base {

using BoxId = uint64_t;       // never reused while the daemon lives; 0 is none
using TaskId = uint64_t;      // the same
using TemplateId = uint32_t;  // a template that the daemon serves; 0 is none
using LaneId = uint32_t;      // a template's zygote and pool, for all tasks or for one tenant's
using ZygoteId =
    uint32_t;  // one zygote process with its helpers and boxes; never reused, like BoxId

// A task's caps, all in force before its first instruction. docs/SPECIFICATION.md says what happens
// when a task reaches one; include/mayfly/caps.h lists the fields.
struct Limits {
#define MAYFLY_CAP(member, type, standard, ...) type member = standard;
  MAYFLY_CAPS(MAYFLY_CAP)
#undef MAYFLY_CAP
};

// How a task ended, as the kernel reports it; no code in the box can forge it.
enum class Verdict : uint8_t {
  succeeded = 0,  // exit code 0
  failed = 1,     // another exit code
  signaled = 2,   // killed by a signal that no cap sent
  wallTime = 3,
  cpuTime = 4,
  memory = 5,
  processes = 6,
  output = 7,
  disk = 8,
  cancelled = 9,
  clientGone = 10,
  daemonStopping = 11,
  internal = 12,   // Mayfly's own failure; never the task's
  queueTime = 13,  // no box was free in time: the task never ran
};
inline constexpr size_t kVerdicts = 14;
std::string_view name(Verdict verdict);

struct Usage {
  uint64_t wall_ns = 0;  // started -> exited (or killed)
  uint64_t user_cpu_ns = 0;
  uint64_t system_cpu_ns = 0;
  uint64_t memory_peak_bytes = 0;
  uint32_t processes_peak = 0;
  uint64_t stdout_bytes = 0;
  uint64_t stderr_bytes = 0;
  uint64_t disk_bytes = 0;     // held at death
  uint64_t disk_inodes = 0;    // held at death
  bool fresh_runtime = false;  // the task got a new runtime, without the template's preloads
};

// The steps of a task's life. Their times are in ns of the monotonic clock; 0: not reached.
enum class Phase : uint8_t {
  queued,     // the daemon accepted the task
  box,        // the daemon asked for the box
  boxReady,   // cgroups, namespaces and mounts are complete
  clone,      // the clone runs in it, all walls up
  claimed,    // the clone got the task
  started,    // the clone said that it is about to run the task's first instruction
  firstByte,  // the daemon read the first byte of output
  exited,     // the task's main process ended, or the kill was decided
  reaped,     // no process of the box is left
  receipt,    // nothing of the box is left
};
inline constexpr size_t kPhases = 10;
std::string_view name(Phase phase);
using Phases = std::array<uint64_t, kPhases>;

// The proof that a box is gone, each point with its time (ns, monotonic; 0: not proven).
struct Receipt {
  BoxId box = 0;
  bool complete = false;
  uint64_t reaped_ns = 0;       // init and clone reaped by their parent: the pid namespace is empty
  uint64_t unpopulated_ns = 0;  // the kernel says `populated 0`
  uint64_t fds_closed_ns = 0;   // Mayfly has no open descriptor of the box
  uint64_t cgroups_gone_ns = 0;  // every cgroup of the box removed
  uint64_t uid_free_ns = 0;      // its uid may serve another box
  std::string missing;           // which points are not proven, and why; empty when complete
  // Of a task with grants or tools; else 0:
  uint64_t revoked_ns = 0;        // no call of the task works any more; 0 if it never started
  uint64_t broker_closed_ns = 0;  // the broker's front has no socket of the box open
  std::string note;               // what was restarted because it did not confirm in time
};

// A file that the task left in /task/out.
struct OutFile {
  std::string path;         // relative to /task/out; bytes that the task chose
  uint64_t size_bytes = 0;  // apparent size
  uint32_t mode = 0;        // permission bits; setuid, setgid and sticky dropped
  uint64_t offset = 0;      // of its content in the spool
  std::string skipped;      // why it was not collected ("symbolic link", ...); empty if it was
};

}  // namespace mayfly::base
