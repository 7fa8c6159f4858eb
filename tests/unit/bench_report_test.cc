// Reports, the word on the generator, and the comparison of two reports.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bench/diff.h"
#include "bench/isolation.h"
#include "bench/ladder.h"
#include "bench/output.h"
#include "bench/report.h"
#include "bench/rivals.h"
#include "bench/stats.h"
#include "pool/trace.h"

namespace mayfly::bench {
namespace {

using Values = std::vector<double>;

constexpr uint64_t kMs = 1'000'000;

// A round of 100 tasks around `median_ms`.
load::Report roundOf(double median_ms, uint64_t seed) {
  pool::Random random(seed);
  load::Report r;
  r.began_ns = 1;
  r.ended_ns = 1 + 2'000 * kMs;
  r.sent = r.succeeded = r.recorded = 100;
  for (int i = 0; i < 100; ++i) {
    const double value_ms = median_ms * std::exp(0.2 * random.normal());
    r.latency.record(static_cast<uint64_t>(value_ms * 1e6));
    r.service.record(static_cast<uint64_t>(value_ms * 1e6));
    r.first_byte.record(static_cast<uint64_t>(value_ms * 5e5));
    r.own_lag.record(10'000);
  }
  return r;
}

BenchReport reportOf(double median_ms, uint64_t seed, size_t rounds = 6) {
  BenchReport out;
  out.verb = "run";
  out.environment = {{"commit", "abc"}, {"kernel", "6.1"}};
  out.series.push_back({"all", "print(6*7)", 50, {}, {}, {}});
  for (size_t i = 0; i < rounds; ++i)
    out.series[0].rounds.push_back(roundOf(median_ms, seed * 100 + i));
  return out;
}

Measured measured(const BenchReport& report, const char* file) {
  auto out = readReport(toJson(report).dump(), file);
  EXPECT_TRUE(out) << out.error().message;
  return out ? *out : Measured{};
}

std::string refusal(const std::string& text) {
  auto out = readReport(text, "r.json");
  return out ? "taken" : out.error().message;
}

TEST(BenchReport, ATableHasALineForEachSeriesAndFitsATerminal) {
  BenchReport r = reportOf(4, 1);
  r.series.push_back(
      {"a name that is longer than its column", "", 0, {load::Report{}}, {"a note"}, {}});
  r.series[0].rounds[0].errors["memory"] = 3;
  const std::string table = seriesTable(r.series);
  EXPECT_NE(table.find("\nall                   50.0    600      3"), std::string::npos) << table;
  for (size_t at = 0, end; at < table.size(); at = end + 1) {
    end = table.find('\n', at);
    EXPECT_LE(end - at, 80u) << table;
  }
  const std::string notes = seriesNotes(r.series);
  EXPECT_NE(notes.find("all: 3 of 600 tasks ended as memory\n"), std::string::npos) << notes;
  EXPECT_NE(notes.find("a note"), std::string::npos);
}

TEST(BenchReport, TimesKeepThreeDigits) {
  EXPECT_EQ(msText(0.0814), "0.081");
  EXPECT_EQ(msText(3.806), "3.81");
  EXPECT_EQ(msText(25.34), "25.3");
  EXPECT_EQ(msText(412.4), "412");
}

TEST(BenchReport, AGeneratorThatWasTheLimitIsNamed) {
  load::Report r = roundOf(4, 1);
  EXPECT_FALSE(judgeGenerator(r, 50, 0.1).limited);
  EXPECT_NE(judgeGenerator(r, 50, 0.1).words.find("kept up"), std::string::npos);
  EXPECT_TRUE(judgeGenerator(r, 50, 0.95).limited) << "its core is busy";
  EXPECT_NE(judgeGenerator(r, 0, 0.1).words.find("closed loop"), std::string::npos);
  for (int i = 0; i < 30; ++i) r.own_lag.record(3 * kMs);
  const Generator late = judgeGenerator(r, 50, 0.3);
  EXPECT_TRUE(late.limited);
  EXPECT_NE(late.words.find("late by itself"), std::string::npos);
  load::Report slow = roundOf(100, 1);  // 3 ms of 100 ms do not matter
  for (int i = 0; i < 30; ++i) slow.own_lag.record(3 * kMs);
  EXPECT_FALSE(judgeGenerator(slow, 50, 0.3).limited);
  // Requests that a full daemon held up are not the generator's fault.
  slow.held = 40;
  EXPECT_NE(judgeGenerator(slow, 50, 0.3).words.find("40 of 100 tasks waited"), std::string::npos);
  slow.unsent = 900;
  const Generator behind = judgeGenerator(slow, 50, 0.3);
  EXPECT_FALSE(behind.limited);
  EXPECT_NE(behind.words.find("the daemon was the limit: 900 of 1000"), std::string::npos);
}

TEST(BenchReport, ItsJsonHasRoundsAndTheirSum) {
  const Json json = toJson(reportOf(4, 1, 3));
  EXPECT_EQ(json["format"], "mayfly-bench-report");
  ASSERT_EQ(json["series"].size(), 1u);
  const Json& all = json["series"][0];
  ASSERT_EQ(all["rounds"].size(), 3u);
  EXPECT_EQ(all["rounds"][0]["latency"]["count"], 100);
  EXPECT_FALSE(all["rounds"][0]["latency"].contains("distribution"));
  EXPECT_EQ(all["total"]["latency"]["count"], 300);
  EXPECT_TRUE(all["total"]["latency"].contains("distribution"));
}

TEST(BenchReport, TheStepsOfAllRoundsAreAddedUp) {
  Series s;
  for (uint64_t i = 1; i <= 3; ++i) {
    load::Report r = roundOf(4, i);
    r.steps["claimed"].record(i * kMs);
    s.add(std::move(r));
  }
  EXPECT_TRUE(s.rounds[0].steps.empty());
  EXPECT_EQ(s.total().steps.at("claimed").count(), 3u);
  EXPECT_EQ(s.total().latency.count(), 300u);
}

TEST(BenchReport, PlottedPercentilesNameTheirFigures) {
  const LinePlot plot = percentilePlot(reportOf(4, 1).series, "Latency");
  ASSERT_EQ(plot.lines.size(), 2u);
  EXPECT_EQ(plot.lines[0].label, "receipt");
  EXPECT_NE(plot.description.find("receipt: median 4.0"), std::string::npos) << plot.description;
  EXPECT_GT(*plot.x.most, 99);
  EXPECT_LT(*plot.x.most, 100);
}

// --- diff -----------------------------------------------------------------------------

TEST(BenchDiff, TheSameLoadTwiceIsNoise) {
  int differ = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    auto d = diff(measured(reportOf(4, seed), "a"), measured(reportOf(4, seed + 50), "b"), {});
    ASSERT_TRUE(d) << d.error().message;
    differ += d->differs();
  }
  EXPECT_LE(differ, 2);
}

TEST(BenchDiff, ATenthSlowerIsFoundAndNamedWorse) {
  const Measured a = measured(reportOf(4, 1), "a.json"), b = measured(reportOf(4.6, 2), "b.json");
  auto d = diff(a, b, {});
  ASSERT_TRUE(d) << d.error().message;
  EXPECT_TRUE(d->differs());
  ASSERT_EQ(d->figures.size(), 5u);
  const Difference& receipt = d->figures[2];
  EXPECT_EQ(receipt.name, "all: receipt p50, ms");
  EXPECT_EQ(receipt.kind, Difference::Kind::worse);
  EXPECT_NEAR(receipt.ratio.value, 1.15, 0.06);
  EXPECT_LT(receipt.p, 0.02);
  EXPECT_EQ(d->figures[4].kind, Difference::Kind::noise) << "the rate is the same";
  const std::string table = diffTable(*d, a, b, {});
  EXPECT_NE(table.find("WORSE"), std::string::npos) << table;
  EXPECT_NE(table.find("b differs from a by more than noise"), std::string::npos);
  EXPECT_EQ(diffJson(*d, a, b)["figures"][2]["verdict"], "worse");
  auto back = diff(b, a, {});
  ASSERT_TRUE(back);
  EXPECT_EQ(back->figures[2].kind, Difference::Kind::better);
}

TEST(BenchDiff, ADifferenceWithinTheMarginDoesNotCount) {
  const Measured a = measured(reportOf(4, 1), "a"), b = measured(reportOf(4.6, 2), "b");
  auto d = diff(a, b, {.margin = 0.5});
  ASSERT_TRUE(d);
  EXPECT_FALSE(d->differs());
}

TEST(BenchDiff, TooFewRoundsCannotTellAndTheErrorSaysHowManyCan) {
  auto d = diff(measured(reportOf(4, 1, 3), "a"), measured(reportOf(40, 2, 3), "b"), {});
  ASSERT_FALSE(d);
  EXPECT_EQ(d.error().code, base::Code::invalidArgument);
  EXPECT_NE(d.error().message.find("too few rounds to tell a difference among 5 figures"),
            std::string::npos)
      << d.error().message;
  // 2 / C(10, 5) x 5 is below 5 %, 2 / C(8, 4) x 5 is not.
  EXPECT_EQ(d.error().advice, "Measure both with --rounds 5 or more.");
  EXPECT_TRUE(diff(measured(reportOf(4, 1, 5), "a"), measured(reportOf(40, 2, 5), "b"), {}));
}

TEST(BenchDiff, OtherMachinesAndMissingSeriesAreNoted) {
  BenchReport a = reportOf(4, 1), b = reportOf(4, 2);
  b.environment["kernel"] = "6.18";
  b.series.push_back(b.series[0]);
  b.series[1].name = "large";
  auto d = diff(measured(a, "a"), measured(b, "b"), {});
  ASSERT_TRUE(d);
  const std::string table = diffTable(*d, measured(a, "a"), measured(b, "b"), {});
  EXPECT_NE(table.find("note: kernel: 6.1 and 6.18"), std::string::npos) << table;
  EXPECT_NE(table.find("note: only b has 'large'\n"), std::string::npos) << table;
  for (load::Report& r : b.series[0].rounds) r.first_byte = {};
  auto part = diff(measured(a, "a"), measured(b, "b"), {});
  ASSERT_TRUE(part);
  EXPECT_NE(diffTable(*part, measured(a, "a"), measured(b, "b"), {})
                .find("note: only a has 'all: first byte p99, ms'\n"),
            std::string::npos);
  b.series.erase(b.series.begin());
  auto none = diff(measured(a, "a"), measured(b, "b"), {});
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().message.find("no figure in common"), std::string::npos);
  b.verb = "sweep";
  EXPECT_NE(diff(measured(a, "a"), measured(b, "b"), {}).error().message.find("bench sweep"),
            std::string::npos);
}

std::string notesOf(const BenchReport& a, const BenchReport& b) {
  auto d = diff(measured(a, "a"), measured(b, "b"), {});
  EXPECT_TRUE(d) << d.error().message;
  std::string out;
  if (d)
    for (const std::string& each : d->notes) out += each + "\n";
  return out;
}

TEST(BenchDiff, EachOptionThatDiffersIsNoted) {
  BenchReport a = reportOf(4, 1), b = reportOf(4, 2);
  a.options = {{"load", {{"kind", "poisson"}, {"stated_per_s", 10.0}}}, {"mix", {1, 2}}};
  b.options = a.options;
  EXPECT_EQ(notesOf(a, b), "");
  b.options["load"]["stated_per_s"] = 500.0;
  b.options["mix"][1] = "x\x1b";
  b.options["rounds"] = 6;
  EXPECT_EQ(notesOf(a, b),
            "option load.stated_per_s: 10.0 and 500.0\noption mix.1: 2 and x\\x1b\n"
            "option rounds: none and 6\n");
  b.options = nullptr;
  EXPECT_NE(notesOf(a, b).find("option load.kind: poisson and none\n"), std::string::npos);
  for (int i = 0; i < 100; ++i) a.options[std::to_string(i)] = i;
  const std::string many = notesOf(a, b);
  EXPECT_EQ(std::count(many.begin(), many.end(), '\n'), 21);
  EXPECT_NE(many.find("84 further options differ\n"), std::string::npos) << many;
}

TEST(BenchDiff, WhatMakesFiguresDoubtfulIsNoted) {
  BenchReport a = reportOf(4, 1), b = reportOf(4, 2);
  b.interrupted = true;
  b.extra["generator"] = {{{"limited", true}}, {{"limited", false}}, {{"limited", true}}, 3};
  a.series[0].notes = {"the generator was the limit: it used 99 %", "a word",
                       "the generator was the limit: it used 98 %"};
  b.series[0].rounds[2].recorded = 99;
  EXPECT_EQ(notesOf(a, b),
            "a: 'all': the generator was the limit: it used 98 % (2 times)\n"
            "b: was interrupted: it has what was measured until then\n"
            "b: the generator was the limit in 2 of 4 rounds\n"
            "b: has rounds of fewer than 100 tasks: the p99 of such a round is its slowest task\n");
}

TEST(BenchDiff, AVoidFigureIsNotCompared) {
  BenchReport a = reportOf(4, 1), b = reportOf(4, 2);
  a.series.push_back(a.series[0]);
  b.series.push_back(reportOf(40, 3).series[0]);
  a.series[1].name = b.series[1].name = "made";
  ASSERT_TRUE(diff(measured(a, "a"), measured(b, "b"), {})->differs());
  b.series[1].notes = {"void: 3 of 600 tasks got their clone another way"};
  auto d = diff(measured(a, "a"), measured(b, "b"), {});
  ASSERT_TRUE(d);
  EXPECT_EQ(d->figures.size(), 5u);
  EXPECT_FALSE(d->differs());
  EXPECT_EQ(notesOf(a, b),
            "b: 'made' is not compared, it is void: 3 of 600 tasks got their clone another way\n");
}

// A sweep of three rates whose answer lies between `per_s` and `bad_per_s`; `missed` of the three
// repeats of `per_s` miss the goal all the same.
BenchReport sweepOf(double per_s, double bad_per_s, double goal_ms, uint64_t seed, int missed = 0) {
  BenchReport out = reportOf(4, seed, 3);
  out.verb = "sweep";
  const Series good = out.series[0], bad = reportOf(400, seed, 3).series[0];
  out.series = {good, good, bad};
  const double rates[] = {1, per_s, bad_per_s};
  for (size_t i = 0; i < 3; ++i) {
    out.series[i].stated_per_s = rates[i];
    out.series[i].name = std::to_string(static_cast<int>(rates[i])) + "/s";
  }
  for (int i = 0; i < missed; ++i) out.series[1].rounds[static_cast<size_t>(i)].unsent = 1;
  if (bad_per_s == 0) out.series.pop_back();  // none was bad
  out.extra["sweep"] = {{"goal_percent", 99.0},
                        {"goal_ms", goal_ms},
                        {"goal_of", "receipt"},
                        {"sustainable_per_s", per_s},
                        {"lowest_bad_per_s", bad_per_s > 0 ? Json(bad_per_s) : Json()}};
  return out;
}

TEST(BenchDiff, SweepsOfOneGoalAreComparedByTheirSustainableRates) {
  const auto compared = [](const BenchReport& a, const BenchReport& b) {
    auto d = diff(measured(a, "a"), measured(b, "b"), {});
    EXPECT_TRUE(d) << d.error().message;
    return d ? d->figures.back() : Difference{};
  };
  using Kind = Difference::Kind;
  const BenchReport base = sweepOf(100, 105, 50, 1);
  const Difference worse = compared(base, sweepOf(70, 73, 50, 2));
  EXPECT_EQ(worse.name, "sustainable rate, 1/s");
  EXPECT_EQ(worse.kind, Kind::worse);
  EXPECT_NEAR(worse.ratio.value, 0.7, 1e-9);
  EXPECT_NEAR(worse.ratio.low, 70.0 / 105, 1e-9);
  EXPECT_NEAR(worse.ratio.high, 0.73, 1e-9);
  EXPECT_EQ(compared(base, sweepOf(130, 136, 50, 2)).kind, Kind::better);
  EXPECT_EQ(compared(base, sweepOf(104, 109, 50, 2)).kind, Kind::noise) << "they overlap";
  EXPECT_EQ(compared(base, sweepOf(90, 0, 50, 2)).kind, Kind::noise) << "it may hold more";
  EXPECT_EQ(compared(base, sweepOf(70, 73, 50, 2, 1)).kind, Kind::worse);
  EXPECT_EQ(compared(sweepOf(70, 73, 50, 2), base).kind, Kind::better);
  const Difference unsure = compared(sweepOf(70, 73, 50, 2), sweepOf(100, 105, 50, 1, 1));
  EXPECT_EQ(unsure.kind, Kind::noise) << "one of three repeats missed the goal";
  EXPECT_NEAR(unsure.ratio.low, 1.0 / 73, 1e-9);
  EXPECT_NEAR(unsure.ratio.high, 105.0 / 70, 1e-9);

  const Measured a = measured(base, "a"), b = measured(sweepOf(70, 73, 50, 2), "b");
  auto d = diff(a, b, {});
  ASSERT_TRUE(d);
  const std::string table = diffTable(*d, a, b, {});
  EXPECT_NE(table.find("0.667 to 0.730        -  WORSE\n"), std::string::npos) << table;
  EXPECT_NE(table.find("only the sustainable rate can. Measure both with --repeats 5 or more."),
            std::string::npos)
      << table;
  EXPECT_NE(table.find("note: only a measured 100/s, 105/s\nnote: only b measured 70/s, 73/s\n"),
            std::string::npos)
      << table;
  const Json json = diffJson(*d, a, b);
  EXPECT_TRUE(json["figures"].back()["p"].is_null());
  EXPECT_EQ(json["figures"].back()["verdict"], "worse");
  EXPECT_FALSE(json["figures"][0]["p"].is_null());
}

TEST(BenchDiff, SweepsOfDifferentGoalsSayWhatWouldMakeThemComparable) {
  const BenchReport a = sweepOf(100, 105, 50, 1), b = sweepOf(70, 73, 51, 2);
  auto d = diff(measured(a, "a"), measured(b, "b"), {});
  ASSERT_FALSE(d);
  EXPECT_EQ(d.error().advice, "Measure both with --repeats 5 or more, and with the same --goal.");
  BenchReport odd = a;
  odd.extra["sweep"]["goal_percent"] = 97.0;
  EXPECT_FALSE(diff(measured(odd, "a"), measured(odd, "b"), {})) << "no round has its p97";
  BenchReport c = a;
  c.verb = "isolation";
  d = diff(measured(c, "a"), measured(c, "b"), {});
  ASSERT_FALSE(d);
  EXPECT_EQ(d.error().advice, "Measure both with --pairs 6 or more.");
}

TEST(BenchDiff, WhatIsNoReportIsRefusedInWords) {
  EXPECT_NE(refusal("").find("r.json: is not a JSON object"), std::string::npos);
  EXPECT_NE(refusal("[]").find("not a JSON object"), std::string::npos);
  EXPECT_NE(refusal("{\"format\": 3}").find("'format'"), std::string::npos);
  const std::string head = R"({"format":"mayfly-bench-report","version":)";
  EXPECT_NE(refusal(head + "2}").find("'version' is 2"), std::string::npos);
  EXPECT_NE(refusal(head + "1}").find("'series'"), std::string::npos);
  EXPECT_NE(refusal(head + R"(1,"series":[{"name":1,"rounds":[]}]})").find("without a name"),
            std::string::npos);
  EXPECT_NE(refusal(head + R"(1,"series":[{"name":"x","rounds":3}]})").find("rounds"),
            std::string::npos);
  // Rounds of any shape are read as far as they have numbers.
  auto odd = readReport(
      head + R"(1,"verb":"run","series":[{"name":"x\u001b[","rounds":[1,null,{"latency":7},
      {"latency":{"p50_ns":"no","p99_ns":-4}},{"latency":{"p50_ns":1e6}},{"per_s":[]}]}]})",
      "odd");
  ASSERT_TRUE(odd) << odd.error().message;
  ASSERT_EQ(odd->figures.size(), 1u);
  EXPECT_EQ(odd->figures[0].name, "x\\x1b[: receipt p50, ms");
  EXPECT_EQ(odd->figures[0].rounds, std::vector<double>{1.0});
}

// --- small parts ----------------------------------------------------------------------

TEST(BenchOutput, NamesOfFilesArePlain) {
  EXPECT_EQ(fileName("all"), "all");
  EXPECT_EQ(fileName("../a b/\xc3\xa9"), "..-a-b-");
  EXPECT_EQ(fileName(std::string(1'000, 'x')).size(), 64u);
}

TEST(BenchRivals, TheirCommandsRunTheSameProgramInTheSameRoot) {
  const std::vector<std::string> command = {"python3", "-c", "print(6*7)"};
  const auto bwrap = bwrapCommand("/img", command);
  EXPECT_EQ(bwrap[0], "bwrap");
  EXPECT_EQ(bwrap.back(), "print(6*7)");
  EXPECT_NE(std::find(bwrap.begin(), bwrap.end(), "--clearenv"), bwrap.end());
  const Json oci = Json::parse(ociConfig("/img", command));
  EXPECT_EQ(oci["process"]["args"], Json(command));
  EXPECT_EQ(oci["root"]["path"], "/img");
  EXPECT_EQ(oci["root"]["readonly"], true);
  EXPECT_EQ(oci["linux"]["namespaces"].size(), 5u);
  EXPECT_EQ(findProgram("no-such-program"), "");
  EXPECT_FALSE(findProgram("sh").empty());
}

// Six pairs; the noisy phases take `times` as long to the end, and as long to the first byte.
BenchReport isolated(double times, IsolationVerb& verb) {
  verb.victim_load.mix = std::make_shared<const config::Mix>(noiseMix(Noise::churn, "victim"));
  verb.noise_load.mix = std::make_shared<const config::Mix>(noiseMix(Noise::cpu, "noisy"));
  BenchReport out;
  out.series.resize(3);
  for (size_t side = 0; side < 2; ++side) {
    out.series[side].name = side == 0 ? "quiet" : "noisy";
    for (uint64_t i = 0; i < 6; ++i) {
      load::Report r = roundOf(4, 10 + 2 * i + side);
      if (side == 1) {
        r.latency = {};
        for (int k = 0; k < 100; ++k)
          r.latency.record(
              static_cast<uint64_t>(4e6 * times * (1 + 0.001 * static_cast<double>(k))));
      }
      out.series[side].rounds.push_back(std::move(r));
    }
  }
  return out;
}

TEST(BenchLadder, A99thPercentileIsOfAllRoundsOrIsCalledTheMost) {
  EXPECT_NE(ladderHead(20, 8).find("p99: of all 160 tasks"), std::string::npos)
      << ladderHead(20, 8);
  EXPECT_EQ(ladderHead(20, 8).find("most"), std::string::npos);
  EXPECT_NE(ladderHead(2, 2).find("most: of all 4 tasks"), std::string::npos);
  EXPECT_EQ(ladderHead(2, 2).find("p99"), std::string::npos);
  Series s;
  s.name = "python, parked";
  for (int round = 0; round < 8; ++round) {  // one slow task in each of two rounds, 2 of 160
    load::Report r;
    for (uint64_t i = 0; i < 20; ++i) {
      const uint64_t ns = i == 0 && round < 2 ? (round == 0 ? 90 * kMs : 50 * kMs) : 4 * kMs;
      r.latency.record(ns);
      r.first_byte.record(ns / 4);
    }
    s.add(std::move(r));
  }
  const std::string line = ladderLine(s, 2.5);
  EXPECT_EQ(line.substr(0, 30), "python, parked            1.00") << line;
  EXPECT_NE(line.find(" 12.5 "), std::string::npos) << line;
  EXPECT_NE(line.find(" 50.0 "), std::string::npos) << "the second slowest of 160: " << line;
  EXPECT_EQ(line.find(" 90.0 "), std::string::npos) << line;
  EXPECT_TRUE(line.ends_with("  2.50x\n")) << line;
  EXPECT_TRUE(ladderLine(s, 0).ends_with("  -x\n"));
}

TEST(BenchIsolation, APThatIsCorrectedOverAllFiguresDecides) {
  IsolationVerb verb;
  BenchReport r = isolated(3, verb);
  concludeIsolation(verb, r);
  const Json& all = r.extra["isolation"];
  ASSERT_EQ(all.size(), 4u) << "no claim was seen";
  Values plain;
  for (const char* part : {"first_byte p50", "first_byte p99", "latency p50", "latency p99"}) {
    Values ratios;
    for (size_t i = 0; i < 6; ++i) {
      const auto of = std::string_view(part).starts_with("first") ? &load::Report::first_byte
                                                                  : &load::Report::latency;
      const double percent = std::string_view(part).ends_with("99") ? 99 : 50;
      ratios.push_back(static_cast<double>((r.series[1].rounds[i].*of).percentile_ns(percent)) /
                       static_cast<double>((r.series[0].rounds[i].*of).percentile_ns(percent)));
    }
    plain.push_back(meanRatioP(ratios));
  }
  const Values corrected = holm(plain);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(all[i]["p"].get<double>(), corrected[i], 1e-9) << all[i];
    EXPECT_EQ(all[i]["effect"], i < 2 ? "within noise" : "slower") << all[i];
  }
  EXPECT_GT(corrected[2], plain[2]);
  EXPECT_NE(r.table.find("corrected by Holm over 4\nfigures"), std::string::npos) << r.table;
  size_t width = 0;
  for (char c : r.table) {
    width = c == '\n' ? 0 : width + 1;
    ASSERT_LE(width, 100u) << r.table;
  }
}

TEST(BenchIsolation, OnePairSaysNothing) {
  IsolationVerb verb;
  BenchReport r = isolated(3, verb);
  for (Series& each : r.series) each.rounds.resize(std::min<size_t>(each.rounds.size(), 1));
  concludeIsolation(verb, r);
  for (const Json& each : r.extra["isolation"]) EXPECT_EQ(each["effect"], "too few pairs");
}

TEST(BenchIsolation, ANoiseIsATenantsMix) {
  EXPECT_EQ(noiseMix(Noise::all, "noisy").tasks.size(), 4u);
  const config::Mix cpu = noiseMix(Noise::cpu, "noisy");
  ASSERT_EQ(cpu.tasks.size(), 1u);
  EXPECT_EQ(cpu.tasks[0].name, "cpu");
  EXPECT_EQ(cpu.tasks[0].tenant, "noisy");
}

}  // namespace
}  // namespace mayfly::bench
