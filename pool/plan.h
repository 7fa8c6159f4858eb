// How many clones to park and boxes to stock, over all lanes, within a budget.
//
// Each lane's LaneDemand gives its wishes. If they exceed the budget, the next byte goes where it
// saves most misses: first to all lanes' minima, then to the rest. An unused lane wants nothing.
//
// Layer: pool. Pure: time is an argument, in ns of one clock. Core thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/task.h"
#include "pool/demand.h"

namespace mayfly::pool {

struct PlanOptions {
  double makers = 4;                       // clones that are made at the same time
  uint64_t memory_bytes_max = UINT64_MAX;  // of all parked clones and stocked boxes
  uint32_t boxes_max = kHeld_max;          // parked and stocked
  uint32_t parked_max = kHeld_max;         // parked clones
  uint64_t box_bytes = 512 << 10;          // a box without its clone
  uint64_t clone_first_bytes = 2 << 20;    // of a clone, until one is measured
};

// The number to hold of a lane: an upper bound; a surplus may end at once.
struct Target {
  base::LaneId id = 0;
  uint32_t parked = 0;                             // clones that wait for a task
  uint32_t stocked = 0;                            // boxes without a clone
  uint32_t parked_wanted = 0, stocked_wanted = 0;  // before the budget's cut
};

class Plan {
 public:
  explicit Plan(const PlanOptions& options) : o_(options) {}

  // A new lane counts as used: it gets its minimum before its first task.
  void add(base::LaneId id, const DemandOptions& options, uint64_t now_ns);
  void remove(base::LaneId id);
  void setBudget(uint64_t memory_bytes_max, uint32_t boxes_max);

  void onArrival(base::LaneId id, uint64_t now_ns);
  // make_ns: from the start of the making to ready, box and clone, without waiting for a maker.
  void onMade(base::LaneId id, uint64_t make_ns, uint64_t now_ns);
  // Private memory of a parked clone, without the box's constant part.
  void onMeasured(base::LaneId id, uint64_t clone_bytes);

  // One entry per lane, by id; valid until the next call. Cheap if nothing changed.
  const std::vector<Target>& plan(uint64_t now_ns);
  // When plan() may shrink without another event; 0: never.
  uint64_t nextDue_ns() const;

  const PlanOptions& options() const { return o_; }
  const LaneDemand* demand(base::LaneId id) const;
  // As of the last plan(); null: no such lane then.
  const Target* target(base::LaneId id) const;
  // A parked clone's own memory, by its lane's measurements; 0: no such lane.
  uint64_t cloneBytes(base::LaneId id) const;

 private:
  struct Entry {
    base::LaneId id;
    LaneDemand demand;
    RobustMean clone_bytes;
    uint64_t cut_bytes;  // the value of clone_bytes in the last cut
    LaneDemand::Wanted wanted;
    double load = 0;
    bool changed = true;
  };
  struct Ask;

  Entry* find(base::LaneId id);
  void cut();
  struct Left;
  void grant(const std::vector<Ask>& asks, Left& left);

  PlanOptions o_;
  std::vector<Entry> entries_;           // by id
  std::vector<Target> targets_;          // in the same order
  bool cut_due_ = true, tight_ = false;  // tight: the budget does not grant every wish
  uint64_t cut_ns_ = 0;
};

}  // namespace mayfly::pool
