#include "plan/render.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "config/units.h"

namespace mayfly::plan {

namespace {

constexpr uint64_t kFewTasks = 2'000;  // fewer say little about a 99th percentile

double ms(uint64_t ns) { return static_cast<double>(ns) * 1e-6; }

std::string time(uint64_t ns) {
  const double value = ms(ns);
  return value < 9'999.5 ? fmt::format("{:.{}f} ms", value, value < 99.95 ? 1 : 0)
                         : fmt::format("{:.1f} s", value * 1e-3);
}

std::string share(double value) {
  return fmt::format("{:.{}f}", 100 * value, value < 0.0995 ? 2 : 1);
}

std::string hosts(uint32_t n) { return fmt::format("{} host{}", n, n == 1 ? "" : "s"); }

std::string amount(double value, const std::string& unit) {
  if (unit == "bytes") return base::humanBytes(static_cast<uint64_t>(value));
  return fmt::format("{:.{}f}", value, value < 99.5 && value != static_cast<int>(value) ? 2 : 0);
}

std::string goalInWords(const config::PlanGoal& g) {
  return fmt::format("first byte within {} for 99 %, at most {} % missed, {} % refused",
                     config::formatDurationMs(g.first_byte_ms), share(g.missed), share(g.refused));
}

std::string resourceRows(const Advice& a) {
  std::string out = fmt::format("{:<44}{:>12}{:>12}{:>9}\n", "One host's", "used", "of", "share %");
  for (const Resource& r : a.resources) {
    const bool by_mean = r.most == 0;
    out +=
        fmt::format("{:<44}{:>12}{:>12}{:>9}\n", r.name, amount(by_mean ? r.mean : r.most, r.unit),
                    r.of > 0 ? amount(r.of, r.unit) : "", share(r.share));
  }
  return out;
}

std::string poolRows(const Advice& a) {
  std::string out = fmt::format("{:<28}{:>8}{:>10}{:>8}{:>8}{:>10}{:>11}\n", "Pool of template",
                                "tasks", "parked", "most", "wanted", "missed %", "first p99");
  for (const PoolAdvice& p : a.pools)
    out += fmt::format("{:<28}{:>8}{:>10.1f}{:>8}{:>8}{:>10}{:>11}\n", base::printable(p.name, 26),
                       p.tasks, p.mean, p.most, p.wanted, share(p.missed), time(p.first_p99_ns));
  return out;
}

std::string whatIfRows(const Advice& a) {
  std::string out = fmt::format("{:<28}{:>9}{:>10}{:>10}{:>10}{:>7}{:>6}\n", "What if", "missed %",
                                "first p99", "refused %", "proc. %", "hosts", "goal");
  for (const Row& r : a.what_ifs) {
    const bool ran = r.score.tasks != 0;
    out += fmt::format("{:<28}{:>9}{:>10}{:>10}{:>10}{:>7}{:>6}\n", base::printable(r.what, 27),
                       ran ? share(r.score.missed) : "-", ran ? time(r.score.first_p99_ns) : "-",
                       ran ? share(r.score.refused) : "-", ran ? share(r.processors) : "-",
                       r.hosts != 0 ? std::to_string(r.hosts) : "none", r.score.met ? "met" : "NO");
    if (!r.binds.empty()) out += fmt::format("  binds: {}\n", base::printable(r.binds, 300));
  }
  return out;
}

}  // namespace

std::string hostsInWords(const config::PlanScenario& s, const Advice& a) {
  if (a.hosts == 0)
    return fmt::format("No number of hosts up to {} meets the goal: {}.", s.hosts_max, a.binds);
  std::string out = fmt::format("{} {} the goal", hosts(a.hosts), a.hosts == 1 ? "meets" : "meet");
  if (s.goal.spare_hosts == 0) return out + ".";
  if (a.hosts_spare == 0)
    return out +
           fmt::format("; to spare {}, more than {} are needed.", s.goal.spare_hosts, s.hosts_max);
  return out + fmt::format("; {} if {} may fail.", a.hosts_spare,
                           s.goal.spare_hosts == 1 ? "one" : std::to_string(s.goal.spare_hosts));
}

std::string bindingInWords(const config::PlanScenario&, const Advice& a) {
  const std::string which = a.shown == 1 ? "One host" : fmt::format("{} hosts", a.shown);
  const char* bear = a.shown == 1 ? "bears" : "bear";
  if (a.unbound)
    return fmt::format("{} {} more than {:g} times this load; nothing binds up to there.", which,
                       bear, kLoad_max);
  const std::string beyond =
      fmt::format("{}; first byte p99 {}, {} % missed, {} % refused", a.binds,
                  time(a.beyond.first_p99_ns), share(a.beyond.missed), share(a.beyond.refused));
  if (a.headroom <= 0)
    return fmt::format("{} {} not even a {:g}th of this load. What binds: {}.", which, bear,
                       kLoad_max, beyond);
  return fmt::format("{} {} {:.2f} times this load. What binds then: {}.", which, bear, a.headroom,
                     beyond);
}

std::vector<std::string> warningsOf(const config::PlanScenario& s, const Advice& a) {
  std::vector<std::string> out;
  if (a.score.tasks < kFewTasks)
    out.push_back(fmt::format(
        "Only {} tasks: take a longer time, or a 99th percentile says little.", a.score.tasks));
  const auto trusted = config::formatDurationMs(kFirstByteTrusted_ms);
  if (s.goal.first_byte_ms < kFirstByteTrusted_ms)
    out.push_back(
        fmt::format("The goal, a first byte within {}, is below {}: the model is too rough for "
                    "it. Measure it by `mayfly bench run`.",
                    config::formatDurationMs(s.goal.first_byte_ms), trusted));
  if (a.score.first_p99_ns > 0 && a.score.first_p99_ns < kFirstByteTrusted_ms * 1'000'000)
    out.push_back(
        fmt::format("The first byte's p99 of {} is below {}, where predictions are rough: take it "
                    "as \"below {}\".",
                    time(a.score.first_p99_ns), trusted, trusted));
  return out;
}

std::string renderTable(const Input& in, const config::PlanScenario& s, const Advice& a) {
  const Score& score = a.score;
  std::string out = fmt::format(
      "Load: {} tasks in {:.0f} s, {:.2f}/s; {} template{}, {} tenant{}\n", a.tasks, a.seconds,
      a.rate_hz, in.trace.templates.size(), in.trace.templates.size() == 1 ? "" : "s",
      std::max<size_t>(1, in.trace.tenants.size()), in.trace.tenants.size() > 1 ? "s" : "");
  out += fmt::format("Host: {:g} processors{}, {} of memory\nGoal: {}\n\n", in.host.processors,
                     in.host.background > 0
                         ? fmt::format(" ({:.2f} busy with other programs)", in.host.background)
                         : "",
                     base::humanBytes(in.host.memory_bytes), goalInWords(s.goal));
  out += hostsInWords(s, a) + "\n" + bindingInWords(s, a) + "\n\n";
  out += fmt::format("{} of {}: {} tasks; {} % missed, {} % refused\n", "One host", a.shown,
                     score.tasks, share(score.missed), share(score.refused));
  const pool::SimFigures& f = a.planned.sim.all;
  out += fmt::format("{:<28}{:>10}{:>10}{:>10}{:>10}\n", "", "p50", "p90", "p99", "most");
  for (const auto& [what, times] :
       {std::pair{"submit to first byte", f.first_byte}, std::pair{"submit to receipt", f.whole}})
    out += fmt::format("{:<28}{:>10}{:>10}{:>10}{:>10}\n", what, time(times.p50_ns),
                       time(times.p90_ns), time(times.p99_ns), time(times.max_ns));
  out += fmt::format("{:<28}{:>10}{:>10}{:>10}{:>10}\n", "waited for a clone", time(f.wait_p50_ns),
                     time(f.wait_p90_ns), time(f.wait_p99_ns), time(f.wait_max_ns));
  out += fmt::format("{:<28}{:>10.1f} mean, {} most; queue {} most; boxes {} most\n",
                     "running tasks", a.planned.sim.running_mean, a.planned.sim.running_max,
                     a.planned.sim.queued_max, a.planned.sim.boxes_max);
  out += fmt::format("{:<28}{:>10} mean, {} most\n\n", "memory of running tasks",
                     base::humanBytes(static_cast<uint64_t>(a.planned.sim.running_byte_mean)),
                     base::humanBytes(a.planned.sim.running_bytes_max));
  const std::vector<std::string> warnings = warningsOf(s, a);
  for (const std::string& each : warnings) out += each + "\n";
  if (!warnings.empty()) out += "\n";
  out += poolRows(a) + "\n" + resourceRows(a) + "\n" + whatIfRows(a) + "\n" + a.settings_toml;
  return out;
}

namespace {

using Json = nlohmann::ordered_json;

Json scoreJson(const Score& s) {
  return {{"tasks", s.tasks},
          {"missedShare", s.missed},
          {"refusedShare", s.refused},
          {"firstByteP50Ms", ms(s.first_p50_ns)},
          {"firstByteP99Ms", ms(s.first_p99_ns)},
          {"wholeP99Ms", ms(s.whole_p99_ns)},
          {"met", s.met}};
}

Json timesJson(const pool::SimTimes& t) {
  return {{"mean", t.mean_ns * 1e-6},
          {"p50", ms(t.p50_ns)},
          {"p90", ms(t.p90_ns)},
          {"p99", ms(t.p99_ns)},
          {"max", ms(t.max_ns)}};
}

Json hostJson(const Advice& a) {
  const pool::SimResult& sim = a.planned.sim;
  Json out = scoreJson(a.score);
  out["firstByteMs"] = timesJson(sim.all.first_byte);
  out["wholeMs"] = timesJson(sim.all.whole);
  out["waitMs"] = {{"mean", sim.all.wait_mean_ns * 1e-6},
                   {"p50", ms(sim.all.wait_p50_ns)},
                   {"p99", ms(sim.all.wait_p99_ns)}};
  out["processorsBusy"] = sim.processors_busy;
  out["daemonBusyShare"] = sim.daemon_busy;
  out["spawnerBusyShare"] = sim.spawner_busy;
  out["runningMean"] = sim.running_mean;
  out["runningMax"] = sim.running_max;
  out["queuedMax"] = sim.queued_max;
  out["runningMemoryBytesMax"] = sim.running_bytes_max;
  out["clonesMade"] = sim.all.clones_made;
  out["clonesThrownAway"] = sim.all.thrown_away;
  return out;
}

}  // namespace

std::string renderJson(const Input& in, const config::PlanScenario& s, const Advice& a) {
  Json json{{"tasks", a.tasks}, {"seconds", a.seconds}, {"ratePerS", a.rate_hz}};
  json["templates"] = in.trace.templates;
  json["tenants"] = std::max<size_t>(1, in.trace.tenants.size());
  json["goal"] = {{"firstByteP99Ms", s.goal.first_byte_ms},
                  {"missedShare", s.goal.missed},
                  {"refusedShare", s.goal.refused},
                  {"spareHosts", s.goal.spare_hosts}};
  json["hosts"] = a.hosts != 0 ? Json(a.hosts) : Json(nullptr);
  json["hostsWithSpare"] = a.hosts_spare != 0 ? Json(a.hosts_spare) : Json(nullptr);
  json["hostsInWords"] = hostsInWords(s, a);
  json["headroom"] = a.headroom;
  json["headroomIsBound"] = !a.unbound;
  json["binds"] = a.binds;
  json["bindsInWords"] = bindingInWords(s, a);
  json["warnings"] = warningsOf(s, a);
  json["figuresOfHosts"] = a.shown;
  json["oneHost"] = hostJson(a);
  json["resources"] = Json::array();
  for (const Resource& r : a.resources)
    json["resources"].push_back({{"name", r.name},
                                 {"mean", r.mean},
                                 {"most", r.most},
                                 {"of", r.of},
                                 {"share", r.share},
                                 {"fullShareOfTime", r.full_share}});
  json["pools"] = Json::array();
  for (const PoolAdvice& p : a.pools)
    json["pools"].push_back({{"name", p.name},
                             {"tasks", p.tasks},
                             {"parkedMean", p.mean},
                             {"parkedMax", p.most},
                             {"wantedMax", p.wanted},
                             {"missedShare", p.missed},
                             {"firstByteP99Ms", ms(p.first_p99_ns)}});
  json["load"] = Json::array();
  for (const Point& p : a.curve) {
    Json each{{"times", p.load}, {"processorsShare", p.processors}};
    each.update(scoreJson(p.score));
    json["load"].push_back(std::move(each));
  }
  json["whatIf"] = Json::array();
  for (const Row& r : a.what_ifs) {
    Json each{{"what", r.what}, {"processorsShare", r.processors}};
    each.update(scoreJson(r.score));
    each["hosts"] = r.hosts != 0 ? Json(r.hosts) : Json(nullptr);
    each["binds"] = r.binds;
    json["whatIf"].push_back(std::move(each));
  }
  json["settings"] = a.settings_toml;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace mayfly::plan
