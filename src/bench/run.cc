#include "bench/run.h"

#include <fmt/format.h>

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
  return out + generatorLines(series[0], generators) + seriesNotes(series);
}

}  // namespace

base::Result<BenchReport> run(const RunVerb& verb, const Watch& watch) {
  Environment environment;
  MAYFLY_TRY(auto session, Session::open(verb.socket, verb.load));
  BenchReport out;
  out.verb = "run";
  out.options = {
      {"load", toJson(verb.shape)}, {"mix", toJson(*verb.load.mix)}, {"rounds", verb.rounds}};
  out.series = seriesOf(*verb.load.mix, verb.shape);
  std::vector<Generator> generators;
  watch.tell(
      fmt::format("{} rounds of {}; {}", verb.rounds, verb.load.mix->name, textOf(verb.shape)));
  for (uint32_t i = 0; i < verb.rounds && !watch.stopped(); ++i) {
    MAYFLY_TRY(RoundResult round, session->round(verb.shape, i, watch));
    addRound(out.series, round);
    generators.push_back(round.generator);
    watch.tell(roundLine(i + 1, verb.rounds, round));
  }
  out.interrupted = watch.stopped();
  if (auto templates = session->client().templates())
    environment.addDaemon("daemon", session->client().server(), *templates);
  out.environment = environment.stamp();
  Json& said = out.extra["generator"] = Json::array();
  for (const Generator& g : generators)
    said.push_back({{"limited", g.limited}, {"words", g.words}});
  out.table = runTable(verb, out.series, generators);
  out.plots.emplace_back("latency", svg(percentilePlot(out.series, textOf(verb.shape))));
  return out;
}

}  // namespace mayfly::bench
