#include "pool/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace mayfly::pool {

namespace {
constexpr double kCover_s_max = 600;
constexpr int kCoverSteps = 14;
}  // namespace

double Compared::memory_byte_s() const {
  double sum = 0;
  for (const SimResult& r : results) sum += r.all.memory_byte_s;
  return sum;
}

double Compared::hitRate() const {
  SimFigures sum;
  for (const SimResult& r : results) {
    sum.arrivals += r.all.arrivals;
    sum.hits += r.all.hits;
  }
  return sum.hitRate();
}

double Compared::leastHitRate() const {
  double least = 1;
  for (const SimResult& r : results) least = std::min(least, r.all.hitRate());
  return least;
}

PolicyMaker oursMaker(const CompareOptions& options) {
  return [options](const Trace& trace) -> std::unique_ptr<SizingPolicy> {
    PlanOptions plan;
    plan.makers = options.sim.making_max;  // as in the engine
    plan.memory_bytes_max = options.memory_bytes_max;
    plan.box_bytes = options.sim.box_bytes;
    std::vector<uint64_t> clone_bytes;
    for (size_t i = 0; i < trace.templates.size(); ++i)
      clone_bytes.push_back(options.sim.templates.empty() ? options.sim.each.clone_bytes
                                                          : options.sim.templates[i].clone_bytes);
    return std::make_unique<DemandSizing>(plan, options.demand, clone_bytes);
  };
}

PolicyMaker fixedMaker(uint32_t parked) {
  return [parked](const Trace&) -> std::unique_ptr<SizingPolicy> {
    return std::make_unique<FixedSizing>(parked);
  };
}

PolicyMaker ewmaMaker(const EwmaOptions& options) {
  return [options](const Trace& trace) -> std::unique_ptr<SizingPolicy> {
    return std::make_unique<EwmaSizing>(trace.templates.size(), options);
  };
}

base::Result<Compared> simulateAll(std::string policy, std::string why,
                                   const std::vector<Trace>& traces, const SimOptions& options,
                                   const PolicyMaker& maker) {
  Compared out{std::move(policy), std::move(why), {}};
  for (const Trace& trace : traces) {
    // Before any policy is made: it indexes by the trace's templates.
    MAYFLY_CHECK(checkSimulation(trace, options));
    auto sizing = maker(trace);
    MAYFLY_TRY(auto result, simulate(trace, options, *sizing));
    out.results.push_back(std::move(result));
  }
  return out;
}

base::Result<std::vector<Compared>> compare(const std::vector<Trace>& traces,
                                            const CompareOptions& options) {
  auto run = [&](std::string name, std::string why, const PolicyMaker& maker) {
    return simulateAll(std::move(name), std::move(why), traces, options.sim, maker);
  };
  auto fixed = [&](uint32_t n, std::string why) {
    return run(fmt::format("fixed {}", n), std::move(why), fixedMaker(n));
  };
  auto ewma = [&](double cover_s, std::string why) {
    EwmaOptions e;
    e.cover_s = cover_s;
    return run(fmt::format("EWMA {:.3g} s", cover_s), std::move(why), ewmaMaker(e));
  };
  // The least n in 0..max for which `enough` holds; max if none.
  auto leastFixed = [&](uint32_t max, std::string why, auto enough) -> base::Result<Compared> {
    uint32_t low = 0, high = max;
    MAYFLY_TRY(Compared best, fixed(high, why));
    while (low < high) {
      const uint32_t middle = low + (high - low) / 2;
      MAYFLY_TRY(Compared at, fixed(middle, why));
      if (enough(at)) {
        high = middle;
        best = std::move(at);
      } else {
        low = middle + 1;
      }
    }
    return best;
  };

  std::vector<Compared> out;
  MAYFLY_TRY(Compared ours, run("ours", "", oursMaker(options)));
  const double memory = ours.memory_byte_s(), least = ours.leastHitRate();
  out.push_back(std::move(ours));
  const uint32_t most = std::max(1u, options.demand.parked_max);
  MAYFLY_TRY(Compared same_memory, leastFixed(most, "same MB*s", [&](const Compared& c) {
               return c.memory_byte_s() >= memory;
             }));
  out.push_back(std::move(same_memory));
  MAYFLY_TRY(Compared same_hits, leastFixed(most, "same hits", [&](const Compared& c) {
               return c.leastHitRate() >= least;
             }));
  out.push_back(std::move(same_hits));

  double low_s = 0, high_s = kCover_s_max;
  MAYFLY_TRY(Compared nearest, ewma(high_s, "same MB*s"));
  const bool too_much = nearest.memory_byte_s() > memory;
  for (int i = 0; i < kCoverSteps && too_much; ++i) {
    // The scale is logarithmic from a millisecond on.
    const double middle_s = std::sqrt(std::max(low_s, 1e-3) * high_s);
    MAYFLY_TRY(Compared at, ewma(middle_s, "same MB*s"));
    if (at.memory_byte_s() > memory) {
      high_s = middle_s;
    } else {
      low_s = middle_s;
    }
    if (std::abs(at.memory_byte_s() - memory) < std::abs(nearest.memory_byte_s() - memory))
      nearest = std::move(at);
  }
  out.push_back(std::move(nearest));
  for (uint32_t n : options.fixed) {
    MAYFLY_TRY(Compared each, fixed(n, ""));
    out.push_back(std::move(each));
  }
  for (double cover_s : options.cover_s) {
    MAYFLY_TRY(Compared each, ewma(cover_s, ""));
    out.push_back(std::move(each));
  }
  return out;
}

}  // namespace mayfly::pool
