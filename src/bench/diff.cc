#include "bench/diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/text.h"

namespace mayfly::bench {
namespace {

using base::Code;
using base::fail;

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
    figures.push_back({fmt::format("{}: {}", name, place.name), true, {}});
  figures.push_back({fmt::format("{}: done/s", name), false, {}});
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

// Tests each figure of both; the p are not corrected yet.
void compareFigures(const Measured& a, const Measured& b, const DiffOptions& options, Diff& out,
                    std::vector<double>& p, std::vector<bool>& more_is_worse, double& least_p) {
  for (const Measured::Figure& ours : a.figures) {
    const auto theirs = std::find_if(b.figures.begin(), b.figures.end(),
                                     [&](const auto& each) { return each.name == ours.name; });
    if (theirs == b.figures.end()) {
      out.notes.push_back(fmt::format("only {} has '{}'", a.file, ours.name));
      continue;
    }
    Difference d;
    d.name = ours.name;
    d.a = median(ours.rounds);
    d.b = median(theirs->rounds);
    d.ratio = ratioOfMedians(ours.rounds, theirs->rounds, options.seed);
    p.push_back(rankSumP(ours.rounds, theirs->rounds));
    least_p = std::min(least_p, leastP(ours.rounds.size(), theirs->rounds.size()));
    more_is_worse.push_back(ours.more_is_worse);
    out.figures.push_back(std::move(d));
  }
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
    readSeries(series, out);
  }
  return out;
}

base::Result<Diff> diff(const Measured& a, const Measured& b, const DiffOptions& options) {
  if (a.verb != b.verb)
    return fail(Code::invalidArgument, fmt::format("{} is of `bench {}`, {} of `bench {}`", a.file,
                                                   a.verb, b.file, b.verb));
  Diff out;
  std::vector<double> p;
  std::vector<bool> more_is_worse;
  double least_p = 1;
  compareFigures(a, b, options, out, p, more_is_worse, least_p);
  for (const Measured::Figure& theirs : b.figures)
    if (std::none_of(a.figures.begin(), a.figures.end(),
                     [&](const auto& each) { return each.name == theirs.name; }))
      out.notes.push_back(fmt::format("only {} has '{}'", b.file, theirs.name));
  if (out.figures.empty())
    return fail(Code::invalidArgument,
                fmt::format("{} and {} have no figure in common", a.file, b.file));
  if (least_p * static_cast<double>(p.size()) > kSignificant)
    return fail(Code::invalidArgument,
                fmt::format("{} and {} have too few rounds to tell a difference among {} figures",
                            a.file, b.file, p.size()),
                fmt::format("Measure both with --rounds {} or more.", roundsFor(p.size())));
  p = holm(p);
  for (size_t i = 0; i < out.figures.size(); ++i) {
    Difference& d = out.figures[i];
    d.p = p[i];
    const double change = d.b / d.a - 1;
    if (d.p > kSignificant || std::abs(change) <= options.margin) continue;
    d.kind = (change > 0) == more_is_worse[i] ? Difference::Kind::worse : Difference::Kind::better;
  }
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
    out += fmt::format("{:<{}}{:>10}{:>10}{:>8.3f}  {:<16}{:>7.4f}  {}\n", each.name, width,
                       msText(each.a), msText(each.b), each.ratio.value,
                       fmt::format("{:.3f} to {:.3f}", each.ratio.low, each.ratio.high), each.p,
                       wordOf(each.kind));
  for (const std::string& note : d.notes) out += "note: " + note + "\n";
  out += fmt::format(
      "\nMedians of rounds. p: exact rank sum over the rounds, corrected by Holm over {} figures;\n"
      "the interval is a bootstrap's. A difference counts if p is at most {} and it is larger\n"
      "than {:.0f} %.\n",
      d.figures.size(), kSignificant, 100 * options.margin);
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
                       {"p", each.p},
                       {"verdict", each.kind == Difference::Kind::noise    ? "noise"
                                   : each.kind == Difference::Kind::better ? "better"
                                                                           : "worse"}});
  return out;
}

}  // namespace mayfly::bench
