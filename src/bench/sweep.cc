#include "bench/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/text.h"
#include "bench/environment.h"
#include "bench/stats.h"
#include "config/units.h"

namespace mayfly::bench {
namespace {

using base::Code;
using base::fail;

constexpr double kHopeless = 4;  // times the goal: the rate is not repeated

const load::Histogram& histogramOf(const load::Report& r, const Goal& goal) {
  return goal.of == Goal::Of::firstByte ? r.first_byte : r.latency;
}

double figure_ms(const load::Report& r, const Goal& goal) {
  return ms(histogramOf(r, goal).percentile_ns(goal.percent));
}

// A rate with its repeats.
struct SweptRate {
  double per_s = 0;
  Series series;
  Generator generator;  // of the repeat that it limited, or of the last one
  std::string why;      // it is bad; empty: it is good
};

// Why one repeat is bad whatever its latency; empty: it is not.
std::string faultOf(const load::Report& r) {
  uint64_t errors = 0;
  for (const auto& [kind, count] : r.errors) errors += count;
  if (r.latency.count() == 0) return "no task succeeded";
  if (static_cast<double>(errors) > kErrorsMax * static_cast<double>(r.sent))
    return fmt::format("{} of {} tasks failed, most as {}", errors, r.sent,
                       std::max_element(r.errors.begin(), r.errors.end(), [](auto& a, auto& b) {
                         return a.second < b.second;
                       })->first);
  if (r.unsent != 0)
    return fmt::format("{} of {} tasks could not be sent in time", r.unsent, r.sent + r.unsent);
  return {};
}

// The word on a rate, from all its repeats.
std::string judgeRate(const SweptRate& rate, const Goal& goal, double most_ms) {
  std::vector<double> figures;
  size_t faults = 0;
  std::string fault;
  for (const load::Report& r : rate.series.rounds) {
    const std::string its = faultOf(r);
    if (!its.empty()) {
      ++faults;
      fault = its;
      continue;
    }
    figures.push_back(figure_ms(r, goal));
  }
  if (2 * faults >= rate.series.rounds.size()) return fault;
  const double median_ms = median(figures);
  if (median_ms <= most_ms) return {};
  return fmt::format("p{:g} is {} ms", goal.percent, msText(median_ms));
}

class Sweep {
 public:
  Sweep(const SweepVerb& verb, const Watch& watch)
      : verb_(verb), watch_(watch), search_(verb.search) {}

  base::Status measure(Session& session);
  void conclude(BenchReport& out) const;

 private:
  base::Status measureRate(Session& session, double per_s);
  std::vector<CurvePoint> curve() const;
  std::string verdict() const;
  std::string table() const;
  LinePlot plot() const;
  double median_ms(const SweptRate& rate, double percent) const {
    return rate.series.median([&](const load::Report& r) {
      return ms(histogramOf(r, verb_.goal).percentile_ns(percent));
    });
  }

  const SweepVerb& verb_;
  const Watch& watch_;
  RateSearch search_;
  std::vector<SweptRate> rates_;  // by rate; one that is measured again keeps its repeats
  double most_ms_ = 0;            // the goal
  bool limited_ = false;          // by the generator
};

base::Status Sweep::measureRate(Session& session, double per_s) {
  auto at = std::lower_bound(rates_.begin(), rates_.end(), per_s,
                             [](const SweptRate& r, double rate) { return r.per_s < rate; });
  if (at == rates_.end() || at->per_s != per_s)
    at = rates_.insert(at, SweptRate{per_s, {}, {}, {}});
  SweptRate& rate = *at;
  rate.series.name = fmt::format("{:.4g}/s", per_s);
  rate.series.stated_per_s = per_s;
  LoadShape shape = verb_.shape;
  shape.rate_per_s = per_s;
  SweptRate now{per_s, rate.series, {}, {}};
  now.series.rounds.clear();
  uint32_t limited = 0;  // repeats
  for (uint32_t i = 0; i < verb_.repeats && !watch_.stopped(); ++i) {
    MAYFLY_TRY(RoundResult round, session.round(shape, rate.series.rounds.size(), watch_));
    if (watch_.stopped()) break;  // a part of a repeat says nothing
    rate.series.add(round.all);
    now.series.add(round.all);
    if (!rate.generator.limited) rate.generator = round.generator;
    limited += round.generator.limited;
    if (!faultOf(round.all).empty() ||
        (most_ms_ > 0 && figure_ms(round.all, verb_.goal) > kHopeless * most_ms_))
      break;
  }
  if (now.series.rounds.empty()) return base::Unit{};
  limited_ = 2 * limited > now.series.rounds.size();
  if (most_ms_ <= 0) most_ms_ = kGoalTimes * median_ms(now, verb_.goal.percent);
  rate.why = judgeRate(now, verb_.goal, most_ms_);
  watch_.tell(fmt::format("{:.4g}/s: done {:.4g}/s, p50 {} ms, p{:g} {} ms: {}", per_s,
                          now.series.median([](const load::Report& r) { return r.per_s(); }),
                          msText(median_ms(now, 50)), verb_.goal.percent,
                          msText(median_ms(now, verb_.goal.percent)),
                          rate.why.empty() ? "good" : rate.why));
  return base::Unit{};
}

base::Status Sweep::measure(Session& session) {
  most_ms_ = verb_.goal.most_ms;
  while (auto per_s = search_.next()) {
    MAYFLY_CHECK(measureRate(session, *per_s));
    if (watch_.stopped() || limited_) return base::Unit{};
    const auto rate = std::find_if(rates_.begin(), rates_.end(),
                                   [&](const SweptRate& r) { return r.per_s == *per_s; });
    search_.measured(*per_s, rate->why.empty());
  }
  return base::Unit{};
}

std::vector<CurvePoint> Sweep::curve() const {
  std::vector<CurvePoint> out;
  for (const SweptRate& r : rates_)
    if (const double each = median_ms(r, verb_.goal.percent); each > 0)
      out.push_back({r.per_s, each});
  return out;
}

std::string Sweep::verdict() const {
  const double best = search_.sustainable_per_s();
  const std::string goal =
      fmt::format("p{:g} to the {} at most {} ms", verb_.goal.percent,
                  verb_.goal.of == Goal::Of::receipt ? "receipt" : "first byte", msText(most_ms_));
  if (limited_)
    return fmt::format("the generator was the limit; {} holds at least up to {:.4g}/s", goal, best);
  switch (search_.end()) {
    case RateSearch::End::bracketed:
      return fmt::format("sustainable: {:.4g}/s with {}; {:.4g}/s is too much", best, goal,
                         *search_.lowestBad_per_s());
    case RateSearch::End::allGood:
      return fmt::format("sustainable: {:.4g}/s or more with {}: every rate up to --to is good",
                         best, goal);
    case RateSearch::End::noneGood:
      return fmt::format("no rate keeps {}: not even {:.4g}/s", goal, *search_.lowestBad_per_s());
    case RateSearch::End::points:
    case RateSearch::End::searching:
      break;
  }
  return fmt::format("not finished: {} holds up to {:.4g}/s so far", goal, best);
}

std::string Sweep::table() const {
  std::string out = fmt::format(
      "{}\n{}, {:g} s each, medians of {} repeats; {} latency in ms\n\n", verb_.load.mix->name,
      verb_.shape.kind == LoadShape::Kind::constant ? "constant gaps" : "random times (Poisson)",
      verb_.shape.time_s, verb_.repeats,
      verb_.goal.of == Goal::Of::receipt ? "receipt" : "first byte");
  out += fmt::format("{:>10}{:>10}{:>9}{:>9}{:>9}{:>9}  {}\n", "stated/s", "done/s", "p50", "p90",
                     "p99", "p99.9", "");
  for (const SweptRate& r : rates_)
    out += fmt::format("{:>10.4g}{:>10.4g}{:>9}{:>9}{:>9}{:>9}  {}\n", r.per_s,
                       r.series.median([](const load::Report& each) { return each.per_s(); }),
                       msText(median_ms(r, 50)), msText(median_ms(r, 90)), msText(median_ms(r, 99)),
                       msText(median_ms(r, 99.9)), r.why.empty() ? "good" : r.why);
  out += "\n" + verdict() + "\n";
  const auto points = curve();
  if (const auto knee = kneeOf(points))
    out += fmt::format("the curve bends at {:.4g}/s\n", points[*knee].per_s);
  for (const SweptRate& r : rates_)
    if (r.generator.limited) out += fmt::format("{:.4g}/s: {}\n", r.per_s, r.generator.words);
  return out;
}

LinePlot Sweep::plot() const {
  LinePlot out;
  out.title = "Latency by rate";
  out.description = verdict() + ".";
  out.x = {"tasks a second", Scale::linear, 0.0, {}};
  out.y = {"latency, ms", Scale::log, {}, {}};
  for (double percent : {50.0, 90.0, 99.0}) {
    Line line;
    line.label = fmt::format("p{:g}", percent);
    for (const SweptRate& r : rates_)
      if (const double each = median_ms(r, percent); each > 0)
        line.points.emplace_back(r.per_s, each);
    out.lines.push_back(std::move(line));
  }
  if (most_ms_ > 0) out.across.push_back({fmt::format("goal: {} ms", msText(most_ms_)), most_ms_});
  if (const double best = search_.sustainable_per_s(); best > 0)
    out.upright.push_back({fmt::format("sustainable: {:.4g}/s", best), best});
  const auto points = curve();
  if (const auto knee = kneeOf(points))
    out.upright.push_back(
        {fmt::format("knee: {:.4g}/s", points[*knee].per_s), points[*knee].per_s});
  return out;
}

void Sweep::conclude(BenchReport& out) const {
  for (const SweptRate& r : rates_) {
    out.series.push_back(r.series);
    if (!r.why.empty()) out.series.back().notes.push_back(r.why);
    if (r.generator.limited) out.series.back().notes.push_back(r.generator.words);
  }
  const auto points = curve();
  const auto knee = kneeOf(points);
  Json& its = out.extra["sweep"];
  its = {{"goal_percent", verb_.goal.percent},
         {"goal_ms", most_ms_},
         {"goal_of", verb_.goal.of == Goal::Of::receipt ? "receipt" : "first byte"},
         {"sustainable_per_s", search_.sustainable_per_s()},
         {"end", limited_ ? std::string_view("generator") : name(search_.end())},
         {"verdict", verdict()}};
  its["lowest_bad_per_s"] = nullptr;
  if (const auto bad = search_.lowestBad_per_s()) its["lowest_bad_per_s"] = *bad;
  its["knee_per_s"] = nullptr;
  if (knee) its["knee_per_s"] = points[*knee].per_s;
  out.table = table();
  out.plots.emplace_back("sweep", svg(plot()));
}

}  // namespace

base::Result<Goal> parseGoal(const std::string& text) {
  Goal goal;
  auto wrong = [&] {
    return fail(Code::invalidArgument, fmt::format("'{}' is no goal", base::printable(text, 40)),
                "Write it like p99=50ms, p50=5ms or first-byte:p99=20ms.");
  };
  std::string_view rest = text;
  for (const auto& [word, of] :
       {std::pair<std::string_view, Goal::Of>("first-byte:", Goal::Of::firstByte),
        {"receipt:", Goal::Of::receipt}})
    if (rest.starts_with(word)) {
      rest.remove_prefix(word.size());
      goal.of = of;
    }
  const size_t equals = rest.find('=');
  if (!rest.starts_with("p") || equals == std::string_view::npos) return wrong();
  const std::string_view percent = rest.substr(1, equals - 1);
  auto [end, err] = std::from_chars(percent.data(), percent.data() + percent.size(), goal.percent);
  if (err != std::errc{} || end != percent.data() + percent.size() || !(goal.percent > 0) ||
      !(goal.percent <= 100))
    return wrong();
  auto most = config::parseDurationMs(rest.substr(equals + 1));
  if (!most || *most == 0) return wrong();
  goal.most_ms = static_cast<double>(*most);
  return goal;
}

std::string textOf(const Goal& goal) {
  return fmt::format("{}:p{:g}={}", goal.of == Goal::Of::receipt ? "receipt" : "first-byte",
                     goal.percent, goal.most_ms > 0 ? msText(goal.most_ms) + "ms" : "automatic");
}

base::Result<BenchReport> sweep(const SweepVerb& verb, const Watch& watch) {
  Environment environment;
  MAYFLY_TRY(auto session, Session::open(verb.socket, verb.load));
  BenchReport out;
  out.verb = "sweep";
  out.options = {{"load", toJson(verb.shape)},       {"mix", toJson(*verb.load.mix)},
                 {"goal", textOf(verb.goal)},        {"from_per_s", verb.search.from_per_s},
                 {"to_per_s", verb.search.to_per_s}, {"precision", verb.search.precision},
                 {"repeats", verb.repeats}};
  Sweep its(verb, watch);
  MAYFLY_CHECK(its.measure(*session));
  out.interrupted = watch.stopped();
  if (auto templates = session->client().templates())
    environment.addDaemon("daemon", session->client().server(), *templates);
  out.environment = environment.stamp();
  its.conclude(out);
  return out;
}

}  // namespace mayfly::bench
