// Reports, the word on the generator, and the comparison of two reports.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bench/diff.h"
#include "bench/isolation.h"
#include "bench/output.h"
#include "bench/report.h"
#include "bench/rivals.h"
#include "pool/trace.h"

namespace mayfly::bench {
namespace {

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
  EXPECT_NE(table.find("only b has 'large: first byte p50, ms'"), std::string::npos) << table;
  b.series.erase(b.series.begin());
  auto none = diff(measured(a, "a"), measured(b, "b"), {});
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().message.find("no figure in common"), std::string::npos);
  b.verb = "sweep";
  EXPECT_NE(diff(measured(a, "a"), measured(b, "b"), {}).error().message.find("bench sweep"),
            std::string::npos);
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

TEST(BenchIsolation, ANoiseIsATenantsMix) {
  EXPECT_EQ(noiseMix(Noise::all, "noisy").tasks.size(), 4u);
  const config::Mix cpu = noiseMix(Noise::cpu, "noisy");
  ASSERT_EQ(cpu.tasks.size(), 1u);
  EXPECT_EQ(cpu.tasks[0].name, "cpu");
  EXPECT_EQ(cpu.tasks[0].tenant, "noisy");
}

}  // namespace
}  // namespace mayfly::bench
