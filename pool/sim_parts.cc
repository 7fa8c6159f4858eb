#include "pool/sim_parts.h"

#include <algorithm>
#include <cmath>

namespace mayfly::pool {

SimStep runOf(const Arrival& a, const SimCosts& costs) {
  const uint64_t cpu_ns = a.cpu_ns != 0 ? a.cpu_ns : costs.cpu_default_ns;
  const uint64_t first_ns = costs.first.before.all_ns() + costs.first.wait_ns;
  const uint64_t left_ns = a.run_ns - std::min(a.run_ns, first_ns);
  const uint64_t work_ns = cpu_ns - std::min(cpu_ns, costs.cpu_before_ns);
  SimStep step;
  step.before.own_ns = std::min(work_ns, left_ns);
  step.wait_ns = left_ns - step.before.own_ns;
  step.behind.own_ns = work_ns - step.before.own_ns;  // of several threads at a time
  return step;
}

SimStep makeOf(const SimCosts& costs, bool box, bool clone, double spread) {
  SimStep step;
  const auto add = [&](const SimStep& part) {
    const auto times = [&](uint64_t ns) {
      return static_cast<uint64_t>(static_cast<double>(ns) * spread);
    };
    step.before.daemon_ns += times(part.before.daemon_ns);
    step.before.spawner_ns += times(part.before.spawner_ns);
    step.before.own_ns += times(part.before.own_ns);
    step.wait_ns += times(part.wait_ns);
    step.behind.daemon_ns += times(part.behind.daemon_ns);
    step.behind.spawner_ns += times(part.behind.spawner_ns);
    step.behind.own_ns += times(part.behind.own_ns);
  };
  if (box) add(costs.box);
  if (clone) add(costs.clone);
  return step;
}

SimTimes timesOf(std::vector<uint64_t>& all_ns) {
  if (all_ns.empty()) return {};
  std::sort(all_ns.begin(), all_ns.end());
  SimTimes out;
  for (uint64_t ns : all_ns) out.mean_ns += static_cast<double>(ns);
  out.mean_ns /= static_cast<double>(all_ns.size());
  auto at = [&](double share) {
    const auto rank = std::ceil(share * static_cast<double>(all_ns.size()));
    return all_ns[std::max<size_t>(1, static_cast<size_t>(rank)) - 1];
  };
  out.p50_ns = at(0.5);
  out.p90_ns = at(0.9);
  out.p99_ns = at(0.99);
  out.max_ns = all_ns.back();
  return out;
}

}  // namespace mayfly::pool
