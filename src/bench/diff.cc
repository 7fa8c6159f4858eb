#include "bench/diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "base/text.h"
#include "pool/trace.h"

namespace mayfly::bench {
namespace {

using base::Code;
using base::fail;

constexpr double kInfinite = std::numeric_limits<double>::infinity();
constexpr size_t kOptionNotesMax = 20, kOptionsMax = 2'000, kOptionDepthMax = 8;

struct Place {
  const char *part, *key, *name;
};
constexpr Place kPlaces[] = {
    {"first_byte", "p50_ns", "first byte p50, ms"},
    {"first_byte", "p99_ns", "first byte p99, ms"},
    {"latency", "p50_ns", "receipt p50, ms"},
    {"latency", "p99_ns", "receipt p99, ms"},
};

// The number at round[part][key], if it is one and above 0.
double numberAt(const Json& round, const char* part, const char* key) {
  if (!round.is_object() || !round.contains(part) || !round[part].is_object()) return 0;
  const Json& of = round[part];
  if (!of.contains(key) || !of[key].is_number()) return 0;
  const double value = of[key].get<double>();
  return std::isfinite(value) && value > 0 ? value : 0;
}

void readSeries(const Json& series, Measured& out) {
  const std::string name = base::printable(series["name"].get<std::string>(), 64);
  std::vector<Measured::Figure> figures;
  for (const Place& place : kPlaces)
    figures.push_back({name, fmt::format("{}: {}", name, place.name), true, {}});
  figures.push_back({name, fmt::format("{}: done/s", name), false, {}});
  for (const Json& round : series["rounds"]) {
    for (size_t i = 0; i < std::size(kPlaces); ++i)
      if (const double ns = numberAt(round, kPlaces[i].part, kPlaces[i].key); ns > 0)
        figures[i].rounds.push_back(ns / 1e6);
    // A ladder's rungs take turns: their rate says nothing.
    if (out.verb != "ladder" && round.is_object() && round.contains("per_s") &&
        round["per_s"].is_number() && round["per_s"].get<double>() > 0)
      figures.back().rounds.push_back(round["per_s"].get<double>());
  }
  for (Measured::Figure& each : figures)
    if (!each.rounds.empty()) out.figures.push_back(std::move(each));
}

std::string textAt(const Json& object, const char* key) {
  if (!object.is_object() || !object.contains(key)) return "?";
  return base::printable(
      object[key].is_string() ? object[key].get<std::string>() : object[key].dump(), 80);
}

double finiteAt(const Json& object, const char* key, double otherwise) {
  if (!object.contains(key) || !object[key].is_number()) return otherwise;
  const double value = object[key].get<double>();
  return std::isfinite(value) && value >= 0 ? value : otherwise;
}

// What a reader must know of a series; whether its figures are void.
bool readNotes(const Json& series, Measured& out) {
  if (!series.contains("notes") || !series["notes"].is_array()) return false;
  const std::string name = base::printable(series["name"].get<std::string>(), 64);
  bool is_void = false;
  size_t limited = 0;
  std::string words;
  for (const Json& each : series["notes"]) {
    if (!each.is_string()) continue;
    const std::string note = base::printable(each.get<std::string>());
    if (note.starts_with(kVoidNote)) {
      is_void = true;
      out.flags.push_back(fmt::format("'{}' is not compared, it is {}", name, note));
    } else if (note.starts_with(kGeneratorNote)) {
      ++limited;
      words = note;
    }
  }
  if (limited != 0)
    out.flags.push_back(fmt::format("'{}': {}{}", name, words,
                                    limited == 1 ? "" : fmt::format(" ({} times)", limited)));
  if (is_void) out.voids.push_back(name);
  return is_void;
}

bool hasFewTasks(const Json& series) {
  for (const Json& round : series["rounds"])
    if (round.is_object() && finiteAt(round, "recorded", kTasksOfP99) < kTasksOfP99) return true;
  return false;
}

void readFlags(const Json& json, Measured& out) {
  if (json.contains("interrupted") && json["interrupted"] == true)
    out.flags.emplace_back("was interrupted: it has what was measured until then");
  if (json.contains("generator") && json["generator"].is_array()) {
    size_t limited = 0;
    for (const Json& each : json["generator"])
      limited += each.is_object() && each.contains("limited") && each["limited"] == true;
    if (limited != 0)
      out.flags.push_back(
          fmt::format("{} in {} of {} rounds", kGeneratorNote, limited, json["generator"].size()));
  }
}

// Whether a repeat of a sweep's rate kept the goal, as the sweep judges it.
bool keptGoal(const Json& round, const char* part, const char* key, double goal_ms) {
  const double ns = numberAt(round, part, key);
  if (ns <= 0 || ns > goal_ms * 1e6 || finiteAt(round, "unsent", 0) > 0) return false;
  double errors = 0;
  if (round.contains("errors") && round["errors"].is_object())
    for (const Json& count : round["errors"])
      if (count.is_number()) errors += count.get<double>();
  return errors <= kErrorsMax * finiteAt(round, "sent", 0);
}

std::vector<Measured::Sustained::Rate> readRates(const Json& series, const Json& sweep) {
  const double percent = finiteAt(sweep, "goal_percent", 0), ms = finiteAt(sweep, "goal_ms", 0);
  const std::string key = fmt::format("p{:g}_ns", percent);
  const char* part = textAt(sweep, "goal_of") == "receipt" ? "latency" : "first_byte";
  std::vector<Measured::Sustained::Rate> out;
  if (percent != 50 && percent != 90 && percent != 99 && percent != 99.9) return out;
  for (const Json& each : series) {
    Measured::Sustained::Rate rate{finiteAt(each, "stated_per_s", 0), {}};
    for (const Json& round : each["rounds"])
      if (round.is_object()) rate.kept.push_back(keptGoal(round, part, key.c_str(), ms));
    if (rate.per_s > 0 && !rate.kept.empty()) out.push_back(std::move(rate));
  }
  std::sort(out.begin(), out.end(), [](auto& x, auto& y) { return x.per_s < y.per_s; });
  return out;
}

// Needs series that are known to be such.
void readSustained(const Json& json, Measured& out) {
  if (out.verb != "sweep" || !json.contains("sweep") || !json["sweep"].is_object()) return;
  const Json& its = json["sweep"];
  Measured::Sustained s;
  s.goal = fmt::format("p{:g} to the {} at most {:.6g} ms", finiteAt(its, "goal_percent", 0),
                       textAt(its, "goal_of"), finiteAt(its, "goal_ms", 0));
  s.per_s = finiteAt(its, "sustainable_per_s", 0);
  s.bad_per_s = std::max(s.per_s, finiteAt(its, "lowest_bad_per_s", kInfinite));
  s.rates = readRates(json["series"], its);
  out.sustained = s;
}

// The least p that so many rounds can give: all of one side below all of the other.
double leastP(size_t a, size_t b) {
  double divisions = 1;
  for (size_t i = 1; i <= a; ++i) divisions *= static_cast<double>(b + i) / static_cast<double>(i);
  return std::min(1.0, 2 / divisions);
}

// Rounds on each side with which one difference among so many figures can be seen.
size_t roundsFor(size_t figures) {
  size_t rounds = 2;
  while (rounds < kRoundsMax &&
         leastP(rounds, rounds) * static_cast<double>(figures) > kSignificant)
    ++rounds;
  return rounds;
}

const char* roundsOption(const std::string& verb) {
  if (verb == "sweep") return "--repeats";
  return verb == "isolation" ? "--pairs" : "--rounds";
}

const char* wordOf(Difference::Kind kind) {
  switch (kind) {
    case Difference::Kind::better:
      return "better";
    case Difference::Kind::worse:
      return "WORSE";
    case Difference::Kind::noise:
      break;
  }
  return "";
}

void noteEnvironments(const Measured& a, const Measured& b, Diff& out) {
  for (const char* key : {"commit", "build", "compiler", "kernel", "cpu", "cores", "cgroups"}) {
    const std::string ours = textAt(a.environment, key), theirs = textAt(b.environment, key);
    if (ours != theirs) out.notes.push_back(fmt::format("{}: {} and {}", key, ours, theirs));
  }
}

// Each value of nested options by its path, "load.rate".
void flatten(const Json& json, const std::string& path, size_t depth,
             std::map<std::string, std::string>& out) {
  if (out.size() >= kOptionsMax || json.is_null()) return;
  if (!json.is_structured() || depth == 0) {
    out[path] = json.is_string() ? json.get<std::string>()
                                 : json.dump(-1, ' ', false, Json::error_handler_t::replace);
    return;
  }
  for (const auto& [key, value] : json.items())
    flatten(value, path.empty() ? key : path + "." + key, depth - 1, out);
}

void noteOptions(const Measured& a, const Measured& b, Diff& out) {
  std::map<std::string, std::string> ours, theirs;
  flatten(a.options, "", kOptionDepthMax, ours);
  flatten(b.options, "", kOptionDepthMax, theirs);
  std::map<std::string, std::pair<std::string, std::string>> all;
  for (const auto& [path, value] : ours) all[path] = {value, "none"};
  for (const auto& [path, value] : theirs) {
    auto [at, is_new] = all.try_emplace(path, "none", value);
    if (!is_new) at->second.second = value;
  }
  size_t differing = 0;
  for (const auto& [path, values] : all) {
    if (values.first == values.second || ++differing > kOptionNotesMax) continue;
    out.notes.push_back(fmt::format("option {}: {} and {}", base::printable(path, 80),
                                    base::printable(values.first, 80),
                                    base::printable(values.second, 80)));
  }
  if (differing > kOptionNotesMax)
    out.notes.push_back(fmt::format("{} further options differ", differing - kOptionNotesMax));
}

// Names what only `has` has: a whole series once, all rates of a sweep in one line.
void noteMissing(const Measured& has, const Measured& lacks, Diff& out) {
  std::vector<std::string> series;
  for (const Measured::Figure& each : has.figures) {
    const auto same = [&](auto member) {
      return std::any_of(lacks.figures.begin(), lacks.figures.end(),
                         [&](const Measured::Figure& f) { return f.*member == each.*member; });
    };
    if (same(&Measured::Figure::name) ||
        std::find(lacks.voids.begin(), lacks.voids.end(), each.series) != lacks.voids.end())
      continue;
    if (same(&Measured::Figure::series))
      out.notes.push_back(fmt::format("only {} has '{}'", has.file, each.name));
    else if (series.empty() || series.back() != each.series)
      series.push_back(each.series);
  }
  if (has.verb != "sweep") {
    for (const std::string& name : series)
      out.notes.push_back(fmt::format("only {} has '{}'", has.file, name));
  } else if (!series.empty()) {
    std::string rates;
    for (const std::string& name : series) rates += (rates.empty() ? "" : ", ") + name;
    out.notes.push_back(fmt::format("only {} measured {}", has.file, rates));
  }
}

// The figures of both that are tested by their rounds.
struct Tests {
  std::vector<double> p;  // not corrected
  std::vector<bool> more_is_worse;
  double least_p = 1;  // that so many rounds can give

  bool canTell() const { return least_p * static_cast<double>(p.size()) <= kSignificant; }
};

Tests compareFigures(const Measured& a, const Measured& b, const DiffOptions& options, Diff& out) {
  Tests tests;
  for (const Measured::Figure& ours : a.figures) {
    const auto theirs = std::find_if(b.figures.begin(), b.figures.end(),
                                     [&](const auto& each) { return each.name == ours.name; });
    if (theirs == b.figures.end()) continue;
    Difference d;
    d.name = ours.name;
    d.a = median(ours.rounds);
    d.b = median(theirs->rounds);
    d.ratio = ratioOfMedians(ours.rounds, theirs->rounds, options.seed);
    tests.p.push_back(rankSumP(ours.rounds, theirs->rounds));
    tests.least_p = std::min(tests.least_p, leastP(ours.rounds.size(), theirs->rounds.size()));
    tests.more_is_worse.push_back(ours.more_is_worse);
    out.figures.push_back(std::move(d));
  }
  return tests;
}

void judgeFigures(const Tests& tests, double margin, Diff& out) {
  const std::vector<double> p = holm(tests.p);
  for (size_t i = 0; i < p.size(); ++i) {
    Difference& d = out.figures[i];
    d.p = p[i];
    const double change = d.b / d.a - 1;
    if (d.p > kSignificant || std::abs(change) <= margin) continue;
    d.kind =
        (change > 0) == tests.more_is_worse[i] ? Difference::Kind::worse : Difference::Kind::better;
  }
}

// The highest rate that is good, and the lowest that is not, if each rate's repeats are drawn
// again.
std::pair<double, double> sustainedAgain(const Measured::Sustained& s, pool::Random& random) {
  double best = 0;
  for (const auto& [per_s, kept] : s.rates) {
    size_t good = 0;
    for (size_t i = 0; i < kept.size(); ++i) good += kept[random.next() % kept.size()];
    if (2 * good <= kept.size()) return {best, per_s};
    best = per_s;
  }
  return {best, kInfinite};
}

// The ratio of b's sustainable rate to a's. Each lies somewhere between the rate that was good and
// the one that was not.
Interval ratioOfSustained(const Measured::Sustained& a, const Measured::Sustained& b,
                          uint64_t seed) {
  pool::Random random(seed);
  std::vector<double> low, high;
  for (uint32_t i = 0; i < kResamples; ++i) {
    const auto [best_a, bad_a] = sustainedAgain(a, random);
    const auto [best_b, bad_b] = sustainedAgain(b, random);
    low.push_back(best_b / bad_a);
    high.push_back(best_a > 0 ? bad_b / best_a : kInfinite);
  }
  std::sort(low.begin(), low.end());
  std::sort(high.begin(), high.end());
  const double value = a.per_s > 0 ? b.per_s / a.per_s : b.per_s > 0 ? kInfinite : 1;
  return {value, low[kResamples / 40], high[kResamples - 1 - kResamples / 40]};
}

// Whether the rates are comparable; then they are the last figure.
bool compareSustained(const Measured& a, const Measured& b, const DiffOptions& options, Diff& out) {
  if (!a.sustained || !b.sustained) return false;
  const Measured::Sustained &x = *a.sustained, &y = *b.sustained;
  if (x.goal != y.goal) {
    out.notes.push_back(
        fmt::format("the sustainable rates are not compared, as the goals differ: {}, and {}. Give "
                    "both sweeps one --goal.",
                    x.goal, y.goal));
    return false;
  }
  if (x.rates.empty() || y.rates.empty()) {
    out.notes.emplace_back(
        "the sustainable rates are not compared: rounds have p50, p90, p99 and p99.9 only");
    return false;
  }
  Difference d;
  d.name = "sustainable rate, 1/s";
  d.test = Difference::Test::repeats;
  d.a = x.per_s;
  d.b = y.per_s;
  d.ratio = ratioOfSustained(x, y, options.seed);
  if (std::abs(d.ratio.value - 1) > options.margin) {
    if (d.ratio.low >= 1) d.kind = Difference::Kind::better;
    if (d.ratio.high <= 1) d.kind = Difference::Kind::worse;
  }
  out.figures.push_back(std::move(d));
  return true;
}

}  // namespace

bool Diff::differs() const {
  return std::any_of(figures.begin(), figures.end(),
                     [](const Difference& d) { return d.kind != Difference::Kind::noise; });
}

base::Result<Measured> readReport(std::string_view text, std::string_view file) {
  Measured out;
  out.file = base::printable(file);
  auto wrong = [&](const std::string& why) {
    return fail(Code::invalidArgument, fmt::format("{}: {}", out.file, why),
                "Give the report.json that `mayfly bench run --out DIR` wrote.");
  };
  if (text.size() > kReportBytesMax)
    return wrong(fmt::format("has more than {}", base::humanBytes(kReportBytesMax)));
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return wrong("is not a JSON object");
  if (textAt(json, "format") != kFormat) return wrong("'format' is not \"mayfly-bench-report\"");
  if (textAt(json, "version") != std::to_string(kFormatVersion))
    return wrong(fmt::format("'version' is {}; this program reads {}", textAt(json, "version"),
                             kFormatVersion));
  out.verb = textAt(json, "verb");
  if (json.contains("environment")) out.environment = json["environment"];
  if (json.contains("options")) out.options = json["options"];
  readFlags(json, out);
  bool few_tasks = false;
  if (!json.contains("series") || !json["series"].is_array() ||
      json["series"].size() > kReportSeriesMax)
    return wrong(fmt::format("'series' is not a list of at most {}", kReportSeriesMax));
  for (const Json& series : json["series"]) {
    if (!series.is_object() || !series.contains("name") || !series["name"].is_string() ||
        !series.contains("rounds") || !series["rounds"].is_array() ||
        series["rounds"].size() > kRoundsMax)
      return wrong(
          fmt::format("'series' has one without a name or with no list of at most {} "
                      "rounds",
                      kRoundsMax));
    if (readNotes(series, out)) continue;
    readSeries(series, out);
    few_tasks |= hasFewTasks(series);
  }
  readSustained(json, out);
  if (few_tasks)
    out.flags.push_back(fmt::format(
        "has rounds of fewer than {} tasks: the p99 of such a round is its slowest task",
        kTasksOfP99));
  return out;
}

base::Result<Diff> diff(const Measured& a, const Measured& b, const DiffOptions& options) {
  if (a.verb != b.verb)
    return fail(Code::invalidArgument, fmt::format("{} is of `bench {}`, {} of `bench {}`", a.file,
                                                   a.verb, b.file, b.verb));
  Diff out;
  const Tests tests = compareFigures(a, b, options, out);
  const bool sustained = compareSustained(a, b, options, out);
  if (out.figures.empty())
    return fail(Code::invalidArgument,
                fmt::format("{} and {} have no figure in common", a.file, b.file));
  if (!tests.canTell()) {
    const std::string few =
        fmt::format("{} and {} have too few rounds to tell a difference among {} figures", a.file,
                    b.file, tests.p.size());
    const std::string advice = fmt::format("Measure both with {} {} or more", roundsOption(a.verb),
                                           roundsFor(tests.p.size()));
    if (!sustained)
      return fail(Code::invalidArgument, few,
                  advice + (a.verb == "sweep" ? ", and with the same --goal." : "."));
    if (!tests.p.empty())
      out.notes.push_back(fmt::format("{}: only the sustainable rate can. {}.", few, advice));
  }
  judgeFigures(tests, options.margin, out);
  for (const Measured* each : {&a, &b})
    for (const std::string& flag : each->flags)
      out.notes.push_back(fmt::format("{}: {}", each->file, flag));
  noteMissing(a, b, out);
  noteMissing(b, a, out);
  noteOptions(a, b, out);
  noteEnvironments(a, b, out);
  return out;
}

std::string diffTable(const Diff& d, const Measured& a, const Measured& b,
                      const DiffOptions& options) {
  size_t width = 8;
  for (const Difference& each : d.figures) width = std::max(width, each.name.size());
  std::string out = fmt::format("a: {}\nb: {}\n\n{:<{}}{:>10}{:>10}{:>8}  {:<16}{:>7}\n", a.file,
                                b.file, "", width, "a", "b", "b/a", "95 %", "p");
  for (const Difference& each : d.figures)
    out += fmt::format("{:<{}}{:>10}{:>10}{:>8.3f}  {:<16}{:>7}  {}\n", each.name, width,
                       msText(each.a), msText(each.b), each.ratio.value,
                       fmt::format("{:.3f} to {:.3f}", each.ratio.low, each.ratio.high),
                       each.test == Difference::Test::repeats ? "-" : fmt::format("{:.4f}", each.p),
                       wordOf(each.kind));
  for (const std::string& note : d.notes) out += "note: " + note + "\n";
  out += fmt::format(
      "\nMedians of rounds. p: exact rank sum over the rounds, corrected by Holm over {} figures;\n"
      "the interval is a bootstrap's. A difference counts if p is at most {} and it is larger\n"
      "than {:.0f} %.\n",
      std::count_if(d.figures.begin(), d.figures.end(),
                    [](const Difference& each) { return each.test == Difference::Test::rankSum; }),
      kSignificant, 100 * options.margin);
  if (!d.figures.empty() && d.figures.back().test == Difference::Test::repeats)
    out +=
        "A sustainable rate has no p. Its interval is a bootstrap's over the repeats of each rate, "
        "as "
        "wide\nas the gaps between the rates; it counts if it is all on one side of 1.\n";
  return out + (d.differs() ? "b differs from a by more than noise\n"
                            : "no difference that is more than noise\n");
}

Json diffJson(const Diff& d, const Measured& a, const Measured& b) {
  Json out = {{"a", a.file}, {"b", b.file}, {"differs", d.differs()}, {"notes", d.notes}};
  Json& figures = out["figures"] = Json::array();
  for (const Difference& each : d.figures)
    figures.push_back({{"name", each.name},
                       {"a", each.a},
                       {"b", each.b},
                       {"ratio", each.ratio.value},
                       {"low", each.ratio.low},
                       {"high", each.ratio.high},
                       {"p", each.test == Difference::Test::repeats ? Json() : Json(each.p)},
                       {"verdict", each.kind == Difference::Kind::noise    ? "noise"
                                   : each.kind == Difference::Kind::better ? "better"
                                                                           : "worse"}});
  return out;
}

}  // namespace mayfly::bench
