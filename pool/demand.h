// How many clones one lane wants parked now, so that at most a given share of its tasks finds none.
//
// The larger of two sizes counts. The model: Poisson arrivals at the fastest of four decaying
// rates, against makers with the measured make time that start when pool::Refill lets them. The
// floor: the clones that recent bursts needed beyond the model. Both rise at once and fall slowly.
// The state has a fixed size once constructed.
//
// Layer: pool. Pure: time is an argument, in ns of one clock that never goes back.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/observer.h"
#include "pool/refill.h"

namespace mayfly::pool {

inline constexpr uint32_t kHeld_max = 4096;  // parked clones and stocked boxes of a template

struct DemandOptions {
  double empty_max = 0.01;         // share of tasks that may find no parked clone
  double reach_empty_max = 0.001;  // share of tasks that may find no stocked box either
  uint32_t parked_min = 0, parked_max = 64;
  uint32_t stocked_min = 0, stocked_max = 16;
  uint64_t unused_after_ns =
      600'000'000'000;                     // after this time without a task the size is 0; 0: never
  uint64_t fall_step_ns = 10'000'000'000;  // at most one step down in this time
  uint64_t make_first_ns = 10'000'000;     // the make time until one is measured
  uint64_t quiet_ns =
      kParkQuiet_ns;  // time without a claim before more than half of the pool is refilled
};

// The chance that a task finds no clone, with `held` clones kept by `makers` parallel makers:
// Poisson arrivals, `load` of them in one make time, each requesting its replacement at once. An
// upper bound for constant make times; exact if makers never queue.
double emptyChance(double load, double makers, uint32_t held);
// The same if replacements are requested only after a pause, in which `quiet_load` tasks would
// come on average, or once less than half of the pool is left. An estimate.
double emptyChanceHeldBack(double load, double makers, double quiet_load, uint32_t held);

// The mean of about the last 128 values. A value counts as at most four running medians, so an
// outlier cannot move the mean far. `first` is the answer until there is a value.
class RobustMean {
 public:
  explicit RobustMean(uint64_t first) : mean_(static_cast<double>(first)) {}
  void add(uint64_t value);
  uint64_t value() const { return static_cast<uint64_t>(mean_ + 0.5); }

 private:
  std::array<uint64_t, 32> last_{};  // ring, of the median
  uint64_t seen_ = 0;
  double mean_;
};

// Rises at once. Falls by a quarter of the gap a step, and only if the gap was wider than an eighth
// of the value during the whole step.
class Ratchet {
 public:
  uint32_t move(uint32_t wanted, uint64_t now_ns, uint64_t step_ns);
  uint32_t value() const { return value_; }
  uint64_t stepDue_ns(uint64_t step_ns) const { return since_ns_ + step_ns; }

 private:
  uint32_t value_ = 0, peak_ = 0;  // peak_: the highest wish after since_ns_
  uint64_t since_ns_ = 0;
};

// How many clones the tasks needed that came too fast for the model: shares of all tasks, older
// tasks counting less.
class BurstDepths {
 public:
  void add(uint32_t depth, bool surprise, uint64_t now_ns);
  double deeper(uint32_t held) const;  // share of tasks that a floor of `held` would have missed
  // The least size that misses at most this share, by the estimate plus its standard error.
  uint32_t floor(double share_max, uint64_t now_ns) const;

 private:
  static constexpr size_t kExact = 64, kPerOctave = 16, kBuckets = kExact + 6 * kPerOctave + 1;
  static size_t bucket(uint32_t depth);
  static uint32_t top(size_t bucket);  // the largest depth in the bucket

  std::array<double, kBuckets> weight_{};
  double all_ = 0;                     // of all tasks
  double surprises_ = 0, clumps_ = 0;  // of those, and of the first ones of each row of them
  bool in_clump_ = false;
  uint64_t origin_ns_ = 0;  // a task at this time weighs 1; later ones weigh more
};

class LaneDemand {
 public:
  explicit LaneDemand(const DemandOptions& options, uint64_t now_ns = 0);

  void arrival(uint64_t now_ns);
  // The time from the start of a clone's making to ready, without waiting for a maker.
  void made(uint64_t make_ns);
  // The makers that this lane can count on; the other lanes use the rest.
  void setMakers(double makers);

  struct Wanted {
    uint32_t parked = 0;
    uint32_t reach = 0;  // parked clones and stocked boxes together
    bool operator==(const Wanted&) const = default;
  };
  Wanted wanted(uint64_t now_ns);
  // When wanted() may fall without another event; 0: never.
  uint64_t due_ns() const { return due_ns_; }

  // As of the last wanted().
  base::SizeReason reason() const { return reason_; }
  double empty(uint32_t held) const;  // chance that a task finds no clone
  double rate_hz() const { return rate_hz_; }
  double load() const;  // the number of makers that it keeps busy
  bool used() const { return used_; }
  uint64_t make_ns() const { return make_.value(); }
  const DemandOptions& options() const { return o_; }

 private:
  static constexpr size_t kScales = 4;

  void decay(uint64_t now_ns);
  double rate(uint64_t now_ns) const;
  uint32_t depth(uint64_t now_ns);
  uint32_t model(double empty_max, uint32_t from, uint32_t max) const;
  double quietLoad(double load) const;

  DemandOptions o_;
  RobustMean make_;
  double makers_ = 1;

  std::array<double, kScales> counts_{};  // decaying counts of arrivals
  uint64_t counted_ns_, first_ns_ = 0, last_ns_;
  bool any_ = false, used_ = true;
  double rate_hz_ = 0;

  // When the replacement of each of the last tasks would be ready if every claim started a make at
  // once: the ring's length is the number of clones that the tasks need.
  std::vector<uint64_t> ready_ns_;
  size_t head_ = 0, queued_ = 0;

  BurstDepths bursts_;
  uint32_t model_parked_ = 0, model_reach_ = 0;
  double model_load_ = -1, model_makers_ = 0;  // the inputs of these two
  uint32_t epoch_model_ = 0, covered_ = 0;     // the model's answer one or two make times ago
  uint64_t epoch_ns_ = 0;
  Ratchet parked_, reach_;
  base::SizeReason reason_ = base::SizeReason::minimum;
  uint64_t due_ns_ = 0;
};

}  // namespace mayfly::pool
