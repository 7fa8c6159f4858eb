#include "pool/demand.h"

#include <algorithm>
#include <cmath>

namespace mayfly::pool {

namespace {

constexpr std::array<double, 4> kScale_ns{1e9, 10e9, 60e9, 600e9};
constexpr double kBurstMemory_ns = 1800e9;
// A rate counts this many standard deviations below its estimate: a short scale must not request
// clones for noise, and real load soon exceeds the margin.
constexpr double kNoise = 1.0;
// The model is recomputed once its input changed by this share, for half of that more.
constexpr double kLoadStep = 0.03;
// Beyond this share of its makers' time, a larger pool gains nothing: the makers cannot fill it.
// (The floor remembers the need of a passing overload.)
constexpr double kFull = 0.95;
constexpr uint32_t kTerms_max = 64;
constexpr double kQuietLoad_max = 10;  // such a gap never comes: half of the pool decides

double poissonTerm(double mean, double n) {
  return std::exp(n * std::log(mean) - mean - std::lgamma(n + 1));
}

// P(Poisson(mean) >= n), n real: rounded up.
double poissonTail(double mean, double n) {
  n = std::ceil(n);
  if (n <= 0) return 1;
  if (mean <= 0) return 0;
  const bool upper = n > mean;
  // Starts at the edge that is nearer the middle: from there the terms fall at least geometrically.
  double at = upper ? n : n - 1;
  double term = poissonTerm(mean, at), sum = 0;
  for (int i = 0; i < 10'000 && term > 1e-12 * (sum + 1e-300); ++i) {
    sum += term;
    if (upper) {
      term *= mean / ++at;
    } else {
      if (at <= 0) break;
      term *= at-- / mean;
    }
  }
  return std::clamp(upper ? sum : 1 - sum, 0.0, 1.0);
}

}  // namespace

// With constant make times, the outstanding makes are the max over j of (arrivals in the last j+1
// make times - j * makers): earlier ones are made by then. The sum bounds the maximum.
double emptyChance(double load, double makers, uint32_t held) {
  if (held == 0) return 1;
  if (load <= 0) return 0;
  if (load >= makers) return 1;
  double sum = 0, last = 0;
  for (uint32_t j = 0; j < kTerms_max; ++j) {
    double term = poissonTail(load * (j + 1), held + makers * j);
    sum += term;
    if (sum >= 1) return 1;
    if (term < 1e-3 * sum) return sum;
    last = j == 0 ? 0 : term;
  }
  // Close to full load: the remaining terms fall by this factor or faster, by Chernoff's bound.
  double z = 1 + (makers - load) / std::max(load, 1e-9);
  double q = std::exp(load * (z - 1) - makers * std::log(z));
  return std::min(1.0, sum + last * q / (1 - q));
}

// The makers start late by the mean time until the first quiet gap, and idle meanwhile. Below half
// of the pool they do not wait: so it misses at most as much as half of the pool would.
double emptyChanceHeldBack(double load, double makers, double quiet_load, uint32_t held) {
  if (quiet_load <= 0 || load <= 0) return emptyChance(load, makers, held);
  const double late = load + std::expm1(std::min(quiet_load, kQuietLoad_max));
  return std::min(emptyChance(late, makers * late / load, held),
                  emptyChance(load, makers, (held + 1) / 2));
}

void RobustMean::add(uint64_t value) {
  last_[seen_++ % last_.size()] = value;
  const size_t size = std::min<size_t>(seen_, last_.size());
  std::array<uint64_t, 32> sorted = last_;
  auto middle = sorted.begin() + static_cast<ptrdiff_t>(size / 2);
  std::nth_element(sorted.begin(), middle, sorted.begin() + static_cast<ptrdiff_t>(size));
  const double clipped = std::min(static_cast<double>(value), 4.0 * static_cast<double>(*middle));
  mean_ += (clipped - mean_) / static_cast<double>(std::min<uint64_t>(seen_, 128));
}

uint32_t Ratchet::move(uint32_t wanted, uint64_t now_ns, uint64_t step_ns) {
  if (wanted >= value_) {
    value_ = wanted;
    peak_ = 0;
    since_ns_ = now_ns;
    return value_;
  }
  peak_ = std::max(peak_, wanted);
  if (now_ns - since_ns_ < step_ns) return value_;
  uint32_t gap = value_ - peak_;
  if (gap > value_ / 8) value_ -= (gap + 3) / 4;
  peak_ = wanted;
  since_ns_ = now_ns;
  return value_;
}

size_t BurstDepths::bucket(uint32_t depth) {
  if (depth <= kExact) return depth == 0 ? 0 : depth - 1;
  double octave = std::log2(static_cast<double>(depth) / kExact);
  return std::min(kBuckets - 1, kExact + static_cast<size_t>(octave * kPerOctave));
}

uint32_t BurstDepths::top(size_t bucket) {
  if (bucket < kExact) return static_cast<uint32_t>(bucket + 1);
  double octave = static_cast<double>(bucket - kExact + 1) / kPerOctave;
  return std::min(kHeld_max, static_cast<uint32_t>(std::ceil(kExact * std::exp2(octave))));
}

void BurstDepths::add(uint32_t depth, bool surprise, uint64_t now_ns) {
  double age = static_cast<double>(now_ns - origin_ns_) / kBurstMemory_ns;
  if (age > 30) {  // before the weights exceed a double
    double shrink = std::exp(-age);
    for (double& w : weight_) w *= shrink;
    for (double* sum : {&all_, &surprises_, &clumps_}) *sum *= shrink;
    origin_ns_ = now_ns;
    age = 0;
  }
  double weight = std::exp(age);
  all_ += weight;
  if (surprise) {
    weight_[bucket(depth)] += weight;
    surprises_ += weight;
    if (!in_clump_) clumps_ += weight;
  }
  in_clump_ = surprise;
}

double BurstDepths::deeper(uint32_t held) const {
  if (all_ <= 0) return 0;
  double sum = 0;
  for (size_t b = kBuckets; b-- > 0 && top(b) > held;) sum += weight_[b];
  return std::min(1.0, sum / all_);
}

uint32_t BurstDepths::floor(double share_max, uint64_t now_ns) const {
  if (clumps_ <= 0) return 0;
  // Surprises come in rows: there are as many independent samples as rows, not as tasks.
  const double row = surprises_ / clumps_;
  const double tasks = all_ * std::exp(-static_cast<double>(now_ns - origin_ns_) / kBurstMemory_ns);
  double sum = 0;
  for (size_t b = kBuckets; b-- > 0;) {
    sum += weight_[b];
    const double share = sum / all_;
    if (sum > 0 && share + std::sqrt(share * row / tasks) > share_max) return top(b);
  }
  return 0;
}

LaneDemand::LaneDemand(const DemandOptions& options, uint64_t now_ns)
    : o_(options),
      make_(std::max<uint64_t>(1, options.make_first_ns)),
      counted_ns_(now_ns),
      last_ns_(now_ns) {
  o_.empty_max = std::clamp(o_.empty_max, 1e-6, 1.0);
  o_.reach_empty_max = std::clamp(o_.reach_empty_max, 1e-6, o_.empty_max);
  o_.parked_max = std::min(o_.parked_max, kHeld_max);
  o_.parked_min = std::min(o_.parked_min, o_.parked_max);
  o_.stocked_max = std::min(o_.stocked_max, kHeld_max - o_.parked_max);
  o_.stocked_min = std::min(o_.stocked_min, o_.stocked_max);
  o_.fall_step_ns = std::max<uint64_t>(1, o_.fall_step_ns);
  // One more than can be held: a deeper need is a miss in any case.
  ready_ns_.resize(o_.parked_max + o_.stocked_max + 1);
}

void LaneDemand::made(uint64_t make_ns) { make_.add(std::max<uint64_t>(1, make_ns)); }

void LaneDemand::setMakers(double makers) { makers_ = std::max(makers, 1e-3); }

double LaneDemand::load() const { return rate_hz_ * 1e-9 * static_cast<double>(make_.value()); }

// How many tasks come in the quiet time.
double LaneDemand::quietLoad(double load) const {
  return load * static_cast<double>(o_.quiet_ns) / static_cast<double>(make_.value());
}

void LaneDemand::decay(uint64_t now_ns) {
  if (now_ns <= counted_ns_) return;
  double passed_ns = static_cast<double>(now_ns - counted_ns_);
  for (size_t i = 0; i < kScales; ++i) counts_[i] *= std::exp(-passed_ns / kScale_ns[i]);
  counted_ns_ = now_ns;
}

double LaneDemand::rate(uint64_t now_ns) const {
  if (!any_) return 0;
  double age_ns = std::max(static_cast<double>(now_ns - first_ns_), kScale_ns[0]);
  double best = 0;
  for (size_t i = 0; i < kScales; ++i) {
    double sure = counts_[i] - kNoise * std::sqrt(counts_[i]);
    double over_ns = kScale_ns[i] * -std::expm1(-age_ns / kScale_ns[i]);
    best = std::max(best, sure / over_ns);
  }
  return best * 1e9;
}

// The number of outstanding replacements, this task's own included.
uint32_t LaneDemand::depth(uint64_t now_ns) {
  const size_t room = ready_ns_.size();
  while (queued_ > 0 && ready_ns_[head_] <= now_ns) {
    head_ = (head_ + 1) % room;
    --queued_;
  }
  if (queued_ == room) return static_cast<uint32_t>(room);
  auto at = [&](size_t i) -> uint64_t& { return ready_ns_[(head_ + i) % room]; };
  uint64_t start_ns = now_ns;
  auto parallel = static_cast<size_t>(std::max(1.0, makers_));
  if (queued_ >= parallel) start_ns = std::max(start_ns, at(queued_ - parallel));
  uint64_t ready_ns = start_ns + make_.value();
  if (queued_ > 0) ready_ns = std::max(ready_ns, at(queued_ - 1));
  at(queued_++) = ready_ns;
  return static_cast<uint32_t>(queued_);
}

void LaneDemand::arrival(uint64_t now_ns) {
  now_ns = std::max(now_ns, counted_ns_);
  decay(now_ns);
  for (double& count : counts_) count += 1;
  if (!any_) first_ns_ = now_ns;
  any_ = true;
  last_ns_ = now_ns;
  // Clones that the model wanted only recently may not be ready yet.
  if (now_ns - epoch_ns_ >= 2 * make_.value()) {
    covered_ = epoch_model_;
    epoch_model_ = model_parked_;
    epoch_ns_ = now_ns;
  }
  uint32_t deep = depth(now_ns);
  bursts_.add(deep, deep > std::min(covered_, model_parked_), now_ns);
}

uint32_t LaneDemand::model(double empty_max, uint32_t from, uint32_t max) const {
  const double l = std::min(model_load_ * (1 + kLoadStep / 2), kFull * makers_);
  auto enough = [&](uint32_t held) {
    return emptyChanceHeldBack(l, makers_, quietLoad(l), held) <= empty_max;
  };
  uint32_t held = std::clamp<uint32_t>(from, 1, std::max(1u, max));
  if (enough(held)) {
    while (held > 1 && enough(held - 1)) --held;
    return std::min(held, max);
  }
  uint32_t below = held;  // too few
  for (uint32_t stride = 1; held < max && !enough(held); stride *= 2) {
    below = held;
    held = std::min(max, held + stride);
  }
  while (held - below > 1) {
    uint32_t middle = below + (held - below) / 2;
    (enough(middle) ? held : below) = middle;
  }
  return held;
}

LaneDemand::Wanted LaneDemand::wanted(uint64_t now_ns) {
  now_ns = std::max(now_ns, counted_ns_);
  decay(now_ns);
  used_ = o_.unused_after_ns == 0 || now_ns - last_ns_ < o_.unused_after_ns;
  rate_hz_ = rate(now_ns);
  uint32_t parked = 0, reach = 0;
  if (used_ && any_) {
    const uint32_t reach_max = o_.parked_max + o_.stocked_max;
    const double l = load();
    if (std::abs(l - model_load_) > kLoadStep * model_load_ ||
        std::abs(makers_ - model_makers_) > kLoadStep * model_makers_) {
      model_load_ = l;
      model_makers_ = makers_;
      model_parked_ = model(o_.empty_max, model_parked_, o_.parked_max);
      model_reach_ = model(o_.reach_empty_max, std::max(model_reach_, model_parked_), reach_max);
    }
    const uint32_t floor = bursts_.floor(o_.empty_max, now_ns);
    reason_ = std::max(model_parked_, floor) > o_.parked_max ? base::SizeReason::maximum
              : floor > model_parked_                        ? base::SizeReason::bursts
                                                             : base::SizeReason::forecast;
    parked = std::min(std::max(model_parked_, floor), o_.parked_max);
    reach = std::min(std::max(model_reach_, bursts_.floor(o_.reach_empty_max, now_ns)), reach_max);
  } else {
    model_parked_ = model_reach_ = 0;
    model_load_ = -1;
  }
  if (!used_) reason_ = base::SizeReason::unused;
  if (used_) {
    if (parked <= o_.parked_min) reason_ = base::SizeReason::minimum;
    parked = std::max(parked, o_.parked_min);
    reach = std::max(reach, parked + o_.stocked_min);
  }
  Wanted out;
  out.parked = parked_.move(parked, now_ns, o_.fall_step_ns);
  out.reach = std::max(out.parked, reach_.move(reach, now_ns, o_.fall_step_ns));

  bool rests = out.reach == 0 || (o_.unused_after_ns == 0 && out.parked <= o_.parked_min &&
                                  out.reach <= o_.parked_min + o_.stocked_min);
  due_ns_ =
      rests ? 0 : std::min(parked_.stepDue_ns(o_.fall_step_ns), reach_.stepDue_ns(o_.fall_step_ns));
  return out;
}

double LaneDemand::empty(uint32_t held) const {
  if (held == 0) return 1;
  if (!any_) return 0;
  const double l = load();
  return std::max(emptyChanceHeldBack(l, makers_, quietLoad(l), held), bursts_.deeper(held));
}

}  // namespace mayfly::pool
