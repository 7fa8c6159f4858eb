// The warm pool in simulated time: for a trace of arrivals and any sizing policy, how long tasks
// wait, which clones are wasted, and how much memory the pool takes.
//
// It drives the daemon's own BoxMachine, ClonePool and Refill, one lane per template, and calls
// them as the engine does. The parts between them are modelled:
//
// - A task enters a SimQueue and holds a place from its turn until its box is gone. The simulator's
//   own queue is first come first served, with `boxes_max` places; the planner's (plan/admission.h)
//   is the daemon's sched::Admission.
// - A lane requests at most `making_max` clones at a time, and one stocked box, as in the daemon.
//   The daemon has no further limit: the spawner and the templates' zygotes share the host's cores.
//   So `makers` serve the makes of all lanes in the order of requests. The policy learns a make's
//   time from request to ready, as the engine measures it.
// - From claim to start, a task takes `claim_ns`; from end to gone, a box takes `end_ns`.
// - With `processors`, each step (making, claim, run, end) takes work of the host instead of a
//   fixed time: everything that is under way shares the processors (sim_host.h).
//
// Not modelled: zygotes' renewals, clones that die, tasks that wait longer than they may.
//
// Layer: pool. Pure and deterministic: time is the trace's, randomness a seed.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/task.h"
#include "pool/sim_host.h"
#include "pool/trace.h"

namespace mayfly::pool {

struct Hold {
  uint32_t parked = 0, stocked = 0;
};

struct SimPool {
  uint32_t parked = 0, stocked = 0, making = 0, waiting = 0;
};

// Says how much to hold of each template. Templates are the trace's indexes.
class SizingPolicy {
 public:
  virtual ~SizingPolicy() = default;
  virtual void onArrival(uint32_t template_index, uint64_t now_ns) = 0;
  virtual void onMade(uint32_t template_index, uint64_t make_ns, uint64_t now_ns) = 0;
  // Called after every arrival, every make and when due; a surplus is discarded at once.
  virtual void hold(uint64_t now_ns, std::span<const SimPool> now, std::span<Hold> out) = 0;
  virtual uint64_t nextDue_ns() const = 0;  // 0: only after an event
};

// Which task gets a place next.
class SimQueue {
 public:
  virtual ~SimQueue() = default;
  // False: refused.
  virtual bool enqueue(base::TaskId task, const Arrival& arrival, uint64_t now_ns) = 0;
  // The task that gets a place now; it holds the place until release().
  virtual std::optional<base::TaskId> next(uint64_t now_ns) = 0;
  virtual void release(base::TaskId task, uint64_t now_ns) = 0;
};

// What the steps of a template's boxes and tasks take, if the host has `processors`.
struct SimCosts {
  SimStep box, clone;           // made one after the other, or the clone alone in a stocked box
  SimStep claim;                // from the claim to the task's first instruction
  SimStep first;                // from there to the first byte; the beginning of the run
  SimStep end;                  // from the task's exit to the proof that nothing is left
  uint64_t cpu_before_ns = 0;   // the part of Arrival::cpu_ns that `claim` and `first` have already
  uint64_t cpu_default_ns = 0;  // of a task whose Arrival::cpu_ns is unknown
  // How much later than `claim` and `first` say a first byte comes: on its way from and to the
  // client, and by whom else the kernel lets run first. Quantiles in equal steps, from the least to
  // the most; none: never later. `late_full`: if no processor is idle.
  std::vector<uint64_t> late_ns, late_full_ns;
};

struct SimTemplate {
  uint64_t box_make_ns = 2'000'000;    // the box without its clone
  uint64_t clone_make_ns = 3'000'000;  // the clone, in a stocked box
  uint64_t clone_bytes = 2 << 20;
  SimCosts costs;
};

struct SimOptions {
  SimTemplate each;                    // of every template of the trace
  std::vector<SimTemplate> templates;  // if not empty: one for each, instead
  uint32_t making_max = 4;             // clones of one template requested at a time
  uint32_t makers = 4;                 // boxes that the host makes at a time, of all templates
  uint64_t claim_ns = 300'000;
  uint64_t end_ns = 2'000'000;
  double make_spread = 0.3;  // of a make time's logarithm (log-normal); 0: constant
  uint64_t box_bytes = 512 << 10;
  uint32_t boxes_max = 4096;        // tasks that have a box or wait for one
  uint32_t queue_max = UINT32_MAX;  // waiting tasks; a further one is refused
  double processors = 0;            // 0: every step takes its time, whatever else is under way
  uint64_t count_from_ns = 0;       // earlier events are left out of the figures
  uint64_t seed = 1;                // of the make times and delays
};

// Of all tasks that ended; `max` is 0 if none did.
struct SimTimes {
  double mean_ns = 0;
  uint64_t p50_ns = 0, p90_ns = 0, p99_ns = 0, max_ns = 0;
};

struct SimFigures {
  uint64_t arrivals = 0;
  uint64_t refused = 0;                      // of the arrivals: the queue was full
  uint64_t hits = 0;                         // tasks that found a parked clone at their turn
  uint64_t box_hits = 0;                     // tasks that found only a stocked box
  uint64_t clones_made = 0, boxes_made = 0;  // boxes_made: for the stock
  uint64_t thrown_away = 0;                  // clones that never served a task
  double memory_byte_s = 0;                  // of parked clones and stocked boxes, over time
  double parked_mean = 0;
  uint32_t parked_max = 0;
  double wait_mean_ns = 0;  // arrival to clone
  uint64_t wait_p50_ns = 0, wait_p90_ns = 0, wait_p99_ns = 0, wait_max_ns = 0;
  SimTimes first_byte, whole;  // arrival to first byte, to gone

  double hitRate() const {
    return arrivals == 0 ? 1 : static_cast<double>(hits) / static_cast<double>(arrivals);
  }
  // Of the tasks that were not refused, those that found no parked clone.
  double missShare() const {
    const auto taken = static_cast<double>(arrivals - refused);
    return taken == 0 ? 0 : 1 - static_cast<double>(hits) / taken;
  }
  double refusedShare() const {
    return arrivals == 0 ? 0 : static_cast<double>(refused) / static_cast<double>(arrivals);
  }
};

struct SimResult {
  SimFigures all;
  std::vector<SimFigures> templates;  // memory, made and hits of each; the sum is in `all`
  double makers_busy = 0;             // share of their time
  double running_mean = 0;            // tasks
  double running_square = 0;          // the mean of its square
  uint32_t running_max = 0;
  double running_byte_mean = 0;                         // the peaks of running tasks
  uint64_t running_bytes_max = 0, ahead_bytes_max = 0;  // ahead: parked and stocked
  double processors_busy = 0;                           // how many of them, in the mean
  double daemon_busy = 0, spawner_busy = 0;             // share of the time
  double queued_mean = 0;
  uint32_t queued_max = 0;  // tasks without a place
  uint32_t boxes_max = 0;   // the most alive at one time, of every kind
};

// Checks that templates fit the trace, that the trace is in order, and that there are makers and
// boxes.
base::Status checkSimulation(const Trace& trace, const SimOptions& options);
// `internal` if a machine of the pool breaks one of its invariants.
// Without a queue: the simulator's own, of boxes_max and queue_max.
base::Result<SimResult> simulate(const Trace& trace, const SimOptions& options,
                                 SizingPolicy& policy, SimQueue* queue = nullptr);

}  // namespace mayfly::pool
