// Everything that the daemon has measured, as one immutable value.
//
// The core thread makes it (metrics::Recorder), and only when somebody asks. Every other thread
// reads it through a shared pointer, without a lock: /metrics, the dashboard, `mayfly top`.
//
// Counters rise from the daemon's start on. A gauge has its value at `made_ns`. Names are safe to
// print; those of tenants are the clients' own, so escape them for the format at hand.
//
// Layer: metrics (uses base only). Pure data.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/observer.h"
#include "base/task.h"
#include "metrics/histogram.h"

namespace mayfly::metrics {

// --- closed sets of labels ---

// A verdict's class: who decided the task's end.
enum class Outcome : uint8_t {
  succeeded,  // exit code 0
  failed,     // another exit code, or a signal of its own
  capped,     // killed at a cap: wallTime, cpuTime, memory, processes, output, disk
  stopped,    // cancelled, clientGone, daemonStopping
  unserved,   // queueTime: it never got a box
  internal,   // Mayfly's own failure
};
inline constexpr size_t kOutcomes = 6;
std::string_view name(Outcome outcome);
Outcome outcomeOf(base::Verdict verdict);

// The parts of a task's time. A part is counted if the task reached its end.
enum class Part : uint8_t {
  queue,      // accepted -> it may have a box
  claim,      // it may have a box -> its first instruction
  start,      // accepted -> its first instruction: what a client waits before the code runs
  firstByte,  // its first instruction -> the first byte of output
  run,        // its first instruction -> its end, or the decision to kill it
  kill,       // killed tasks only: the decision -> its last process is reaped
  reap,       // all other tasks: its end -> its last process is reaped
  receipt,    // reaped -> nothing of its box is left
  whole,      // accepted -> the receipt
};
inline constexpr size_t kParts = 9;
std::string_view name(Part part);  // "queue" ... "first_byte" ...
// In ns; nothing if one of its two ends is missing.
bool partOf(const base::Phases& phases, base::Verdict verdict, Part part, uint64_t* ns);
// From its acceptance to its receipt; of a task whose result comes without one, until `now_ns`.
uint64_t tookNs(const base::Phases& phases, uint64_t now_ns);

inline constexpr size_t kCodes = 12;  // error codes of refusals: base::Code's, and "other"
std::string_view codeName(size_t code);
size_t codeOf(std::string_view name);  // 0: "other"

// --- one template ---

struct Template {
  std::string name, mechanism;   // mechanism: "fork" or "exec"
  std::string state, state_why;  // starting, ready, unhealthy, missingImage
  base::PoolState pool;          // parked, targets and why, making, waiting, zygotes, renewals
  base::PoolForecast forecast;   // arrivals, the chance of a miss, the time to make a clone
  uint32_t running = 0;          // tasks between their first instruction and their end
  uint32_t open = 0;             // tasks accepted and not ended
  uint32_t dying = 0;            // boxes whose end is requested and not proven
  uint32_t quarantined = 0;      // boxes whose proof is overdue
  uint32_t boxes = 0;            // not yet proven gone

  uint64_t accepted = 0;                             // tasks
  std::array<uint64_t, base::kVerdicts> verdicts{};  // tasks ended, by verdict
  // Submissions, by error code and by whose bound it was.
  std::array<std::array<uint64_t, base::kRefusedBys>, kCodes> refused{};
  std::array<uint64_t, base::kClaimKinds> claims{};  // parked, waited, made
  std::array<uint64_t, base::kLaunches> launches{};  // of ended tasks: none, parked, stocked, made
  uint64_t cpu_ns = 0, output_bytes = 0;             // of ended tasks
  uint64_t fresh_runtimes = 0;                       // tasks that got a new runtime
  uint64_t receipts = 0, receipts_incomplete = 0;
  uint64_t clones_made = 0, clones_lost = 0, clones_discarded = 0;
  uint64_t trials_passed = 0, trials_failed = 0;  // a failed one: a hygiene failure
  uint64_t zygotes_renewed = 0, zygotes_died = 0;
  uint64_t clone_memory_bytes = 0;  // a parked clone's own memory, the last measured

  // [launch][outcome]; null: no such task has ended. Immutable.
  using Parts = std::array<Histogram, kParts>;
  std::array<std::array<std::shared_ptr<const Parts>, kOutcomes>, base::kLaunches> parts;
  std::array<Histogram, base::kMakeSteps> make;  // of clones: box, clone, park, whole

  uint64_t refusedInAll() const {
    uint64_t all = 0;
    for (const auto& of_code : refused)
      for (uint64_t n : of_code) all += n;
    return all;
  }
  uint64_t ended() const {
    uint64_t all = 0;
    for (uint64_t v : verdicts) all += v;
    return all;
  }
};

// --- tenants: the busiest ones, and all others as one ---

struct Tenant {
  std::string user, tenant;  // user: "uid:0"; tenant: empty if the client named none
  bool others = false;       // every tenant that has no entry of its own; both names are empty
  uint64_t accepted = 0, refused = 0;
  std::array<uint64_t, kOutcomes> ended{};
  uint64_t cpu_ns = 0;
  uint32_t queued = 0, running = 0;  // tasks, now; running: they have a box
  Histogram start, whole;
};

// --- the host, as the daemon's budget sees it ---

struct Headroom {
  const char* what = "";  // "memory", "cpu", "boxes", "fds", "pids", "ptys", "parked", "queue"
  const char* unit = "";  // "bytes", "cores", ""
  double committed = 0, budget = 0;
};

struct Process {  // mayflyd itself
  double cpu_s = 0;
  double spawner_cpu_s = 0;  // of the spawner itself, without its children
  uint64_t resident_bytes = 0;
  uint32_t open_fds = 0, fds_max = 0;
};

// --- the broker ---

struct Broker {
  bool configured = false, front_up = false, vault_up = false;
  uint32_t sessions = 0;
  uint64_t front_starts = 0, vault_starts = 0;
  uint64_t front_ends = 0, vault_ends = 0;  // unasked
  // Of tasks' calls: base::BrokerCounts::kNames has the kinds. Over all vaults of this run.
  std::array<base::BrokerCounts::Kind, base::BrokerCounts::kKinds> decisions{};
  Histogram opened;                            // of sessions, as mayflyd waits for the vault
  uint64_t opened_ok = 0, opened_refused = 0;  // sessions
  Histogram revoked;                           // of sessions, until both ends confirmed
};

// --- RPC ---

struct Method {
  std::string name;  // "Mayfly.submit", ... or "other"
  Histogram took;
};

struct Rpc {
  uint32_t connections = 0;  // open
  uint64_t opened = 0, messages_in = 0, messages_out = 0, bytes_in = 0, bytes_out = 0;
  std::array<uint64_t, kCodes> connections_refused{};  // by error code
  std::array<uint64_t, kCodes> calls_refused{};        // answered with a typed error, by its code
  uint64_t messages_refused = 0;  // not of the protocol: their connections ended
  std::vector<Method> methods;
};

// --- the recent past ---

inline constexpr uint64_t kTickMs = 2'000;
inline constexpr size_t kTicks = 450;  // 15 minutes

// What happened within one tick. Immutable once made.
struct TickTemplate {
  uint32_t index = 0;  // in Snapshot::templates
  uint32_t accepted = 0, refused = 0;
  std::array<uint32_t, base::kVerdicts> verdicts{};
  std::array<uint32_t, base::kClaimKinds> claims{};
  Buckets<uint32_t> start{}, run{}, whole{};  // of tasks that ended in the tick
  // At the tick's end:
  uint32_t parked = 0, parked_target = 0, stocked = 0, making = 0, waiting = 0, running = 0;
  float arrivals_hz = 0;     // the forecast
  float miss_predicted = 0;  // the chance that a task finds no parked clone
};
struct Tick {
  uint64_t at_ms = 0;      // its end, since 1970
  uint32_t length_ms = 0;  // about kTickMs; longer if the core was late
  uint32_t queued = 0, boxes = 0, quarantined = 0, connections = 0;
  uint32_t calls = 0, calls_refused = 0;
  uint32_t receipts = 0, receipts_incomplete = 0, audit_findings = 0;
  uint32_t broker_allowed = 0, broker_refused = 0, broker_failed = 0;
  uint32_t loop_lag_us_max = 0;
  float cpu_share = 0;                            // of one core, by mayflyd itself
  float spawner_cpu_share = 0;                    // of one core, by the spawner itself
  std::array<Buckets<uint32_t>, kParts> parts{};  // of tasks that ended in the tick
  std::vector<float> headroom;                    // committed / budget, as in Snapshot::headroom
  std::vector<TickTemplate> templates;            // those with an event or a parked clone
};

// A task that took longer than the setting `slow_task`.
struct SlowTask {
  base::TaskId task = 0;
  uint64_t at_ms = 0;  // its end, since 1970
  std::string template_name, user, tenant;
  std::string trace;  // W3C traceparent; empty: the client gave none
  base::Verdict verdict = base::Verdict::internal;
  base::Launch launch = base::Launch::none;
  // 0: not reached; without a receipt, `whole` lasts until the result.
  std::array<uint64_t, kParts> part_ns{};
};
inline constexpr size_t kSlowTasks = 32;

// An event that an operator wants to see, newest last.
struct Notice {
  uint64_t at_ms = 0;
  const char* kind = "";  // "audit", "quarantine", "template", "broker", "lag"
  std::string text;
};
inline constexpr size_t kNotices = 64;

// --- all of it ---

struct Snapshot {
  uint64_t made_ns = 0;  // monotonic
  uint64_t made_ms = 0;  // since 1970
  uint64_t started_ms = 0;
  uint64_t serial = 0;  // one more for each snapshot
  std::string instance, version;
  bool ready = false;  // every template is ready or was given up, and the daemon takes tasks
  bool stopping = false;

  std::vector<Template> templates;  // in the order of the daemon's; the index never changes
  std::vector<Tenant> tenants;      // busiest first; `others` last
  std::vector<Headroom> headroom;
  uint32_t queued = 0;                  // tasks
  uint64_t queue_age_ns = 0;            // of the oldest one
  uint64_t boxes = 0, quarantined = 0;  // not yet proven gone; of those, overdue
  Histogram queue_wait;                 // of every task that left the queue for a box
  uint64_t refused_unknown_template = 0;
  uint64_t receipts_late = 0;  // completed after their bound
  Broker broker;
  Rpc rpc;
  Process process;
  Histogram loop_lag;
  uint64_t loop_lag_max_ns = 0;  // since the daemon's start
  std::array<uint64_t, base::kAuditKinds> audit_findings{};
  uint64_t audit_walks = 0;
  base::AuditWalk audit_last;

  std::vector<std::shared_ptr<const Tick>> ticks;  // oldest first; at most kTicks
  std::vector<SlowTask> slow;                      // oldest first; at most kSlowTasks
  uint64_t slow_tasks = 0;                         // ever
  uint64_t slow_task_ns = 0;                       // the setting; 0: none is slow
  std::vector<Notice> notices;                     // oldest first; at most kNotices
};

using SnapshotPtr = std::shared_ptr<const Snapshot>;

}  // namespace mayfly::metrics
