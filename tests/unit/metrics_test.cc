#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <set>
#include <string>

#include "metrics/board.h"
#include "metrics/busiest.h"
#include "metrics/exposition.h"
#include "metrics/recorder.h"

namespace mayfly::metrics {
namespace {

using base::Phase;
using base::Verdict;
using testing::HasSubstr;
using testing::Not;

constexpr uint64_t kMs = 1'000'000, kSecond = 1'000 * kMs;

// A recorder with two templates and a clock that the test sets.
struct Rig {
  Moment now{1'000 * kSecond, 1'700'000'000'000};
  Recorder recorder;
  base::CoreReport report;

  explicit Rig(RecorderOptions options = {.instance = "unit", .version = "1"})
      : recorder(std::move(options), [this] { return now; }) {
    for (const char* name : {"python", "node"}) {
      recorder.addTemplate(name, "fork");
      report.templates.emplace_back().name = name;
    }
    report.settled = report.serving = true;
  }
  void pass(uint64_t ms) { now.ns += ms * kMs, now.ms += ms; }
  base::TaskLabels labels(std::string_view tmpl = "python", std::string_view tenant = "") const {
    return {.task = 7,
            .template_name = tmpl,
            .mechanism = "fork",
            .user = "uid:1",
            .tenant = tenant,
            .launch = base::Launch::parked};
  }
  // Steps of 1, 2, 3... ms from one phase to the next; the first byte comes 4 ms after the start.
  static base::Phases phases() {
    base::Phases p{};
    uint64_t at = kSecond;
    for (size_t i = 0; i < base::kPhases; ++i) p[i] = at += i * kMs;
    return p;
  }
  void end(const base::TaskLabels& t, Verdict verdict = Verdict::succeeded) {
    recorder.taskAccepted(t);
    recorder.taskEnded(t, verdict, {}, phases());
  }
  SnapshotPtr snapshot() { return recorder.snapshot(report, {}, false); }
  std::string text() { return prometheusText(*snapshot(), {}); }
};

size_t linesOf(const std::string& text) {
  return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
}

TEST(Histogram, EachTimeFallsIntoTheFirstBucketWhoseBoundIsNotBelowIt) {
  EXPECT_EQ(bucketOf(0), 0u);
  for (size_t i = 0; i < kBounds; ++i) {
    EXPECT_EQ(bucketOf(bound_ns(i)), i);
    EXPECT_EQ(bucketOf(bound_ns(i) + 1), i + 1);
  }
  EXPECT_EQ(bucketOf(UINT64_MAX), kBounds);
  EXPECT_EQ(bound_ns(0), 50'000u);
  EXPECT_GT(bound_ns(kBounds - 1), 120 * kSecond) << "buckets reach minutes";
}

TEST(Histogram, QuantileIsInterpolatedWithinItsBucketAsPrometheusDoesIt) {
  Histogram h;
  EXPECT_EQ(h.quantile_s(0.5), 0);
  for (int i = 0; i < 10; ++i) h.add(150'000);  // in (100 us, 200 us]
  EXPECT_DOUBLE_EQ(h.quantile_s(0.5), 0.00015);
  EXPECT_DOUBLE_EQ(h.quantile_s(1), 0.0002);
  h.add(UINT64_MAX / 2);
  EXPECT_DOUBLE_EQ(h.quantile_s(1), static_cast<double>(bound_ns(kBounds - 1)) / 1e9);
}

TEST(Busiest, FirstNamesTakeTheFreePlacesAndKeepThem) {
  Busiest b(2);
  EXPECT_TRUE(b.count("u", "a", 1).is_new);
  EXPECT_TRUE(b.count("u", "b", 1).is_new);
  EXPECT_EQ(b.count("u", "a", 1).slot, 0u);
  EXPECT_FALSE(b.count("u", "b", 1).is_new);
  EXPECT_EQ(b.count("u", "c", 1).slot, b.slotsMax()) << "no place is free";
  EXPECT_EQ(b.find("v", "a"), b.slotsMax()) << "another user's tenant of that name";
}

TEST(Busiest, InventedNamesTakeAtMostOnePlaceAMinuteAndNoBusyNamesPlace) {
  Busiest b(4);
  std::set<std::string> seen;
  uint64_t now_ns = kSecond;
  for (int minute = 0; minute < 5; ++minute)
    for (int i = 0; i < 20'000; ++i, now_ns += 3 * kMs) {
      for (const char* busy : {"one", "two", "three", "four"}) {
        const auto place = b.count("u", busy, now_ns);
        if (place.is_new) seen.insert(busy);
      }
      const std::string name = "invented" + std::to_string(minute) + "-" + std::to_string(i);
      if (b.count("evil", name, now_ns).is_new) seen.insert(name);
    }
  EXPECT_EQ(seen, (std::set<std::string>{"one", "two", "three", "four"}));
}

TEST(Busiest, FewInventedNamesTakeFreePlacesAndGiveThemToBusierOnesOneAMinute) {
  Busiest b(2);
  b.count("evil", "1", 1), b.count("evil", "2", 1);
  uint64_t now_ns = kSecond;
  int swaps = 0;
  for (int i = 0; i < 100; ++i, now_ns += kMs)
    for (const char* name : {"good", "better"}) swaps += b.count("u", name, now_ns).is_new ? 1 : 0;
  EXPECT_EQ(swaps, 1);
  now_ns += Busiest::kSwapPause_ns;
  for (int i = 0; i < 100; ++i, now_ns += kMs)
    for (const char* name : {"good", "better"}) swaps += b.count("u", name, now_ns).is_new ? 1 : 0;
  EXPECT_EQ(swaps, 2);
  EXPECT_LT(b.find("u", "good"), b.slotsMax());
  EXPECT_LT(b.find("u", "better"), b.slotsMax());
}

TEST(Busiest, ChurnThatIsAlwaysBusierTakesABoundedNumberOfPlacesADay) {
  Busiest b(1);
  b.count("u", "first", 1);
  uint64_t now_ns = kSecond;
  for (int day = 0; day < 2; ++day) {
    uint32_t swaps = 0;
    for (int minute = 0; minute < 24 * 60; ++minute, now_ns += Busiest::kSwapPause_ns)
      for (int i = 0; i < 30; ++i)
        swaps += b.count("u", std::to_string(minute % 7), now_ns).is_new ? 1 : 0;
    EXPECT_EQ(swaps, Busiest::kSwapsOfDay) << day;
  }
}

TEST(Busiest, NoPlacesAtAllIsAllowed) {
  Busiest b(0);
  EXPECT_EQ(b.count("u", "a", 1).slot, 0u);
  EXPECT_EQ(b.find("u", "a"), 0u);
}

TEST(Recorder, PartsOfATasksTimeAreCountedByLaunchAndOutcome) {
  Rig rig;
  rig.end(rig.labels());
  rig.end(rig.labels(), Verdict::memory);
  const auto s = rig.snapshot();
  const auto& of = s->templates[0].parts[static_cast<size_t>(base::Launch::parked)];
  const auto& good = *of[static_cast<size_t>(Outcome::succeeded)];
  const auto& capped = *of[static_cast<size_t>(Outcome::capped)];
  const auto sum = [](const Template::Parts& parts, Part part) {
    return parts[static_cast<size_t>(part)].sum_ns / kMs;
  };
  EXPECT_EQ(sum(good, Part::queue), 1u);
  EXPECT_EQ(sum(good, Part::claim), 2u + 3 + 4 + 5);
  EXPECT_EQ(sum(good, Part::start), 1u + 2 + 3 + 4 + 5);
  EXPECT_EQ(sum(good, Part::firstByte), 6u);
  EXPECT_EQ(sum(good, Part::run), 6u + 7);
  EXPECT_EQ(sum(good, Part::reap), 8u);
  EXPECT_EQ(good[static_cast<size_t>(Part::kill)].count(), 0u) << "nobody killed it";
  EXPECT_EQ(sum(capped, Part::kill), 8u);
  EXPECT_EQ(capped[static_cast<size_t>(Part::reap)].count(), 0u);
  EXPECT_EQ(sum(good, Part::receipt), 9u);
  EXPECT_EQ(sum(good, Part::whole), 45u);
  EXPECT_EQ(s->templates[1].parts[0][0], nullptr);
  EXPECT_EQ(s->templates[0].ended(), 2u);
  EXPECT_EQ(s->templates[0].open, 0u);
}

TEST(Recorder, ATaskWhoseBoxIsNotProvenGoneHasNoTimeOfAReceipt) {
  Rig rig;
  base::Phases unproven = rig.phases();
  unproven[static_cast<size_t>(Phase::receipt)] = 0;
  rig.recorder.taskEnded(rig.labels(), Verdict::succeeded, {}, unproven);
  const auto s = rig.snapshot();
  const auto& parts = *s->templates[0].parts[static_cast<size_t>(base::Launch::parked)][0];
  EXPECT_EQ(parts[static_cast<size_t>(Part::reap)].count(), 1u);
  EXPECT_EQ(parts[static_cast<size_t>(Part::receipt)].count(), 0u);
  EXPECT_EQ(parts[static_cast<size_t>(Part::whole)].count(), 0u);
  EXPECT_EQ(s->templates[0].ended(), 1u);
}

TEST(Recorder, ASnapshotNeverChangesAndSharesWhatHasNotChanged) {
  Rig rig;
  rig.end(rig.labels());
  const auto parts = [](const SnapshotPtr& s) {
    return s->templates[0].parts[static_cast<size_t>(base::Launch::parked)][0];
  };
  const SnapshotPtr first = rig.snapshot(), second = rig.snapshot();
  EXPECT_EQ(parts(first), parts(second)) << "one object";
  rig.end(rig.labels());
  const SnapshotPtr third = rig.snapshot();
  EXPECT_EQ((*parts(first))[0].count(), 1u);
  EXPECT_EQ((*parts(third))[0].count(), 2u);
  EXPECT_EQ(third->serial, first->serial + 2);
}

TEST(Recorder, HostileNamesMakeNoNewSeries) {
  Rig rig({.tenants_max = 5});
  for (int i = 0; i < 5; ++i) rig.end(rig.labels("python", "tenant" + std::to_string(i)));
  for (size_t code = 0; code < kCodes; ++code)
    for (size_t by = 0; by < base::kRefusedBys; ++by)
      rig.recorder.taskRefused(rig.labels(), codeName(code), static_cast<base::RefusedBy>(by));
  rig.recorder.callAnswered("Mayfly.submit", 1);
  const size_t lines = linesOf(rig.text());
  for (int i = 0; i < 10'000; ++i) {
    const std::string name = "evil\n\"{" + std::to_string(i);
    rig.end(rig.labels("python", name));
    rig.end(rig.labels(name, name));
    rig.recorder.taskRefused(rig.labels(name, name), name, base::RefusedBy::tenant);
    rig.recorder.taskRefused(rig.labels("python", name), name, base::RefusedBy::tenant);
    rig.recorder.connectionRefused(name, name);
    rig.recorder.callRefused(name, name);
    rig.recorder.receipt(name, {});
    rig.recorder.cloneMade(name, {});
    rig.recorder.templateState(name, name, name);
    rig.recorder.brokerDown(name, name);
    rig.recorder.sessionOpened(name, 1);
  }
  EXPECT_LE(linesOf(rig.text()), lines + 2) << "the codes `other` of connections and calls";
  for (int i = 0; i < 1'000; ++i) rig.recorder.callAnswered("m" + std::to_string(i), 1);
  EXPECT_LE(rig.snapshot()->rpc.methods.size(), 65u);
  EXPECT_LE(rig.snapshot()->notices.size(), kNotices);
}

TEST(Recorder, UsualRefusalsAreCountedFromZeroAndOthersOnceTheyCome) {
  using base::RefusedBy;
  Rig rig;
  const auto series = [](std::string_view code, RefusedBy by) {
    return "mayfly_tasks_refused_total{template=\"node\",code=\"" + std::string(code) +
           "\",reason=\"" + std::string(name(by)) + "\"} ";
  };
  for (RefusedBy by : {RefusedBy::connection, RefusedBy::tenant, RefusedBy::user, RefusedBy::host})
    EXPECT_THAT(rig.text(), HasSubstr(series("resourceExhausted", by) + "0\n"));
  EXPECT_THAT(rig.text(), HasSubstr(series("unavailable", RefusedBy::notServing) + "0\n"));
  EXPECT_THAT(rig.text(), HasSubstr(series("invalidArgument", RefusedBy::request) + "0\n"));
  EXPECT_THAT(rig.text(), HasSubstr(series("notFound", RefusedBy::request) + "0\n"));
  EXPECT_THAT(rig.text(), Not(HasSubstr(series("internal", RefusedBy::other))));
  rig.recorder.taskRefused(rig.labels("node"), "internal", RefusedBy::other);
  rig.recorder.taskRefused(rig.labels("node"), "resourceExhausted", RefusedBy::user);
  EXPECT_THAT(rig.text(), HasSubstr(series("internal", RefusedBy::other) + "1\n"));
  EXPECT_THAT(rig.text(), HasSubstr(series("resourceExhausted", RefusedBy::user) + "1\n"));
}

TEST(Recorder, NamesOfTenantsAreEscapedInTheText) {
  Rig rig;
  rig.end(rig.labels("python", "a\"} 1\nmayfly_evil 2\\"));
  const std::string text = rig.text();
  EXPECT_THAT(text, HasSubstr(R"(tenant="a\"} 1\nmayfly_evil 2\\")"));
  EXPECT_THAT(text, Not(HasSubstr("\nmayfly_evil")));
}

TEST(Recorder, TheBusiestTenantsComeFirstAndAllOthersLast) {
  Rig rig({.tenants_max = 2});
  for (const char* tenant : {"a", "b", "b", "c"}) rig.end(rig.labels("python", tenant));
  rig.report.accounts = {{"uid:1", "b", 3, 4}, {"uid:1", "c", 1, 0}, {"uid:1", "d", 0, 2}};
  const auto s = rig.snapshot();
  ASSERT_EQ(s->tenants.size(), 3u);
  EXPECT_EQ(s->tenants[0].tenant, "b");
  EXPECT_EQ(s->tenants[0].queued + s->tenants[0].running, 7u);
  EXPECT_EQ(s->tenants[1].tenant, "a");
  EXPECT_TRUE(s->tenants[2].others);
  EXPECT_EQ(s->tenants[2].accepted, 1u);
  EXPECT_EQ(s->tenants[2].queued, 1u);
  EXPECT_EQ(s->tenants[2].running, 2u);
  EXPECT_THAT(rig.text(),
              HasSubstr(R"(mayfly_tenant_tasks{user="other",tenant="other",state="queued"} 1)"));
}

TEST(Recorder, TicksHoldTheRecentPastAndNoMore) {
  Rig rig;
  rig.pass(kTickMs);
  rig.end(rig.labels());
  rig.recorder.cloneClaimed(rig.labels(), base::ClaimKind::waited);
  rig.recorder.loopLag(3 * kMs);
  rig.report.templates[1].boxes = 1;
  rig.recorder.tick(rig.report, {.cpu_s = 1, .spawner_cpu_s = 0.5});
  rig.report.templates[1].boxes = 0;
  for (size_t i = 0; i < kTicks + 5; ++i) {
    const auto s = rig.snapshot();
    if (i == 0) {
      ASSERT_EQ(s->ticks.size(), 1u);
      const Tick& t = *s->ticks[0];
      EXPECT_EQ(t.length_ms, kTickMs);
      EXPECT_FLOAT_EQ(t.cpu_share, 0.5f);
      EXPECT_FLOAT_EQ(t.spawner_cpu_share, 0.25f);
      EXPECT_EQ(t.loop_lag_us_max, 3'000u);
      ASSERT_EQ(t.templates.size(), 2u) << "one had a task, the other has a box";
      EXPECT_EQ(t.templates[0].verdicts[0], 1u);
      EXPECT_EQ(t.templates[0].claims[static_cast<size_t>(base::ClaimKind::waited)], 1u);
      EXPECT_EQ(t.templates[0].whole[bucketOf(45 * kMs)], 1u);
      EXPECT_THAT(prometheusText(*s, {}),
                  HasSubstr("mayfly_pool_recent_miss_ratio{template=\"python\"} 1\n"));
    }
    rig.pass(kTickMs);
    rig.recorder.tick(rig.report, {});
  }
  const auto s = rig.snapshot();
  EXPECT_EQ(s->ticks.size(), kTicks);
  EXPECT_TRUE(s->ticks.back()->templates.empty()) << "nothing happened";
}

TEST(Recorder, SlowTasksAreKeptWithTheirPartsAndTrace) {
  Rig rig({.slow_task_ns = 45 * kMs});
  base::TaskLabels t = rig.labels("node", "x");
  t.trace = "00-0123";
  rig.end(t);
  for (size_t i = 0; i < 2 * kSlowTasks; ++i) rig.end(rig.labels());
  base::Phases quick{};
  quick[static_cast<size_t>(Phase::queued)] = 1;
  quick[static_cast<size_t>(Phase::receipt)] = 45 * kMs;
  rig.recorder.taskEnded(rig.labels(), Verdict::succeeded, {}, quick);
  auto s = rig.snapshot();
  EXPECT_EQ(s->slow_tasks, 1 + 2 * kSlowTasks);
  EXPECT_EQ(s->slow.size(), kSlowTasks);
  // Without a receipt it took as long as its result: longer than all that it reached.
  Rig late({.slow_task_ns = 10 * kSecond});
  base::Phases unproven = Rig::phases();
  unproven[static_cast<size_t>(Phase::reaped)] = 0;
  unproven[static_cast<size_t>(Phase::receipt)] = 0;
  for (uint64_t took_ns : {10 * kSecond - 1, 10 * kSecond}) {
    late.now.ns = unproven[static_cast<size_t>(Phase::queued)] + took_ns;
    late.recorder.taskAccepted(late.labels());
    late.recorder.taskEnded(late.labels(), Verdict::internal, {}, unproven);
  }
  s = late.snapshot();
  ASSERT_EQ(s->slow.size(), 1u);
  EXPECT_EQ(s->slow[0].part_ns[static_cast<size_t>(Part::whole)], 10 * kSecond);
  EXPECT_EQ(s->slow[0].part_ns[static_cast<size_t>(Part::receipt)], 0u);
  Rig other({.slow_task_ns = 1});
  other.end(t);
  s = other.snapshot();
  ASSERT_EQ(s->slow.size(), 1u);
  EXPECT_EQ(s->slow[0].trace, "00-0123");
  EXPECT_EQ(s->slow[0].template_name, "node");
  EXPECT_EQ(s->slow[0].part_ns[static_cast<size_t>(Part::whole)], 45 * kMs);
}

TEST(Recorder, ABrokersCountsGoOnWhenItsVaultIsRestarted) {
  Rig rig({.broker = true});
  base::BrokerCounts counts;
  counts.kinds[0] = {5, 2, 1};
  counts.kinds[0].took.add(kMs);
  counts.kinds[1].took.add(2 * kMs);
  rig.recorder.brokerUp("vault");
  rig.recorder.brokerCounts(counts);
  rig.recorder.brokerDown("vault", "killed");
  rig.recorder.brokerDown("vault", "the channel, too");
  rig.recorder.brokerUp("vault");
  rig.recorder.brokerCounts(counts);
  const std::string text = rig.text();
  EXPECT_THAT(text,
              HasSubstr(R"(mayfly_broker_decisions_total{kind="http",outcome="allowed"} 10)"));
  EXPECT_THAT(text, HasSubstr("mayfly_broker_call_seconds_count{kind=\"http\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("mayfly_broker_call_seconds_sum{kind=\"sql\"} 0.004\n"));
  EXPECT_THAT(text, Not(HasSubstr("mayfly_broker_call_seconds_count{kind=\"session\"}")));
  EXPECT_THAT(text, HasSubstr(R"(mayfly_broker_ends_total{process="vault"} 1)"));
  EXPECT_THAT(Rig().text(), Not(HasSubstr("mayfly_broker"))) << "a daemon without one";
}

TEST(Recorder, AnEmptyPoolsSizeHasAReason) {
  Rig rig;
  base::PoolForecast& f = rig.report.templates[0].forecast;
  f.lanes_by_reason[static_cast<size_t>(base::SizeReason::budget)] = 3;
  const std::string text = rig.text();
  EXPECT_THAT(text, HasSubstr(R"(mayfly_pool_size_reason{template="python",reason="budget"} 1)"));
  EXPECT_THAT(text, HasSubstr(R"(mayfly_pool_size_reason{template="python",reason="unused"} 0)"));
  EXPECT_THAT(text, HasSubstr(R"(mayfly_pool_target_clones{template="python",reason="budget"} 0)"));
}

TEST(Recorder, ReadyIsWhatTheCoreSays) {
  Rig rig;
  EXPECT_TRUE(rig.snapshot()->ready);
  EXPECT_FALSE(rig.recorder.snapshot(rig.report, {}, /*stopping=*/true)->ready);
  rig.report.settled = false;
  EXPECT_FALSE(rig.snapshot()->ready);
}

TEST(Exposition, EveryMetricIsNamedOnceByPrometheusRules) {
  std::set<std::string_view> names;
  const std::regex good("mayfly_[a-z0-9_]+"), label("[a-z_]*( [a-z_]+)*");
  for (const MetricInfo& m : metricList()) {
    EXPECT_TRUE(names.insert(m.name).second) << m.name;
    EXPECT_TRUE(std::regex_match(std::string(m.name), good)) << m.name;
    EXPECT_TRUE(std::regex_match(std::string(m.labels), label)) << m.name;
    EXPECT_EQ(m.type == "counter", m.name.ends_with("_total")) << m.name;
    if (m.type == "histogram") {
      EXPECT_TRUE(m.name.ends_with("_seconds")) << m.name;
    }
    EXPECT_TRUE(m.help.ends_with(".")) << m.name;
    EXPECT_THAT(metricTable(), HasSubstr("| `" + std::string(m.name) + "` |"));
  }
  EXPECT_GE(names.size(), 85u);
}

TEST(Exposition, AHistogramIsCumulativeAndEndsWithInfinity) {
  Rig rig;
  for (uint64_t late : {kMs, 2 * kMs, 1'000 * kSecond}) rig.recorder.loopLag(late);
  const std::string text = rig.text();
  EXPECT_THAT(text, HasSubstr("mayfly_loop_lag_seconds_bucket{le=\"5e-05\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("mayfly_loop_lag_seconds_bucket{le=\"0.0016\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("mayfly_loop_lag_seconds_bucket{le=\"+Inf\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("mayfly_loop_lag_seconds_count 3\n"));
}

TEST(Exposition, TheDaemonsOwnHistogramOfTheReportHasNoSurprises) {
  Rig rig;
  rig.report.use.memory_bytes = 5;
  rig.report.use.memory_bytes_max = 10;
  rig.report.use.boxes = 3;
  rig.report.use.boxes_max = 4;
  const std::string text = rig.text();
  EXPECT_THAT(text, HasSubstr("mayfly_memory_committed_bytes 5\n"));
  EXPECT_THAT(text, HasSubstr("mayfly_budget_used{resource=\"boxes\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("mayfly_budget_used_ratio{resource=\"memory\"} 0.5\n"));
  EXPECT_THAT(text, Not(HasSubstr("mayfly_budget_used{resource=\"memory\"}"))) << "it has a unit";
}

// The reader's thread is the test's: what the board posts there runs when `turn` says so.
struct Reader {
  std::vector<std::function<void()>> posted;
  void on(Board& board) {
    board.setReader([this](std::function<void()> work) { posted.push_back(std::move(work)); });
  }
  void turn() {
    for (auto& work : std::exchange(posted, {})) work();
  }
};

SnapshotPtr madeAt(uint64_t ns) {
  auto s = std::make_shared<Snapshot>();
  s->made_ns = ns;
  return s;
}

TEST(Board, OneSnapshotServesAllWhoAskedAndNobodyElsesQuestionIsPending) {
  Board board;
  Reader reader;
  reader.on(board);
  EXPECT_FALSE(board.asked());
  int answers = 0;
  for (int i = 0; i < 3; ++i) board.ask(1'000, 10, [&](SnapshotPtr) { ++answers; });
  EXPECT_TRUE(board.asked());
  EXPECT_EQ(answers, 0);
  board.publish(madeAt(1'000));
  EXPECT_FALSE(board.asked());
  EXPECT_EQ(answers, 0) << "they are called on the reader's thread";
  reader.turn();
  EXPECT_EQ(answers, 3);
  board.ask(1'005, 10, [&](SnapshotPtr s) { answers += s ? 1 : 0; });
  EXPECT_EQ(answers, 4) << "the last one is young enough";
  EXPECT_FALSE(board.asked());
  board.ask(1'011, 10, [&](SnapshotPtr) { ++answers; });
  EXPECT_EQ(answers, 4);
  EXPECT_TRUE(board.asked());
}

TEST(Board, AskersOfACoreThatNeverAnswersAreBounded) {
  Board board;
  int answers = 0;
  for (size_t i = 0; i < 2 * Board::kAskers_max; ++i)
    board.ask(1, 0, [&](SnapshotPtr) { ++answers; });
  Reader reader;
  reader.on(board);
  board.publish(madeAt(1));
  reader.turn();
  EXPECT_EQ(answers, static_cast<int>(Board::kAskers_max));
}

}  // namespace
}  // namespace mayfly::metrics
