#include "bench/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "bench/stats.h"

namespace mayfly::bench {
namespace {

// A generator that is later than this by itself spoils the figures: the share is of the latency,
// which contains the lateness. Of few tasks, p99 is the slowest one.
constexpr double kOwnLagMs = 1, kOwnLagShare = 0.2;
constexpr uint64_t kFewTasks = 500;
constexpr double kBusyShare = 0.9;  // of one core
constexpr size_t kNameColumns = 18;

Json roundJson(const load::Report& r) {
  Json out = {{"sent", r.sent},         {"succeeded", r.succeeded}, {"errors", r.errors},
              {"recorded", r.recorded}, {"unsent", r.unsent},       {"unfinished", r.unfinished},
              {"held", r.held},         {"parked", r.parked},       {"stocked", r.stocked},
              {"per_s", r.per_s()}};
  out["latency"] = load::summaryJson(r.latency);
  out["first_byte"] = load::summaryJson(r.first_byte);
  out["service"] = load::summaryJson(r.service);
  out["own_lag"] = load::summaryJson(r.own_lag);
  if (r.claim.count() != 0) out["claim"] = load::summaryJson(r.claim);
  if (r.run.count() != 0) out["run"] = load::summaryJson(r.run);
  return out;
}

std::string cell(const Series& s, const load::Histogram load::Report::*of, double percent) {
  const double value =
      s.median([&](const load::Report& r) { return ms((r.*of).percentile_ns(percent)); });
  return value == 0 ? "-" : msText(value);
}

std::string nameCell(const std::string& name) {
  return base::printable(name, name.size() < kNameColumns ? kNameColumns : kNameColumns - 4);
}

}  // namespace

void Series::add(load::Report round) {
  for (const auto& [step, histogram] : round.steps) steps[step].add(histogram);
  round.steps.clear();
  rounds.push_back(std::move(round));
}

load::Report Series::total() const {
  load::Report sum;
  for (const load::Report& r : rounds) load::add(sum, r);
  for (const auto& [step, histogram] : steps) sum.steps[step].add(histogram);
  return sum;
}

double Series::median(const std::function<double(const load::Report&)>& pick) const {
  std::vector<double> values;
  for (const load::Report& r : rounds)
    if (r.latency.count() != 0) values.push_back(pick(r));
  return bench::median(std::move(values));
}

Json toJson(const BenchReport& report) {
  Json out = {{"format", kFormat},
              {"version", kFormatVersion},
              {"verb", report.verb},
              {"interrupted", report.interrupted},
              {"environment", report.environment},
              {"options", report.options}};
  out.update(report.extra);
  Json& all = out["series"] = Json::array();
  for (const Series& s : report.series) {
    Json each = {{"name", s.name}, {"about", s.about}, {"notes", s.notes}};
    each["stated_per_s"] = s.stated_per_s;
    Json& rounds = each["rounds"] = Json::array();
    for (const load::Report& r : s.rounds) rounds.push_back(roundJson(r));
    each["total"] = load::toJson(s.total());
    all.push_back(std::move(each));
  }
  return out;
}

double ms(uint64_t ns) { return static_cast<double>(ns) / 1e6; }

std::string msText(double ms) {
  if (ms < 1) return fmt::format("{:.3f}", ms);
  if (ms < 10) return fmt::format("{:.2f}", ms);
  return fmt::format("{:.{}f}", ms, ms < 100 ? 1 : 0);
}

Generator judgeGenerator(const load::Report& r, double stated_per_s, double cpu_share) {
  const double percent = r.own_lag.count() < kFewTasks ? 90 : 99;
  const double own_ms = ms(r.own_lag.percentile_ns(percent));
  const double bound_ms = std::max(kOwnLagMs, kOwnLagShare * ms(r.latency.percentile_ns(percent)));
  const std::string cpu = fmt::format("{:.0f} % of one core", 100 * cpu_share);
  const uint64_t planned = r.sent + r.unsent;
  if (stated_per_s > 0 && own_ms > bound_ms)
    return {true, false,
            fmt::format("{}: it sent {} ms late by itself (p{:g}), and used {}", kGeneratorNote,
                        msText(own_ms), percent, cpu)};
  if (cpu_share > kBusyShare)
    return {true, false, fmt::format("{}: it used {}", kGeneratorNote, cpu)};
  if (stated_per_s <= 0)
    return {false, true,
            fmt::format("closed loop: the answers set the rate; the generator used {}", cpu)};
  if (r.unsent != 0)
    return {false, false,
            fmt::format("the daemon was the limit: {} of {} tasks were not sent before the "
                        "time was over, because as many as --in-flight allows were under "
                        "way; the latencies lack what these would have waited",
                        r.unsent, planned)};
  if (r.held != 0)
    return {false, false,
            fmt::format("{} of {} tasks waited in the generator, because as many as "
                        "--in-flight allows were under way; the wait is in their latency",
                        r.held, planned)};
  return {false, true,
          fmt::format("the generator kept up: {} ms late by itself (p{:g}), {}", msText(own_ms),
                      percent, cpu)};
}

std::string seriesTable(const std::vector<Series>& series) {
  std::string out = fmt::format("{:<{}}{:>8}{:>7}{:>7}{:>16}{:>24}\n", "", kNameColumns, "", "", "",
                                "first byte, ms", "receipt, ms");
  out += fmt::format("{:<{}}{:>8}{:>7}{:>7}{:>8}{:>8}{:>8}{:>8}{:>8}\n", "", kNameColumns, "done/s",
                     "tasks", "errors", "p50", "p99", "p50", "p90", "p99");
  for (const Series& s : series) {
    const load::Report sum = s.total();
    uint64_t errors = 0;
    for (const auto& [kind, count] : sum.errors) errors += count;
    const double rate = s.median([](const load::Report& r) { return r.per_s(); });
    out += fmt::format("{:<{}}{:>8}{:>7}{:>7}{:>8}{:>8}{:>8}{:>8}{:>8}\n", nameCell(s.name),
                       kNameColumns, rate > 0 ? fmt::format("{:.1f}", rate) : "-",
                       sum.latency.count(), errors, cell(s, &load::Report::first_byte, 50),
                       cell(s, &load::Report::first_byte, 99), cell(s, &load::Report::latency, 50),
                       cell(s, &load::Report::latency, 90), cell(s, &load::Report::latency, 99));
  }
  return out;
}

std::string seriesNotes(const std::vector<Series>& series) {
  std::string out;
  for (const Series& s : series) {
    const load::Report sum = s.total();
    for (const auto& [kind, count] : sum.errors)
      out += fmt::format("{}: {} of {} tasks ended as {}\n", nameCell(s.name), count, sum.sent,
                         base::printable(kind, 80));
    for (const std::string& note : s.notes) out += fmt::format("{}: {}\n", nameCell(s.name), note);
  }
  return out;
}

LinePlot percentilePlot(const std::vector<Series>& series, const std::string& title) {
  LinePlot plot;
  plot.title = title;
  plot.description = "Latency in milliseconds by percentile, counted from the intended start.";
  plot.x = {"percentile", Scale::nines, 0.0, 50.0};
  plot.y = {"latency, ms", Scale::log, {}, {}};
  for (const Series& s : series) {
    const load::Report sum = s.total();
    for (const auto& [what, histogram] :
         {std::pair("receipt", &sum.latency), std::pair("first byte", &sum.first_byte)}) {
      if (histogram->count() == 0) continue;
      Line line;
      line.label = series.size() == 1 ? what : fmt::format("{}, {}", nameCell(s.name), what);
      for (const load::Histogram::Point& p : histogram->distribution())
        if (p.percent < 100) line.points.emplace_back(p.percent, ms(p.value_ns));
      if (!line.points.empty()) {
        plot.x.most = std::max(*plot.x.most, line.points.back().first);
        plot.description += fmt::format(" {}: median {} ms, 99 % {} ms.", line.label,
                                        msText(ms(histogram->percentile_ns(50))),
                                        msText(ms(histogram->percentile_ns(99))));
      }
      plot.lines.push_back(std::move(line));
    }
  }
  return plot;
}

}  // namespace mayfly::bench
