// The warm pool in simulated time: for a trace of arrivals and any sizing policy, how long tasks
// wait, which clones are wasted, and how much memory the pool takes.
//
// It drives the daemon's own BoxMachine, ClonePool and Refill, one lane per template, and calls
// them as the engine does. The parts between them are modelled:
//
// - A task enters one queue, first come first served, until fewer than `boxes_max` tasks have a
//   box or wait for one; its place is free again when its box is gone.
// - A lane requests at most `making_max` clones at a time, and one stocked box, as in the daemon.
//   The daemon has no further limit: the spawner and the templates' zygotes share the host's cores.
//   So `makers` serve the makes of all lanes in the order of requests. The policy learns a make's
//   time from request to ready, as the engine measures it.
// - From claim to start, a task takes `claim_ns`; from end to gone, a box takes `end_ns`.
//
// Not modelled: zygotes' renewals, clones that die, makers slowed down by running tasks.
//
// Layer: pool. Pure and deterministic: time is the trace's, randomness a seed.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

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

struct SimTemplate {
  uint64_t box_make_ns = 2'000'000;    // the box without its clone
  uint64_t clone_make_ns = 3'000'000;  // the clone, in a stocked box
  uint64_t clone_bytes = 2 << 20;
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
  uint32_t boxes_max = 4096;   // tasks that have a box or wait for one
  uint64_t count_from_ns = 0;  // earlier events are left out of the figures
  uint64_t seed = 1;           // of the make times
};

struct SimFigures {
  uint64_t arrivals = 0;
  uint64_t hits = 0;                         // tasks that found a parked clone at their turn
  uint64_t box_hits = 0;                     // tasks that found only a stocked box
  uint64_t clones_made = 0, boxes_made = 0;  // boxes_made: for the stock
  uint64_t thrown_away = 0;                  // clones that never served a task
  double memory_byte_s = 0;                  // of parked clones and stocked boxes, over time
  double parked_mean = 0;
  uint32_t parked_max = 0;
  double wait_mean_ns = 0;  // arrival to clone
  uint64_t wait_p50_ns = 0, wait_p90_ns = 0, wait_p99_ns = 0, wait_max_ns = 0;

  double hitRate() const {
    return arrivals == 0 ? 1 : static_cast<double>(hits) / static_cast<double>(arrivals);
  }
};

struct SimResult {
  SimFigures all;
  std::vector<SimFigures> templates;  // memory, made and hits of each; the sum is in `all`
  double makers_busy = 0;             // share of their time
  double running_mean = 0;            // tasks
  uint32_t running_max = 0;
  uint32_t boxes_max = 0;  // the most alive at one time, of every kind
};

// Checks that templates fit the trace, that the trace is in order, and that there are makers and
// boxes.
base::Status checkSimulation(const Trace& trace, const SimOptions& options);
// `internal` if a machine of the pool breaks one of its invariants.
base::Result<SimResult> simulate(const Trace& trace, const SimOptions& options,
                                 SizingPolicy& policy);

}  // namespace mayfly::pool
