#include "pool/sim.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <queue>

#include "pool/box_machine.h"
#include "pool/refill.h"
#include "pool/sim_parts.h"

namespace mayfly::pool {

namespace {

constexpr base::ZygoteId kZygote = 1;  // of every lane; it always serves

class Simulation {
 public:
  Simulation(const Trace& trace, const SimOptions& options, SizingPolicy& policy, SimQueue& queue);
  base::Result<SimResult> run();

 private:
  enum class What : uint8_t { made, started, first, ended, gone, due };
  struct Event {
    uint64_t at_ns, order;
    What what;
    uint32_t lane;
    base::BoxId box;
    bool operator>(const Event& o) const {
      return at_ns != o.at_ns ? at_ns > o.at_ns : order > o.order;
    }
  };
  // A place in boxes_, at its id less one; reused once its box is gone.
  struct Box {
    BoxMachine machine{BoxMachine::First::making};
    uint32_t lane = 0;
    base::TaskId task = 0;  // its index in the trace plus one
    uint64_t asked_ns = 0;
    What then = What::made;  // what follows the step that is under way
    uint64_t wait_ns = 0;    // of that step, after its work
  };
  struct Lane {
    explicit Lane(uint32_t making_max) : refill(making_max) {}
    SimTemplate spec;
    Refill refill;
    uint64_t armed_ns = 0;             // the pending `due` event; 0: none
    uint64_t told_ns = 0;              // the sums below end here
    uint32_t parked = 0, stocked = 0;  // since then
    SimFigures figures;
    std::vector<uint64_t> waits_ns;  // of tasks that waited
    std::vector<uint64_t> firsts_ns, wholes_ns;
  };

  bool counted() const { return now_ns_ >= o_.count_from_ns; }
  bool shared() const { return o_.processors > 0; }
  const Arrival& arrival(base::TaskId task) const { return trace_.arrivals[task - 1]; }
  bool counts(base::TaskId task) const { return arrival(task).at_ns >= o_.count_from_ns; }
  void schedule(uint64_t in_ns, What what, uint32_t lane, base::BoxId box) {
    events_.push(Event{now_ns_ + in_ns, order_++, what, lane, box});
  }
  double countedSeconds(uint64_t from_ns, uint64_t to_ns) const;
  void advance(uint64_t to_ns);
  void sumUp(uint32_t lane);

  void begin(base::BoxId id, const SimStep& step, What then, uint64_t late_ns = 0);
  uint64_t late_ns(const SimCosts& costs);
  void work();

  void arrive(base::TaskId task);
  void dispatch();
  void happen(const Event& e);
  void made(base::BoxId id);
  void give(base::TaskId task, base::BoxId id);
  void end(base::BoxId id);
  void refill(uint32_t lane);
  void ask(uint32_t lane, const Refill::Make& make);
  void serve();
  void resize();
  void step(Box& box, BoxEvent event);
  void broken(std::string why);

  void finish(SimFigures& f, Lane& of, double counted_ns) const;
  SimResult results();

  const Trace& trace_;
  const SimOptions& o_;
  SizingPolicy& policy_;
  SimQueue& queue_;
  Random random_;
  SimHost host_;
  std::vector<Lane> lanes_;
  std::vector<Box> boxes_;
  std::vector<base::BoxId> free_;  // in boxes_
  std::deque<base::BoxId> asked_;  // no maker has started them
  std::vector<SimPool> states_;
  std::vector<Hold> holds_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  uint64_t now_ns_ = 0, order_ = 0;
  uint32_t busy_ = 0;    // makers
  uint32_t queued_ = 0;  // tasks without a place
  uint32_t held_ = 0;    // tasks with one
  uint32_t running_ = 0, alive_ = 0, parked_ = 0;
  uint64_t running_bytes_ = 0, ahead_bytes_ = 0;
  uint64_t waiting_ = 0;  // tasks, those in the queue included
  std::string broken_;
  SimResult out_;
};

Simulation::Simulation(const Trace& trace, const SimOptions& options, SizingPolicy& policy,
                       SimQueue& queue)
    : trace_(trace),
      o_(options),
      policy_(policy),
      queue_(queue),
      random_(options.seed ^ 0x3a4e),
      host_(options.processors) {
  const size_t n = trace.templates.size();
  lanes_.assign(n, Lane(o_.making_max));
  for (size_t i = 0; i < n; ++i) {
    lanes_[i].spec = o_.templates.empty() ? o_.each : o_.templates[i];
    lanes_[i].refill.setZygote(kZygote);
  }
  states_.resize(n);
  holds_.resize(n);
}

// --- sums ---------------------------------------------------------------------------

// The sums end with the trace.
double Simulation::countedSeconds(uint64_t from_ns, uint64_t to_ns) const {
  const uint64_t from = std::max(from_ns, o_.count_from_ns), to = std::min(to_ns, trace_.end_ns);
  return from < to ? static_cast<double>(to - from) * 1e-9 : 0;
}

void Simulation::advance(uint64_t to_ns) {
  const double s = countedSeconds(now_ns_, to_ns);
  now_ns_ = to_ns;
  if (s != 0 && shared()) {
    out_.processors_busy += s * host_.busy();
    out_.daemon_busy += host_.daemonBusy() ? s : 0;
    out_.spawner_busy += host_.spawnerBusy() ? s : 0;
  }
  host_.advance(to_ns);
  if (s == 0) return;
  out_.all.parked_max = std::max(out_.all.parked_max, parked_);
  out_.makers_busy += s * busy_;
  out_.running_mean += s * running_;
  out_.running_square += s * running_ * running_;
  out_.running_max = std::max(out_.running_max, running_);
  out_.running_byte_mean += s * static_cast<double>(running_bytes_);
  out_.running_bytes_max = std::max(out_.running_bytes_max, running_bytes_);
  out_.ahead_bytes_max = std::max(out_.ahead_bytes_max, ahead_bytes_);
  out_.queued_mean += s * queued_;
  out_.queued_max = std::max(out_.queued_max, queued_);
  out_.boxes_max = std::max(out_.boxes_max, alive_);
}

// After a change in the lane: adds up the time before it, and takes the new numbers.
void Simulation::sumUp(uint32_t index) {
  Lane& l = lanes_[index];
  if (const double s = countedSeconds(l.told_ns, now_ns_); s > 0) {
    const double box = static_cast<double>(o_.box_bytes);
    l.figures.memory_byte_s +=
        s * (l.parked * (static_cast<double>(l.spec.clone_bytes) + box) + l.stocked * box);
    l.figures.parked_mean += s * l.parked;
    l.figures.parked_max = std::max(l.figures.parked_max, l.parked);
  }
  const Refill& r = l.refill;
  parked_ += r.parked() - l.parked;
  ahead_bytes_ -= l.parked * l.spec.clone_bytes + (l.parked + l.stocked) * o_.box_bytes;
  ahead_bytes_ += r.parked() * l.spec.clone_bytes + (r.parked() + r.stocked()) * o_.box_bytes;
  l.told_ns = now_ns_;
  l.parked = r.parked();
  l.stocked = r.stocked();
  states_[index] = {l.parked, l.stocked, r.making(), r.waiting()};
  if (l.parked > 0 && r.waiting() > 0) broken("a task waits while a clone is parked");
  if (r.making() > o_.making_max) broken("more clones are being made than making_max");
}

void Simulation::step(Box& box, BoxEvent event) {
  const BoxState before = box.machine.state();
  if (box.machine.on(event) != BoxStep::next)
    broken(fmt::format("a box in state {} got the event '{}'", name(before), name(event)));
}

void Simulation::broken(std::string why) {
  if (broken_.empty())
    broken_ = fmt::format("{} ns after the trace's start: {}", now_ns_, std::move(why));
}

// --- tasks --------------------------------------------------------------------------

void Simulation::arrive(base::TaskId task) {
  const uint32_t lane = arrival(task).template_index;
  if (counted()) ++lanes_[lane].figures.arrivals;
  if (!queue_.enqueue(task, arrival(task), now_ns_)) {
    if (counted()) ++lanes_[lane].figures.refused;
    return;
  }
  policy_.onArrival(lane, now_ns_);
  ++waiting_;
  ++queued_;
  dispatch();
  resize();
}

void Simulation::dispatch() {
  while (const auto next = queue_.next(now_ns_)) {
    const base::TaskId task = *next;
    --queued_;
    ++held_;
    const Arrival& a = arrival(task);
    Lane& l = lanes_[a.template_index];
    if (const auto parked = l.refill.claim(task)) {
      if (counts(task)) ++l.figures.hits;
      give(task, *parked);
      sumUp(a.template_index);
    } else {
      refill(a.template_index);
    }
  }
}

void Simulation::give(base::TaskId task, base::BoxId id) {
  Box& box = boxes_[id - 1];
  const Arrival& a = arrival(task);
  step(box, BoxEvent::claim);
  box.task = task;
  --waiting_;
  ++running_;
  running_bytes_ += a.memory_bytes;
  Lane& l = lanes_[box.lane];
  l.refill.claimBegan(now_ns_);
  if (counts(task) && now_ns_ > a.at_ns) l.waits_ns.push_back(now_ns_ - a.at_ns);
  if (shared()) return begin(id, l.spec.costs.claim, What::started, late_ns(l.spec.costs));
  schedule(o_.claim_ns, What::started, box.lane, id);
}

// --- steps that take work of the host -------------------------------------------------

void Simulation::begin(base::BoxId id, const SimStep& step, What then, uint64_t late_ns) {
  Box& box = boxes_[id - 1];
  box.then = then;
  box.wait_ns = step.wait_ns + late_ns;
  if (!host_.begin(id, step)) schedule(box.wait_ns, then, box.lane, id);
}

uint64_t Simulation::late_ns(const SimCosts& costs) {
  const auto& measured = host_.full() ? costs.late_full_ns : costs.late_ns;
  if (measured.empty()) return 0;
  const double at = random_.uniform() * static_cast<double>(measured.size() - 1);
  const auto below = std::min(static_cast<size_t>(at), measured.size() - 1);
  const auto above = std::min(below + 1, measured.size() - 1);
  return static_cast<uint64_t>(std::lerp(static_cast<double>(measured[below]),
                                         static_cast<double>(measured[above]),
                                         at - static_cast<double>(below)));
}

// Something that the host worked on is done.
void Simulation::work() {
  if (const auto id = host_.next()) {
    const Box& box = boxes_[*id - 1];
    schedule(box.wait_ns, box.then, box.lane, *id);
  }
}

// --- boxes --------------------------------------------------------------------------

void Simulation::happen(const Event& e) {
  Lane& l = lanes_[e.lane];
  switch (e.what) {
    case What::made:
      --busy_;
      made(e.box);
      return serve();
    case What::started: {
      l.refill.claimOver();
      if (shared())
        begin(e.box, l.spec.costs.first, What::first);
      else
        schedule(arrival(boxes_[e.box - 1].task).run_ns, What::ended, e.lane, e.box);
      return refill(e.lane);
    }
    case What::first: {
      const base::TaskId task = boxes_[e.box - 1].task;
      if (counts(task)) l.firsts_ns.push_back(now_ns_ - arrival(task).at_ns);
      return begin(e.box, runOf(arrival(task), l.spec.costs), What::ended);
    }
    case What::ended:
      --running_;
      running_bytes_ -= arrival(boxes_[e.box - 1].task).memory_bytes;
      return end(e.box);
    case What::gone: {
      Box& box = boxes_[e.box - 1];
      step(box, BoxEvent::gone);
      free_.push_back(e.box);
      --alive_;
      if (box.task != 0) {
        --held_;
        queue_.release(box.task, now_ns_);
        if (shared() && counts(box.task)) l.wholes_ns.push_back(now_ns_ - arrival(box.task).at_ns);
      }
      l.refill.happened(now_ns_);
      return dispatch();
    }
    case What::due:
      if (e.at_ns == l.armed_ns) l.armed_ns = 0;
      if (const uint64_t due_ns = l.refill.due_ns(); due_ns != 0) refill(e.lane);
      return;
  }
}

void Simulation::made(base::BoxId id) {
  Box& box = boxes_[id - 1];
  const uint32_t lane = box.lane;
  Lane& l = lanes_[lane];
  if (box.machine.state() == BoxState::stocking) {
    step(box, BoxEvent::stocked);
    if (counted()) ++l.figures.boxes_made;
    l.refill.stocked(id, now_ns_);
    return refill(lane);
  }
  step(box, BoxEvent::made);
  step(box, BoxEvent::ready);
  if (counted()) ++l.figures.clones_made;
  // The engine knows a whole make's time only if the box was not stocked before.
  if (!box.machine.wasStocked()) policy_.onMade(lane, now_ns_ - box.asked_ns, now_ns_);
  const ClonePool::Handed handed = l.refill.ready(id, now_ns_);
  if (handed.task != 0)
    give(handed.task, id);
  else if (handed.end)
    end(id);
  refill(lane);
  resize();
}

void Simulation::end(base::BoxId id) {
  Box& box = boxes_[id - 1];
  if (box.machine.state() == BoxState::ready && counted()) ++lanes_[box.lane].figures.thrown_away;
  step(box, BoxEvent::end);
  if (shared()) return begin(id, lanes_[box.lane].spec.costs.end, What::gone);
  schedule(o_.end_ns, What::gone, box.lane, id);
}

void Simulation::refill(uint32_t lane) {
  Lane& l = lanes_[lane];
  const Refill::Work work = l.refill.work(true, now_ns_);
  for (base::BoxId id : work.end) end(id);
  for (const Refill::Make& make : work.make) ask(lane, make);
  if (!work.make.empty()) serve();
  sumUp(lane);
  const uint64_t due_ns = l.refill.due_ns();
  if (due_ns != 0 && (l.armed_ns == 0 || due_ns < l.armed_ns)) {
    l.armed_ns = due_ns;
    schedule(due_ns - std::min(due_ns, now_ns_), What::due, lane, 0);
  }
}

void Simulation::ask(uint32_t lane, const Refill::Make& make) {
  base::BoxId id = make.in;
  if (id != 0) {
    step(boxes_[id - 1], BoxEvent::clone);
    if (make.task != 0 && arrival(make.task).at_ns >= o_.count_from_ns)
      ++lanes_[lane].figures.box_hits;
  } else {
    if (free_.empty()) {
      boxes_.emplace_back();
      free_.push_back(boxes_.size());
    }
    id = free_.back();
    free_.pop_back();
    const bool stock = make.what == Refill::Make::What::stock;
    boxes_[id - 1] =
        Box{BoxMachine(stock ? BoxMachine::First::stocking : BoxMachine::First::making), lane};
    ++alive_;
  }
  boxes_[id - 1].asked_ns = now_ns_;
  lanes_[lane].refill.asked(make, id);
  asked_.push_back(id);
}

// Idle makers start the requested boxes.
void Simulation::serve() {
  for (; busy_ < o_.makers && !asked_.empty(); asked_.pop_front()) {
    const base::BoxId id = asked_.front();
    const Box& box = boxes_[id - 1];
    const SimTemplate& t = lanes_[box.lane].spec;
    const uint64_t base_ns = (box.machine.state() == BoxState::cloning ? 0 : t.box_make_ns) +
                             (box.machine.stock() ? 0 : t.clone_make_ns);
    const double sigma = o_.make_spread;
    // Its mean is 1.
    const double spread = sigma > 0 ? std::exp(sigma * random_.normal() - sigma * sigma / 2) : 1;
    ++busy_;
    if (shared()) {
      begin(id,
            makeOf(t.costs, box.machine.state() != BoxState::cloning, !box.machine.stock(), spread),
            What::made);
      continue;
    }
    schedule(std::max<uint64_t>(1, static_cast<uint64_t>(static_cast<double>(base_ns) * spread)),
             What::made, box.lane, id);
  }
}

void Simulation::resize() {
  policy_.hold(now_ns_, states_, holds_);
  for (uint32_t i = 0; i < lanes_.size(); ++i) {
    if (lanes_[i].refill.hasTarget(holds_[i].parked, holds_[i].stocked)) continue;
    lanes_[i].refill.setTarget(holds_[i].parked, holds_[i].stocked);
    refill(i);
  }
}

// --- the run ------------------------------------------------------------------------

void Simulation::finish(SimFigures& f, Lane& of, double counted_ns) const {
  std::vector<uint64_t>& waits_ns = of.waits_ns;
  f.first_byte = timesOf(of.firsts_ns);
  f.whole = timesOf(of.wholes_ns);
  std::sort(waits_ns.begin(), waits_ns.end());
  double sum = 0;
  for (uint64_t w : waits_ns) sum += static_cast<double>(w);
  const uint64_t taken = f.arrivals - f.refused;
  f.wait_mean_ns = taken > 0 ? sum / static_cast<double>(taken) : 0;
  auto at = [&](double share) -> uint64_t {
    const auto rank = static_cast<uint64_t>(std::ceil(share * static_cast<double>(taken)));
    const uint64_t zeros = taken - std::min<uint64_t>(taken, waits_ns.size());
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

base::Result<SimResult> Simulation::run() {
  size_t next = 0;
  resize();
  // After the trace's end, only the waiting tasks are served; on shared processors, all tasks.
  const auto unserved = [&] { return waiting_ > 0 || (shared() && held_ > 0); };
  while ((next < trace_.arrivals.size() || unserved() || now_ns_ < trace_.end_ns) &&
         broken_.empty()) {
    const uint64_t arrival_ns =
        next < trace_.arrivals.size() ? trace_.arrivals[next].at_ns : UINT64_MAX;
    const uint64_t work_ns = host_.nextDone_ns();
    const uint64_t event_ns = std::min(work_ns, events_.empty() ? UINT64_MAX : events_.top().at_ns);
    // The policy was asked a moment ago: a time in the past asks for nothing.
    const uint64_t wish_ns = policy_.nextDue_ns();
    const uint64_t due_ns = wish_ns > now_ns_ ? wish_ns : UINT64_MAX;
    const uint64_t at_ns = std::min({arrival_ns, event_ns, due_ns});
    if (!unserved() && next == trace_.arrivals.size() && at_ns >= trace_.end_ns) {
      advance(trace_.end_ns);
      break;
    }
    advance(at_ns);
    if (due_ns < std::min(arrival_ns, event_ns)) {
      resize();
    } else if (event_ns <= arrival_ns && work_ns == event_ns) {
      work();
    } else if (event_ns <= arrival_ns) {
      const Event e = events_.top();
      events_.pop();
      happen(e);
    } else {
      arrive(++next);
    }
    if (busy_ > o_.makers) broken("more makers work than there are");
  }
  if (!broken_.empty())
    return base::fail(base::Code::internal,
                      "the simulated pool broke a rule of its own: " + broken_);
  return results();
}

SimResult Simulation::results() {
  const double counted_ns =
      trace_.end_ns > o_.count_from_ns ? static_cast<double>(trace_.end_ns - o_.count_from_ns) : 0;
  Lane together(o_.making_max);
  double parked_s = 0;
  for (uint32_t i = 0; i < lanes_.size(); ++i) {
    sumUp(i);
    Lane& l = lanes_[i];
    const auto append = [](std::vector<uint64_t>& to, const std::vector<uint64_t>& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    append(together.waits_ns, l.waits_ns);
    append(together.firsts_ns, l.firsts_ns);
    append(together.wholes_ns, l.wholes_ns);
    SimFigures &f = l.figures, &all = out_.all;
    all.arrivals += f.arrivals;
    all.refused += f.refused;
    all.hits += f.hits;
    all.box_hits += f.box_hits;
    all.clones_made += f.clones_made;
    all.boxes_made += f.boxes_made;
    all.thrown_away += f.thrown_away;
    all.memory_byte_s += f.memory_byte_s;
    parked_s += f.parked_mean;
    finish(f, l, counted_ns);
    out_.templates.push_back(f);
  }
  out_.all.parked_mean = parked_s;
  finish(out_.all, together, counted_ns);
  if (counted_ns > 0) {
    out_.makers_busy *= 1e9 / (counted_ns * o_.makers);
    for (double* mean :
         {&out_.running_mean, &out_.running_square, &out_.running_byte_mean, &out_.processors_busy,
          &out_.daemon_busy, &out_.spawner_busy, &out_.queued_mean})
      *mean *= 1e9 / counted_ns;
  }
  return std::move(out_);
}

}  // namespace

base::Status checkSimulation(const Trace& trace, const SimOptions& options) {
  auto wrong = [](std::string why) {
    return base::fail(base::Code::invalidArgument, "cannot simulate: " + std::move(why));
  };
  if (options.makers == 0) return wrong("there is no maker");
  if (options.making_max == 0) return wrong("making_max is 0");
  if (options.boxes_max == 0) return wrong("there is no box");
  if (!(options.processors >= 0 && options.processors <= 4096))
    return wrong(fmt::format("{} processors; it must be from 0 to 4096", options.processors));
  if (!options.templates.empty() && options.templates.size() != trace.templates.size())
    return wrong(fmt::format("{} templates are described, the trace names {}",
                             options.templates.size(), trace.templates.size()));
  if (!(options.make_spread >= 0 && options.make_spread <= 2))
    return wrong(
        fmt::format("the make times' spread is {}; it must be from 0 to 2", options.make_spread));
  uint64_t last_ns = 0;
  for (const Arrival& a : trace.arrivals) {
    if (a.at_ns < last_ns || a.template_index >= trace.templates.size() || a.at_ns > trace.end_ns ||
        (!trace.tenants.empty() && a.tenant_index >= trace.tenants.size()))
      return wrong(
          "the trace is not in order of time, or an arrival has an unknown template or tenant");
    last_ns = a.at_ns;
  }
  return base::Unit{};
}

base::Result<SimResult> simulate(const Trace& trace, const SimOptions& options,
                                 SizingPolicy& policy, SimQueue* queue) {
  MAYFLY_CHECK(checkSimulation(trace, options));
  PlainQueue plain(options.boxes_max, options.queue_max);
  return Simulation(trace, options, policy, queue != nullptr ? *queue : plain).run();
}

}  // namespace mayfly::pool
