#include "bench/run.h"

#include <fmt/format.h>

#include <algorithm>

#include "bench/environment.h"

namespace mayfly::bench {
namespace {

// Each round that a reader must know of; else the one in which the generator was latest.
std::string generatorLines(const Series& all, const std::vector<Generator>& generators) {
  std::string out;
  size_t latest = 0;
  auto late_ns = [&](size_t i) { return all.rounds[i].own_lag.percentile_ns(90); };
  for (size_t i = 0; i < generators.size(); ++i) {
    if (!generators[i].plain) out += fmt::format("round {}: {}\n", i + 1, generators[i].words);
    if (late_ns(i) > late_ns(latest)) latest = i;
  }
  if (out.empty() && !generators.empty()) out = generators[latest].words + "\n";
  return out;
}

std::string runTable(const RunVerb& verb, const std::vector<Series>& series,
                     const std::vector<Generator>& generators) {
  const double stated = verb.shape.stated_per_s();
  const size_t rounds = series[0].rounds.size();
  std::string out = fmt::format("{}\n{}; {} round{} of {:g} s, each after {:g} s of warm-up\n\n",
                                verb.load.mix->name, textOf(verb.shape), rounds,
                                rounds == 1 ? "" : "s", verb.shape.time_s, verb.shape.warm_up_s);
  out += seriesTable(series) + "\n";
  if (stated > 0) {
    const double planned_s = verb.shape.warm_up_s + verb.shape.time_s;
    const double planned = series[0].median(
        [&](const load::Report& r) { return static_cast<double>(r.sent + r.unsent) / planned_s; });
    const double achieved = series[0].median([](const load::Report& r) { return r.per_s(); });
    out += fmt::format("stated {:.1f}/s, planned {:.1f}/s (what was drawn), achieved {:.1f}/s\n",
                       stated, planned, achieved);
  }
  const bool few =
      std::any_of(series[0].rounds.begin(), series[0].rounds.end(), [](const load::Report& r) {
        return r.latency.count() != 0 && r.latency.count() < kTasksOfP99;
      });
  if (few)
    out += fmt::format("a round of fewer than {} tasks: its p99 is its slowest one\n", kTasksOfP99);
  return out + generatorLines(series[0], generators) + seriesNotes(series);
}

// One daemon's half of the measurement.
struct Side {
  std::unique_ptr<Session> session;
  BenchReport report;
  std::vector<Generator> generators;
};

base::Result<Side> openSide(const RunVerb& verb, const std::string& socket) {
  Side side;
  MAYFLY_TRY(side.session, Session::open(socket, verb.load));
  side.report.verb = "run";
  side.report.options = {
      {"load", toJson(verb.shape)}, {"mix", toJson(*verb.load.mix)}, {"rounds", verb.rounds}};
  side.report.series = seriesOf(*verb.load.mix, verb.shape);
  return side;
}

base::Status measureRound(const RunVerb& verb, uint32_t nth, Side& side, const char* name,
                          const Watch& watch) {
  MAYFLY_TRY(RoundResult round, side.session->round(verb.shape, nth, watch));
  addRound(side.report.series, round);
  side.generators.push_back(round.generator);
  watch.tell(name + roundLine(nth + 1, verb.rounds, round));
  return base::Unit{};
}

void concludeSide(const RunVerb& verb, Environment environment, Side& side, const Watch& watch) {
  BenchReport& out = side.report;
  out.interrupted = watch.stopped();
  if (auto templates = side.session->client().templates())
    environment.addDaemon("daemon", side.session->client().server(), *templates);
  out.environment = environment.stamp();
  Json& said = out.extra["generator"] = Json::array();
  for (const Generator& g : side.generators)
    said.push_back({{"limited", g.limited}, {"words", g.words}});
  out.table = runTable(verb, out.series, side.generators);
  out.plots.emplace_back("latency", svg(percentilePlot(out.series, textOf(verb.shape))));
}

}  // namespace

base::Result<std::vector<BenchReport>> run(const RunVerb& verb, const Watch& watch) {
  const Environment environment;
  std::vector<Side> sides;
  for (const std::string& socket : {verb.socket, verb.against}) {
    if (socket.empty()) continue;
    MAYFLY_TRY(Side side, openSide(verb, socket));
    sides.push_back(std::move(side));
  }
  watch.tell(
      fmt::format("{} rounds of {}; {}", verb.rounds, verb.load.mix->name, textOf(verb.shape)));
  pool::Random order(verb.shape.seed);
  for (uint32_t i = 0; i < verb.rounds; ++i) {
    const size_t first = sides.size() == 2 ? order.next() & 1 : 0;
    for (size_t k = 0; k < sides.size() && !watch.stopped(); ++k) {
      const size_t at = (first + k) % sides.size();
      const char* name = sides.size() == 1 ? "" : at == 0 ? "a, " : "b, ";
      MAYFLY_CHECK(measureRound(verb, i, sides[at], name, watch));
    }
  }
  std::vector<BenchReport> out;
  for (Side& side : sides) {
    concludeSide(verb, environment, side, watch);
    out.push_back(std::move(side.report));
  }
  return out;
}

}  // namespace mayfly::bench
