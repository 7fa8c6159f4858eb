#include "pool/sim.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <queue>

namespace mayfly::pool {

namespace {

class Simulation {
 public:
  Simulation(const Trace& trace, const SimOptions& options, SizingPolicy& policy)
      : trace_(trace), o_(options), policy_(policy), random_(options.seed ^ 0x3a4e) {
    const size_t n = trace.templates.size();
    pools_.resize(n);
    for (size_t i = 0; i < n; ++i)
      pools_[i].spec = o_.templates.empty() ? o_.each : o_.templates[i];
    states_.resize(n);
    holds_.resize(n);
  }

  SimResult run();

 private:
  enum class What : uint8_t { clone, box, end };  // made, made, a task's
  struct Event {
    uint64_t at_ns, order;
    What what;
    uint32_t pool;
    uint64_t took_ns;
    bool operator>(const Event& o) const {
      return at_ns != o.at_ns ? at_ns > o.at_ns : order > o.order;
    }
  };
  struct Waiter {
    uint64_t since_ns, run_ns;
    bool box_hit = false;
  };
  struct Pool {
    SimTemplate spec;
    uint32_t parked = 0, stocked = 0, making = 0, making_boxes = 0;
    Hold hold;
    std::deque<Waiter> waiters;
    SimFigures figures;
    std::vector<uint64_t> waits_ns;  // of those who waited
  };

  bool counted() const { return now_ns_ >= o_.count_from_ns; }
  void advance(uint64_t to_ns);
  void arrive(const Arrival& a);
  void happen(const Event& e);
  void start(uint32_t pool, uint64_t run_ns, uint64_t since_ns);
  void askPolicy();
  void dispatch();
  bool startMake();
  bool makeRoom(bool for_waiter);
  void make(uint32_t pool, What what, bool in_stocked_box);
  void schedule(uint64_t in_ns, What what, uint32_t pool, uint64_t took_ns) {
    events_.push(Event{now_ns_ + in_ns, order_++, what, pool, took_ns});
  }
  void finish(SimFigures& f, std::vector<uint64_t>& waits_ns, double counted_ns) const;

  const Trace& trace_;
  const SimOptions& o_;
  SizingPolicy& policy_;
  Random random_;
  std::vector<Pool> pools_;
  std::vector<PoolState> states_;
  std::vector<Hold> holds_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  uint64_t now_ns_ = 0, order_ = 0;
  uint32_t busy_ = 0, running_ = 0, boxes_ = 0, parked_ = 0;
  uint64_t waiting_ = 0;
  SimResult out_;
};

// Sums up what stood from now_ns_ to to_ns; the trace's end ends the sums.
void Simulation::advance(uint64_t to_ns) {
  const uint64_t from = std::max(now_ns_, o_.count_from_ns), to = std::min(to_ns, trace_.end_ns);
  now_ns_ = to_ns;
  if (from >= to) return;
  const double s = static_cast<double>(to - from) * 1e-9;
  for (Pool& p : pools_) {
    p.figures.memory_byte_s +=
        s *
        (static_cast<double>(p.parked) * static_cast<double>(p.spec.clone_bytes + o_.box_bytes) +
         static_cast<double>(p.stocked) * static_cast<double>(o_.box_bytes));
    p.figures.parked_mean += s * p.parked;
    p.figures.parked_max = std::max(p.figures.parked_max, p.parked);
  }
  out_.all.parked_max = std::max(out_.all.parked_max, parked_);
  out_.makers_busy += s * busy_;
  out_.running_mean += s * running_;
  out_.running_max = std::max(out_.running_max, running_);
  out_.boxes_max = std::max(out_.boxes_max, boxes_);
}

void Simulation::start(uint32_t pool, uint64_t run_ns, uint64_t since_ns) {
  ++running_;
  if (since_ns >= o_.count_from_ns && now_ns_ > since_ns)
    pools_[pool].waits_ns.push_back(now_ns_ - since_ns);
  schedule(run_ns, What::end, pool, 0);
}

void Simulation::arrive(const Arrival& a) {
  Pool& p = pools_[a.template_index];
  if (counted()) ++p.figures.arrivals;
  policy_.onArrival(a.template_index, now_ns_);
  if (p.parked > 0) {
    --p.parked;
    --parked_;
    if (counted()) ++p.figures.hits;
    start(a.template_index, a.run_ns, now_ns_);
  } else {
    ++waiting_;
    p.waiters.push_back(Waiter{now_ns_, a.run_ns});
  }
}

void Simulation::happen(const Event& e) {
  Pool& p = pools_[e.pool];
  if (e.what == What::end) {
    --running_;
    --boxes_;
    return;
  }
  --busy_;
  if (e.what == What::box) {
    --p.making_boxes;
    ++p.stocked;
    if (counted()) ++p.figures.boxes_made;
    return;
  }
  --p.making;
  if (counted()) ++p.figures.clones_made;
  policy_.onMade(e.pool, e.took_ns, now_ns_);
  if (!p.waiters.empty()) {
    Waiter w = p.waiters.front();
    p.waiters.pop_front();
    --waiting_;
    start(e.pool, w.run_ns, w.since_ns);
  } else {
    ++p.parked;
    ++parked_;
  }
}

void Simulation::askPolicy() {
  for (size_t i = 0; i < pools_.size(); ++i) {
    const Pool& p = pools_[i];
    states_[i] = {p.parked, p.stocked, p.making, static_cast<uint32_t>(p.waiters.size())};
  }
  policy_.hold(now_ns_, states_, holds_);
  for (size_t i = 0; i < pools_.size(); ++i) {
    Pool& p = pools_[i];
    p.hold = holds_[i];
    if (p.parked > p.hold.parked) {
      const uint32_t gone = p.parked - p.hold.parked;
      p.parked -= gone;
      parked_ -= gone;
      boxes_ -= gone;
      if (counted()) p.figures.thrown_away += gone;
    }
    if (p.stocked > p.hold.stocked) {
      boxes_ -= p.stocked - p.hold.stocked;
      p.stocked = p.hold.stocked;
    }
  }
}

void Simulation::make(uint32_t pool, What what, bool in_stocked_box) {
  Pool& p = pools_[pool];
  ++busy_;
  const double spread =
      o_.make_spread > 0
          ? std::exp(o_.make_spread * random_.normal() - o_.make_spread * o_.make_spread / 2)
          : 1;  // mean 1
  uint64_t base_ns = 0, full_ns = p.spec.box_make_ns + p.spec.clone_make_ns;
  if (what == What::box) {
    ++p.making_boxes;
    ++boxes_;
    base_ns = p.spec.box_make_ns;
  } else {
    ++p.making;
    base_ns = in_stocked_box ? p.spec.clone_make_ns : full_ns;
    if (in_stocked_box) {
      --p.stocked;
    } else {
      ++boxes_;
    }
  }
  auto scaled = [&](uint64_t ns) {
    return std::max<uint64_t>(1, static_cast<uint64_t>(static_cast<double>(ns) * spread));
  };
  // The policy learns what a whole make would have taken.
  schedule(scaled(base_ns), what, pool, scaled(full_ns));
}

// For a task that waits, a clone or box that waits for none is thrown away, of the largest pool.
bool Simulation::makeRoom(bool for_waiter) {
  if (boxes_ < o_.boxes_max) return true;
  if (!for_waiter) return false;
  auto largest = std::max_element(pools_.begin(), pools_.end(), [](const Pool& a, const Pool& b) {
    return a.parked + a.stocked < b.parked + b.stocked;
  });
  if (largest->stocked > 0) {
    --largest->stocked;
  } else if (largest->parked > 0) {
    --largest->parked;
    --parked_;
    if (counted()) ++largest->figures.thrown_away;
  } else {
    return false;
  }
  --boxes_;
  return true;
}

bool Simulation::startMake() {
  const auto n = static_cast<uint32_t>(pools_.size());
  uint32_t best = n;
  if (waiting_ > 0) {
    uint64_t oldest_ns = UINT64_MAX;
    for (uint32_t i = 0; i < n; ++i) {
      const Pool& p = pools_[i];
      if (p.waiters.size() > p.making && p.waiters[p.making].since_ns < oldest_ns) {
        oldest_ns = p.waiters[p.making].since_ns;
        best = i;
      }
    }
    if (best < n) {
      Pool& p = pools_[best];
      const bool stocked = p.stocked > 0;
      if (!stocked && !makeRoom(true)) return false;
      if (stocked && p.waiters[p.making].since_ns >= o_.count_from_ns) ++p.figures.box_hits;
      make(best, What::clone, stocked);
      return true;
    }
  }
  // Shares are compared as fractions of the target: 1 of 2 lacks more than 9 of 10.
  auto lacking = [&](auto target, auto have) {
    best = n;
    double most = 0;
    for (uint32_t i = 0; i < n; ++i) {
      const double want = target(pools_[i]), there = have(pools_[i]);
      if (there < want && (want - there) / want > most) {
        most = (want - there) / want;
        best = i;
      }
    }
    return best < n;
  };
  if (lacking([](const Pool& p) { return static_cast<double>(p.hold.parked); },
              [](const Pool& p) {
                return static_cast<double>(p.parked + p.making) -
                       static_cast<double>(p.waiters.size());
              })) {
    // A stocked box is kept for a task that waits.
    if (!makeRoom(false)) return false;
    make(best, What::clone, false);
    return true;
  }
  if (lacking([](const Pool& p) { return static_cast<double>(p.hold.stocked); },
              [](const Pool& p) { return static_cast<double>(p.stocked + p.making_boxes); })) {
    if (!makeRoom(false)) return false;
    make(best, What::box, false);
    return true;
  }
  return false;
}

void Simulation::dispatch() {
  while (busy_ < o_.makers && startMake()) {
  }
}

void Simulation::finish(SimFigures& f, std::vector<uint64_t>& waits_ns, double counted_ns) const {
  std::sort(waits_ns.begin(), waits_ns.end());
  double sum = 0;
  for (uint64_t w : waits_ns) sum += static_cast<double>(w);
  f.wait_mean_ns = f.arrivals > 0 ? sum / static_cast<double>(f.arrivals) : 0;
  auto at = [&](double share) -> uint64_t {
    const auto rank = static_cast<uint64_t>(std::ceil(share * static_cast<double>(f.arrivals)));
    const uint64_t zeros = f.arrivals - std::min<uint64_t>(f.arrivals, waits_ns.size());
    return rank <= zeros || waits_ns.empty()
               ? 0
               : waits_ns[std::min(rank - zeros, waits_ns.size()) - 1];
  };
  f.wait_p50_ns = at(0.5);
  f.wait_p90_ns = at(0.9);
  f.wait_p99_ns = at(0.99);
  f.wait_max_ns = waits_ns.empty() ? 0 : waits_ns.back();
  f.parked_mean = counted_ns > 0 ? f.parked_mean * 1e9 / counted_ns : 0;
}

SimResult Simulation::run() {
  size_t next = 0;
  uint64_t due_ns = UINT64_MAX;
  auto settle = [&] {
    askPolicy();
    dispatch();
    // It was asked just now: a time that is past already asks for nothing.
    const uint64_t wish_ns = policy_.nextDue_ns();
    due_ns = wish_ns > now_ns_ ? wish_ns : UINT64_MAX;
  };
  settle();
  // After the trace's end only those who still wait are served.
  while (next < trace_.arrivals.size() || waiting_ > 0) {
    const uint64_t arrival_ns =
        next < trace_.arrivals.size() ? trace_.arrivals[next].at_ns : UINT64_MAX;
    const uint64_t event_ns = events_.empty() ? UINT64_MAX : events_.top().at_ns;
    if (due_ns < std::min(arrival_ns, event_ns)) {
      advance(due_ns);
    } else if (event_ns <= arrival_ns) {
      const Event e = events_.top();
      events_.pop();
      advance(e.at_ns);
      happen(e);
      // An end changes nothing for the policy; it may free the box that a make waits for.
      if (e.what == What::end) {
        dispatch();
        continue;
      }
    } else {
      advance(arrival_ns);
      arrive(trace_.arrivals[next++]);
    }
    settle();
  }
  while (now_ns_ < trace_.end_ns) {
    const uint64_t event_ns = events_.empty() ? UINT64_MAX : events_.top().at_ns;
    if (std::min(event_ns, due_ns) >= trace_.end_ns) {
      advance(trace_.end_ns);
      break;
    }
    if (due_ns < event_ns) {
      advance(due_ns);
    } else {
      const Event e = events_.top();
      events_.pop();
      advance(e.at_ns);
      happen(e);
    }
    settle();
  }

  const double counted_ns =
      trace_.end_ns > o_.count_from_ns ? static_cast<double>(trace_.end_ns - o_.count_from_ns) : 0;
  std::vector<uint64_t> waits_ns;
  double parked_s = 0;
  for (Pool& p : pools_) {
    waits_ns.insert(waits_ns.end(), p.waits_ns.begin(), p.waits_ns.end());
    SimFigures &f = p.figures, &all = out_.all;
    all.arrivals += f.arrivals;
    all.hits += f.hits;
    all.box_hits += f.box_hits;
    all.clones_made += f.clones_made;
    all.boxes_made += f.boxes_made;
    all.thrown_away += f.thrown_away;
    all.memory_byte_s += f.memory_byte_s;
    parked_s += f.parked_mean;
    finish(f, p.waits_ns, counted_ns);
    out_.templates.push_back(f);
  }
  out_.all.parked_mean = parked_s;
  finish(out_.all, waits_ns, counted_ns);
  if (counted_ns > 0) {
    out_.makers_busy *= 1e9 / (counted_ns * o_.makers);
    out_.running_mean *= 1e9 / counted_ns;
  }
  return std::move(out_);
}

}  // namespace

base::Status checkSimulation(const Trace& trace, const SimOptions& options) {
  auto wrong = [](std::string why) {
    return base::fail(base::Code::invalidArgument, "cannot simulate: " + std::move(why));
  };
  if (options.makers == 0) return wrong("there is no maker");
  if (options.boxes_max == 0) return wrong("there is no box");
  if (!options.templates.empty() && options.templates.size() != trace.templates.size())
    return wrong(fmt::format("{} templates are described, the trace names {}",
                             options.templates.size(), trace.templates.size()));
  if (!(options.make_spread >= 0 && options.make_spread <= 2))
    return wrong(
        fmt::format("the make times' spread is {}; it must be from 0 to 2", options.make_spread));
  uint64_t last_ns = 0;
  for (const Arrival& a : trace.arrivals) {
    if (a.at_ns < last_ns || a.template_index >= trace.templates.size() || a.at_ns > trace.end_ns)
      return wrong("the trace is not in order of time, or has a template that it does not name");
    last_ns = a.at_ns;
  }
  return base::Unit{};
}

base::Result<SimResult> simulate(const Trace& trace, const SimOptions& options,
                                 SizingPolicy& policy) {
  MAYFLY_CHECK(checkSimulation(trace, options));
  return Simulation(trace, options, policy).run();
}

}  // namespace mayfly::pool
