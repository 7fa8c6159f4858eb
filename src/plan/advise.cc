#include "plan/advise.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "config/units.h"
#include "pool/demand.h"

namespace mayfly::plan {

namespace {

constexpr double kLoadStep = 1.05;   // the headroom is found to this factor
constexpr double kBusy = 0.8;        // a thread or processors beyond it delay what comes
constexpr double kFullTime = 0.005;  // of the time
constexpr double kMargin = 1.25;     // of advised settings over what the simulation held
constexpr uint64_t kMiB = 1ull << 20;
constexpr uint32_t kQueueLeast = 64;

std::string percent(double share) {
  return fmt::format("{:.{}f} %", 100 * share, share < 0.1 ? 1 : 0);
}

// The least number of hosts in 1..most for which `met` holds; 0: none. More hosts are no worse.
base::Result<uint32_t> leastHosts(uint32_t most, uint32_t guess,
                                  const std::function<base::Result<bool>(uint32_t)>& met) {
  uint32_t low = 0, high = std::clamp(guess, 1u, most);  // low: known to be too few
  for (;;) {
    MAYFLY_TRY(const bool enough, met(high));
    if (enough) break;
    low = high;
    if (high == most) return 0u;
    high = std::min(most, 2 * high);
  }
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    MAYFLY_TRY(const bool enough, met(middle));
    (enough ? high : low) = middle;
  }
  return high;
}

// `met_by_guess`: whether `guess` hosts meet the goal, if that is known.
base::Result<uint32_t> hostsFor(const Input& in, const config::PlanScenario& s, uint32_t guess,
                                std::optional<bool> met_by_guess = {}) {
  return leastHosts(s.hosts_max, guess, [&](uint32_t hosts) -> base::Result<bool> {
    if (hosts == guess && met_by_guess) return *met_by_guess;
    MAYFLY_TRY(Outcome outcome, predict(in, hosts, 1));
    return scoreOf(outcome, s.goal).met;
  });
}

// Why tasks find no parked clone.
std::string poolBinding(const Outcome& o, const Score& score) {
  uint32_t wanted = 0, granted = 0;
  for (const LaneFigures& lane : o.lanes) wanted += lane.wanted, granted += lane.granted;
  if (granted >= o.budget.parked_max)
    return fmt::format("parked_max: at most {} clones are parked ahead", o.budget.parked_max);
  if (granted < wanted)
    return fmt::format("parked_memory: {} clones are wanted parked, {} fit", wanted, granted);
  for (const LaneFigures& lane : o.lanes)
    if (lane.granted >= lane.most)
      return fmt::format("the pool of template '{}': its manifest allows {} clones", lane.name,
                         lane.most);
  return fmt::format(
      "the making of clones: {} find none, as they come before the pool has learnt "
      "of them, or faster than it is refilled",
      percent(score.missed));
}

double busyShare(const Outcome& o) {
  return o.processors > 0 ? o.sim.processors_busy / o.processors : 0;
}

}  // namespace

Score scoreOf(const Outcome& o, const config::PlanGoal& goal) {
  const pool::SimFigures& f = o.sim.all;
  Score s;
  s.tasks = f.arrivals;
  s.missed = f.missShare();
  s.refused = f.refusedShare();
  s.first_p50_ns = f.first_byte.p50_ns;
  s.first_p99_ns = f.first_byte.p99_ns;
  s.whole_p99_ns = f.whole.p99_ns;
  s.met = s.missed <= goal.missed && s.refused <= goal.refused &&
          s.first_p99_ns <= goal.first_byte_ms * 1'000'000;
  return s;
}

std::vector<Resource> resourcesOf(const Outcome& o) {
  std::vector<Resource> out;
  const auto busy = [&](std::string name, double mean, double of) {
    out.push_back({std::move(name), "", mean, 0, of, of > 0 ? mean / of : 0, 0});
  };
  busy("processors", o.sim.processors_busy, o.processors);
  busy("the daemon's thread", o.sim.daemon_busy, 1);
  busy("the spawner's thread", o.sim.spawner_busy, 1);
  for (size_t i = 0; i < kBounds; ++i) {
    const Use& u = o.uses[i];
    const auto bound = static_cast<Bound>(i);
    if (bound == Bound::share ? u.full_share == 0 : u.most == 0) continue;
    out.push_back({std::string(name(bound)), bound == Bound::memory ? "bytes" : "", u.mean, u.most,
                   u.of, u.of > 0 ? u.most / u.of : 1, u.full_share});
  }
  const auto ahead = static_cast<double>(o.sim.ahead_bytes_max);
  const auto ahead_of = static_cast<double>(o.parked_bytes_max);
  // The pools' sizes change slowly: the most stands for the mean, too.
  out.push_back({"memory of the pools (parked_memory)", "bytes", ahead, ahead, ahead_of,
                 ahead_of > 0 ? ahead / ahead_of : 0, 0});
  out.push_back(
      {"parked clones (parked_max)", "", o.sim.all.parked_mean,
       static_cast<double>(o.sim.all.parked_max), static_cast<double>(o.budget.parked_max),
       o.budget.parked_max > 0
           ? static_cast<double>(o.sim.all.parked_max) / static_cast<double>(o.budget.parked_max)
           : 0,
       0});
  std::stable_sort(out.begin(), out.end(),
                   [](const Resource& a, const Resource& b) { return a.share > b.share; });
  return out;
}

std::string bindingOf(const Outcome& o, const config::PlanGoal& goal) {
  const std::vector<Resource> all = resourcesOf(o);
  const Score score = scoreOf(o, goal);
  // Tasks that waited for a place, and for which bound.
  const auto waited = std::max_element(
      all.begin(), all.end(),
      [](const Resource& a, const Resource& b) { return a.full_share < b.full_share; });
  const Resource* thread = nullptr;
  for (const Resource& r : all)
    if ((r.name == "processors" || r.name.ends_with("thread")) &&
        (thread == nullptr || r.share > thread->share))
      thread = &r;
  // A busy host holds its boxes longer, so they run out, too: the cause is named.
  if (thread != nullptr && thread->share >= kBusy)
    return fmt::format("{}: {} busy", thread->name, percent(thread->share));
  if (waited->full_share > kFullTime)
    return fmt::format("{}: full for {} of the time", waited->name, percent(waited->full_share));
  if (score.missed > goal.missed) return poolBinding(o, score);
  if (score.first_p99_ns > goal.first_byte_ms * 1'000'000 && thread != nullptr)
    return fmt::format("bursts on the {}: {} busy in the mean, all of it at times", thread->name,
                       percent(thread->share));
  return score.met ? "nothing: the goal is met" : "the queue: it is full at times";
}

config::Daemon settingsFor(const Input& in, const Outcome& unbounded, bool memory_binds) {
  config::Daemon d = in.settings;
  double wanted = 0, bytes = 0;
  for (const LaneFigures& lane : unbounded.lanes) {
    wanted += lane.wanted;
    bytes += lane.wanted * static_cast<double>(lane.clone_bytes);
  }
  const auto most = static_cast<double>(pool::kHeld_max);
  d.parked_max =
      std::max(d.parked_max, static_cast<uint32_t>(std::min(std::ceil(kMargin * wanted), most)));
  const double mib = std::ceil(kMargin * bytes / static_cast<double>(kMiB));
  const double host_mib = static_cast<double>(in.host.memory_bytes / 4 / kMiB);
  const uint64_t need =
      static_cast<uint64_t>(std::clamp(mib, 16.0, std::max(16.0, host_mib))) * kMiB;
  d.parked_memory_bytes = memory_binds ? need : std::max(d.parked_memory_bytes, need);
  uint32_t queue = kQueueLeast;
  while (queue < 2 * unbounded.sim.queued_max && queue < 1'000'000) queue *= 2;
  d.queue_max = std::max(d.queue_max, std::min(queue, 1'000'000u));
  return d;
}

namespace {

Input unboundedPools(const Input& in) {
  Input wide = in;
  wide.settings.parked_max = pool::kHeld_max;
  wide.settings.parked_memory_bytes = in.host.memory_bytes / 4;
  for (config::PlanTemplate& t : wide.host.templates) t.parked_max = pool::kHeld_max;
  return wide;
}

std::string settingsToml(const config::Daemon& d, const std::vector<PoolAdvice>& pools,
                         const config::PlanHost& host) {
  std::string out = fmt::format(
      "# Of each host's daemon (mayflyd --config):\nparked_max = {}\nparked_memory = \"{}\"\n"
      "queue_max = {}\n",
      d.parked_max, config::formatBytes(d.parked_memory_bytes), d.queue_max);
  for (const PoolAdvice& p : pools) {
    const config::PlanTemplate* t = host.find(p.name);
    if (t == nullptr) continue;  // a tenant's pool: it is its template's
    const uint32_t most = static_cast<uint32_t>(
        std::clamp(std::ceil(kMargin * p.wanted), 1.0, static_cast<double>(pool::kHeld_max)));
    if (most > t->parked_max)
      out += fmt::format("# In the manifest of template '{}':\n#   [pool]\n#   max = {}\n", p.name,
                         most);
  }
  return out;
}

// The load that the hosts bear, and the points on the way there.
base::Status findHeadroom(const Input& in, const config::PlanScenario& s, Advice* a) {
  double low = 0, high = 0;  // met, and not met
  Outcome failing;
  const auto look = [&](double load) -> base::Status {
    MAYFLY_TRY(Outcome o, predict(in, a->shown, load));
    const Score score = scoreOf(o, s.goal);
    a->curve.push_back({load, score, busyShare(o)});
    if (score.met) {
      low = std::max(low, load);
    } else if (high == 0 || load < high) {
      high = load;
      failing = std::move(o);
    }
    return base::Unit{};
  };
  MAYFLY_CHECK(look(0.5));
  for (double load = 1; load <= kLoad_max && high == 0; load *= 2) MAYFLY_CHECK(look(load));
  for (double load = 0.25; low == 0 && load >= 1 / kLoad_max; load /= 2) MAYFLY_CHECK(look(load));
  while (low > 0 && high / low > kLoadStep) MAYFLY_CHECK(look(std::sqrt(low * high)));
  a->headroom = low;
  a->unbound = high == 0;
  if (high != 0) {
    a->binds = bindingOf(failing, s.goal);
    a->beyond = scoreOf(failing, s.goal);
  }
  std::sort(a->curve.begin(), a->curve.end(),
            [](const Point& x, const Point& y) { return x.load < y.load; });
  return base::Unit{};
}

base::Status addRow(const Input& in, const config::PlanScenario& s, std::string what, double load,
                    Advice* a) {
  Row row;
  row.what = std::move(what);
  Input other = in;
  if (load != 1) {
    for (pool::Arrival& arrival : other.trace.arrivals)
      arrival.at_ns = static_cast<uint64_t>(static_cast<double>(arrival.at_ns) / load);
    other.trace.end_ns = static_cast<uint64_t>(static_cast<double>(in.trace.end_ns) / load);
    other.warm_up_ns = static_cast<uint64_t>(static_cast<double>(in.warm_up_ns) / load);
  }
  if (base::Status fits = checkInput(other); !fits) {
    row.binds = std::move(fits).error().message;
    a->what_ifs.push_back(std::move(row));
    return base::Unit{};
  }
  MAYFLY_TRY(Outcome o, predict(other, a->shown, 1));
  row.score = scoreOf(o, s.goal);
  row.processors = busyShare(o);
  if (!row.score.met) row.binds = bindingOf(o, s.goal);
  MAYFLY_TRY(row.hosts, hostsFor(other, s, a->shown, row.score.met));
  a->what_ifs.push_back(std::move(row));
  return base::Unit{};
}

// The same templates, all made as one of another mechanism is.
base::Status addMechanisms(const Input& in, const config::PlanScenario& s, Advice* a) {
  std::vector<std::string> done;
  for (const config::PlanTemplate& from : in.host.templates) {
    const bool as_planned = std::all_of(
        in.trace.templates.begin(), in.trace.templates.end(), [&](const std::string& name) {
          return in.host.find(name)->mechanism == from.mechanism;  // checkInput() found it
        });
    if (as_planned || std::find(done.begin(), done.end(), from.mechanism) != done.end()) continue;
    done.push_back(from.mechanism);
    Input other = in;
    for (config::PlanTemplate& t : other.host.templates) {
      if (t.mechanism == from.mechanism) continue;
      t.mechanism = from.mechanism;
      t.make = from.make;
      t.clone_bytes = from.clone_bytes;
    }
    MAYFLY_CHECK(
        addRow(other, s, fmt::format("made by {}, as '{}'", from.mechanism, from.name), 1, a));
  }
  return base::Unit{};
}

base::Status addWhatIfs(const Input& in, const config::PlanScenario& s,
                        const config::Daemon& advised, Advice* a) {
  a->what_ifs.push_back({"as planned", a->score, busyShare(a->planned), a->hosts,
                         a->score.met ? "" : bindingOf(a->planned, s.goal)});
  Input other = in;
  other.settings = advised;
  for (config::PlanTemplate& t : other.host.templates) t.parked_max = pool::kHeld_max;
  MAYFLY_CHECK(addRow(other, s, "the settings below", 1, a));
  MAYFLY_CHECK(addRow(in, s, "twice the load", 2, a));
  other = in;
  other.host.memory_bytes /= 2;
  other.settings.parked_memory_bytes /= 2;
  MAYFLY_CHECK(addRow(other, s, "half the memory", 1, a));
  other = in;
  other.host.processors = in.host.background + (in.host.processors - in.host.background) / 2;
  MAYFLY_CHECK(addRow(other, s, "half the processors", 1, a));
  other = in;
  other.settings.parked_max = other.settings.stocked_max = 0;
  MAYFLY_CHECK(addRow(other, s, "nothing parked", 1, a));
  return addMechanisms(in, s, a);
}

}  // namespace

base::Result<Advice> advise(const Input& in, const config::PlanScenario& s) {
  MAYFLY_CHECK(checkInput(in));
  Advice a;
  for (const pool::Arrival& arrival : in.trace.arrivals) a.tasks += arrival.at_ns >= in.warm_up_ns;
  a.seconds = static_cast<double>(in.trace.end_ns - in.warm_up_ns) * 1e-9;
  a.rate_hz = static_cast<double>(a.tasks) / a.seconds;
  MAYFLY_TRY(a.hosts, hostsFor(in, s, 1));
  a.shown = a.hosts != 0 ? a.hosts : 1;
  if (a.hosts != 0 && a.hosts + s.goal.spare_hosts <= s.hosts_max)
    a.hosts_spare = a.hosts + s.goal.spare_hosts;
  MAYFLY_TRY(a.planned, predict(in, a.shown, 1));
  a.score = scoreOf(a.planned, s.goal);
  a.resources = resourcesOf(a.planned);
  MAYFLY_CHECK(findHeadroom(in, s, &a));
  MAYFLY_TRY(const Outcome wide, predict(unboundedPools(in), a.shown, 1));
  for (size_t i = 0; i < a.planned.lanes.size(); ++i) {
    const pool::SimFigures& f = a.planned.sim.templates[i];
    a.pools.push_back({a.planned.lanes[i].name, wide.lanes[i].wanted, f.parked_max, f.parked_mean,
                       f.missShare(), f.arrivals, f.first_byte.p99_ns});
  }
  const config::Daemon advised = settingsFor(in, wide, a.binds.starts_with("memory"));
  a.settings_toml = settingsToml(advised, a.pools, in.host);
  MAYFLY_CHECK(addWhatIfs(in, s, advised, &a));
  return a;
}

}  // namespace mayfly::plan
