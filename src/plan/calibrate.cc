#include "plan/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace mayfly::plan {

using base::Phase;

namespace {

constexpr double kPartLeast = 0.1, kPartMost = 0.9;  // of the making, in what a pair takes

uint64_t at(const TaskSample& s, Phase phase) { return s.phases[static_cast<size_t>(phase)]; }

// The value that `share` of all do not exceed; 0 if there are none.
double quantile(std::vector<double> all, double share) {
  if (all.empty()) return 0;
  std::sort(all.begin(), all.end());
  const auto last = static_cast<double>(all.size() - 1);
  return all[static_cast<size_t>(std::lround(share * last))];
}

std::vector<double> spans_us(const std::vector<TaskSample>& all, Phase from, Phase to) {
  std::vector<double> out;
  for (const TaskSample& s : all)
    if (at(s, from) != 0 && at(s, to) >= at(s, from))
      out.push_back(static_cast<double>(at(s, to) - at(s, from)) * 1e-3);
  return out;
}

uint64_t whole(double value) { return static_cast<uint64_t>(std::llround(std::max(0.0, value))); }

// As foundParked().
bool stocked(const TaskSample& s) { return at(s, Phase::boxReady) == at(s, Phase::box); }

base::Status tooFew(std::string what) {
  return base::fail(base::Code::failedPrecondition, std::move(what),
                    "Give it more time (--seconds), and see that nothing else uses the daemon.");
}

// In microseconds for each of `count`.
struct Each {
  double daemon = 0, spawner = 0, client = 0, boxes = 0, other = 0;
};
Each eachOf(const CpuTotals& t, double background, uint64_t count) {
  const double n = 1e3 * static_cast<double>(std::max<uint64_t>(1, count));
  Each e;
  e.daemon = static_cast<double>(t.daemon_ns) / n;
  e.spawner = static_cast<double>(t.spawner_ns) / n;
  e.client = static_cast<double>(t.client_ns) / n;
  e.boxes = static_cast<double>(t.boxes_ns) / n;
  const double others =
      std::max(background * static_cast<double>(t.elapsed_ns), static_cast<double>(t.others_ns));
  const double all = (static_cast<double>(t.machine_ns) - others) / n;
  e.other = std::max(0.0, all - e.daemon - e.spawner - e.client - e.boxes);
  return e;
}

std::vector<TaskSample> foundParkedOf(const std::vector<TaskSample>& all) {
  std::vector<TaskSample> out;
  std::copy_if(all.begin(), all.end(), std::back_inserter(out), foundParked);
  return out;
}

std::vector<uint64_t> lateness_us(const std::vector<TaskSample>& hits, const config::PlanTask& k) {
  std::vector<double> all;
  for (const TaskSample& s : hits)
    if (s.first_byte_ns != 0)
      all.push_back(static_cast<double>(s.first_byte_ns) * 1e-3 -
                    static_cast<double>(k.claim_us + k.first_us));
  std::vector<uint64_t> out;
  for (size_t i = 0; i < kLateQuantiles && !all.empty(); ++i)
    out.push_back(whole(quantile(all, static_cast<double>(i) / (kLateQuantiles - 1))));
  return out;
}

void setTimes(const std::vector<TaskSample>& hits, config::PlanTask& k) {
  const auto median = [&](Phase from, Phase to) { return quantile(spans_us(hits, from, to), 0.5); };
  k.claim_us = whole(median(Phase::box, Phase::started));
  k.run_us = whole(median(Phase::started, Phase::exited));
  const double first = median(Phase::started, Phase::firstByte);
  k.first_us = std::min(k.run_us, first > 0 ? whole(first) : k.run_us);
  k.end_us = whole(median(Phase::exited, Phase::receipt));
  std::vector<double> cpu_us, memory;
  for (const TaskSample& s : hits) {
    cpu_us.push_back(static_cast<double>(s.cpu_ns) * 1e-3);
    memory.push_back(static_cast<double>(s.memory_bytes));
  }
  k.box_cpu_us = whole(quantile(cpu_us, 0.5));
  k.memory_bytes = whole(quantile(memory, 0.5));
}

// The times of clones that were made for a task: the fastest tenth of them were hardly disturbed
// by the others of their burst.
base::Status setMakeTimes(const std::vector<TaskSample>& burst, config::PlanMake& m) {
  constexpr double kUndisturbed = 0.1;
  std::vector<TaskSample> whole_made, in_stock;
  for (const TaskSample& s : burst)
    if (!foundParked(s)) (stocked(s) ? in_stock : whole_made).push_back(s);
  if (whole_made.size() < kMissedLeast)
    return tooFew(
        fmt::format("only {} of {} tasks in bursts had a box made for them; {} are needed",
                    whole_made.size(), burst.size(), kMissedLeast));
  const double all = quantile(spans_us(whole_made, Phase::box, Phase::clone), kUndisturbed);
  double box = quantile(spans_us(whole_made, Phase::box, Phase::boxReady), kUndisturbed);
  if (in_stock.size() >= kMissedLeast)
    box = all - quantile(spans_us(in_stock, Phase::box, Phase::clone), kUndisturbed);
  m.time_us = std::max<uint64_t>(1, whole(all));
  m.box_us = std::min(m.time_us, whole(box));
  return base::Unit{};
}

}  // namespace

// The daemon never reports a phase before an earlier one: what was there before the task asked for
// it has the same time.
bool foundParked(const TaskSample& s) { return at(s, Phase::clone) == at(s, Phase::box); }

CpuTotals& CpuTotals::operator+=(const CpuTotals& o) {
  elapsed_ns += o.elapsed_ns;
  machine_ns += o.machine_ns;
  daemon_ns += o.daemon_ns;
  spawner_ns += o.spawner_ns;
  client_ns += o.client_ns;
  others_ns += o.others_ns;
  boxes_ns += o.boxes_ns;
  tasks += o.tasks;
  makes += o.makes;
  return *this;
}

base::Status setCosts(const Measured& m, config::PlanTemplate& out) {
  const std::vector<TaskSample> hits = foundParkedOf(m.quiet);
  if (hits.size() < kQuietLeast)
    return tooFew(
        fmt::format("only {} of {} tasks found a parked clone on the idle host; {} are "
                    "needed",
                    hits.size(), m.quiet.size(), kQuietLeast));
  if (m.full.tasks < kFullLeast)
    return tooFew(fmt::format("only {} tasks ended while the host was kept full; {} are needed",
                              m.full.tasks, kFullLeast));
  setTimes(hits, out.task);
  out.task.late_us = lateness_us(hits, out.task);
  out.task.late_full_us = lateness_us(foundParkedOf(m.busy), out.task);
  MAYFLY_CHECK(setMakeTimes(m.burst, out.make));
  const Each pair = eachOf(m.full, m.background, m.full.tasks);
  const Each made = eachOf(m.refills, m.background, m.refills.makes);
  // Without enough refills, the making's part is that of its time.
  const auto make_us = static_cast<double>(out.make.time_us);
  const auto task_us = static_cast<double>(out.task.claim_us + out.task.end_us);
  const double by_time = make_us / std::max(1.0, make_us + task_us);
  const auto part = [&](double its, double of_pair) {
    const double share = m.refills.makes >= kMakesLeast && of_pair > 0 ? its / of_pair : by_time;
    return std::clamp(share, kPartLeast, kPartMost) * of_pair;
  };
  const double daemon = part(made.daemon, pair.daemon);
  const double spawner = part(made.spawner, pair.spawner);
  const double other = part(made.other, pair.other);
  out.make.daemon_us = whole(daemon);
  out.make.spawner_us = whole(spawner);
  out.make.other_us = whole(other);
  out.task.daemon_us = whole(pair.daemon - daemon);
  out.task.spawner_us = whole(pair.spawner - spawner);
  out.task.other_us = whole(pair.other - other);
  out.task.client_us = whole(pair.client);
  if (m.clone_bytes != 0) out.clone_bytes = m.clone_bytes;
  return base::Unit{};
}

}  // namespace mayfly::plan
