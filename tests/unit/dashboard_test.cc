// The dashboard's message: exact for a made-up snapshot, safe for hostile names, bounded, and with
// the past as rows. tests/e2e/test_dashboard.py and cli_top_test.cc read the same made-up message.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "dashboard/assets.h"
#include "dashboard/live.h"
#include "dashboard/minute.h"
#include "dashboard/rows.h"

namespace mayfly::dashboard {
namespace {

using base::AuditFinding;
using base::ClaimKind;
using base::SizeReason;
using base::Verdict;
using metrics::Snapshot;
using metrics::Tick;
using metrics::TickTemplate;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::ordered_json;

constexpr uint64_t kNowMs = 1'796'000'000'000, kMs = 1'000'000, kS = 1'000'000'000;

template <class Enum>
size_t at(Enum value) {
  return static_cast<size_t>(value);
}
base::Histogram times(std::initializer_list<uint64_t> ns) {
  base::Histogram h;
  for (uint64_t each : ns) h.add(each);
  return h;
}

metrics::Template python() {
  metrics::Template t;
  t.name = "python";
  t.mechanism = "fork";
  t.state = "ready";
  t.pool = {.parked = 6,
            .parked_target = 8,
            .stocked = 2,
            .stocked_target = 2,
            .making = 2,
            .waiting = 1,
            .zygotes = 1,
            .renewals = 3,
            .hits = 90,
            .misses = 10};
  t.forecast.arrivals_hz = 12.5;
  t.forecast.miss_share = 0.0099;
  t.forecast.wanted = 8;
  t.forecast.make_ns = 4'200'000;
  t.forecast.target_by_reason[at(SizeReason::forecast)] = 6;
  t.forecast.target_by_reason[at(SizeReason::bursts)] = 2;
  t.forecast.lanes_by_reason[at(SizeReason::forecast)] = 3;
  t.forecast.lanes_by_reason[at(SizeReason::bursts)] = 1;
  t.running = 3;
  t.open = 4;
  t.dying = 2;
  t.boxes = 15;
  t.accepted = 1'204;
  t.verdicts[at(Verdict::succeeded)] = 1'100;
  t.verdicts[at(Verdict::failed)] = 60;
  t.verdicts[at(Verdict::memory)] = 25;
  t.verdicts[at(Verdict::wallTime)] = 15;
  t.refused[1][at(base::RefusedBy::request)] = 7;
  t.claims = {1'080, 20, 100};
  t.launches[at(base::Launch::parked)] = 1'080;
  t.launches[at(base::Launch::made)] = 120;
  t.receipts = 1'200;
  t.receipts_incomplete = 1;
  t.clones_made = 1'300;
  t.clones_lost = 1;
  t.clones_discarded = 12;
  t.clone_memory_bytes = 786'432;
  return t;
}

metrics::Template broken() {
  metrics::Template t;
  t.name = "r-data";
  t.mechanism = "exec";
  t.state = "unhealthy";
  t.state_why = "4 zygotes died within 60 s";
  t.forecast.lanes_by_reason[at(SizeReason::unused)] = 1;
  t.quarantined = 1;
  t.boxes = 1;
  t.trials_failed = 2;
  t.zygotes_died = 4;
  return t;
}

// One tick of two seconds, `ago` ticks before now.
std::shared_ptr<const Tick> tick(uint32_t ago) {
  auto out = std::make_shared<Tick>();
  out->at_ms = kNowMs - ago * metrics::kTickMs;
  out->length_ms = metrics::kTickMs;
  out->queued = ago % 3;
  out->boxes = 15;
  out->connections = 4;
  out->calls = 50;
  out->receipts = 24;
  out->loop_lag_us_max = 300 + ago;
  out->cpu_share = 0.125F;
  out->spawner_cpu_share = 0.0625F;
  TickTemplate t;
  t.index = 0;
  t.accepted = 24 + ago % 5;
  t.refused = ago == 2 ? 1 : 0;
  t.verdicts[at(Verdict::succeeded)] = 22;
  t.verdicts[at(Verdict::memory)] = 2;
  t.claims = {20, 1, 3};
  for (uint64_t i = 0; i < 24; ++i) {
    ++t.start[base::bucketOf((1 + i * (1 + ago % 4) / 4) * kMs)];
    ++t.run[base::bucketOf((3 + i) * kMs)];
    ++t.whole[base::bucketOf((6 + 2 * i) * kMs)];
  }
  t.parked = 8 - ago % 4;
  t.parked_target = 8;
  t.stocked = 2;
  t.making = ago % 3;
  t.running = 3;
  t.arrivals_hz = 12.5F;
  t.miss_predicted = 0.0099F;
  out->parts[at(metrics::Part::start)] = t.start;
  out->parts[at(metrics::Part::run)] = t.run;
  out->parts[at(metrics::Part::whole)] = t.whole;
  for (metrics::Part part : {metrics::Part::queue, metrics::Part::claim, metrics::Part::firstByte,
                             metrics::Part::reap, metrics::Part::receipt})
    for (uint64_t i = 0; i < 24; ++i)
      ++out->parts[at(part)][base::bucketOf((at(part) + 1) * (100'000 + i * 40'000))];
  out->parts[at(metrics::Part::kill)][base::bucketOf(2 * kMs)] = 2;
  out->templates.push_back(t);
  return out;
}

std::vector<metrics::Tenant> tenants() {
  metrics::Tenant red;
  red.user = "uid:1000";
  red.tenant = "red";
  red.accepted = 1'000;
  red.queued = 1;
  red.running = 2;
  red.ended[at(metrics::Outcome::succeeded)] = 990;
  red.ended[at(metrics::Outcome::capped)] = 7;
  red.cpu_ns = 83 * kS;
  red.start = times({1 * kMs, 2 * kMs, 3 * kMs});
  red.whole = times({6 * kMs, 9 * kMs, 60 * kMs});
  metrics::Tenant others;
  others.others = true;
  others.accepted = 204;
  others.refused = 7;
  return {red, others};
}

metrics::SlowTask slowTask() {
  metrics::SlowTask slow;
  slow.task = 8'231;
  slow.at_ms = kNowMs - 5'000;
  slow.template_name = "python";
  slow.user = "uid:1000";
  slow.tenant = "red";
  slow.verdict = Verdict::wallTime;
  slow.launch = base::Launch::parked;
  slow.part_ns[at(metrics::Part::queue)] = 40 * kMs;
  slow.part_ns[at(metrics::Part::claim)] = 1 * kMs;
  slow.part_ns[at(metrics::Part::run)] = 5 * kS;
  slow.part_ns[at(metrics::Part::kill)] = 4 * kMs;
  slow.part_ns[at(metrics::Part::receipt)] = 3 * kMs;
  slow.part_ns[at(metrics::Part::whole)] = 5'048 * kMs;
  return slow;
}

Snapshot madeUp() {
  Snapshot s;
  s.made_ns = 3'600 * kS;
  s.made_ms = kNowMs;
  s.started_ms = kNowMs - 3'600'000;
  s.serial = 42;
  s.instance = "default";
  s.version = "0.1.0";
  s.ready = true;
  s.templates = {python(), broken()};
  s.tenants = tenants();
  s.headroom = {{"memory", "bytes", 3.0 * (1u << 30), 8.0 * (1u << 30)},
                {"cpu", "cores", 1.9, 2},
                {"boxes", "", 16, 64},
                {"queue", "", 1, 1'024}};
  s.queued = 1;
  s.queue_age_ns = 12 * kMs;
  s.boxes = 16;
  s.quarantined = 1;
  s.refused_unknown_template = 2;
  s.receipts_late = 1;
  s.broker.configured = s.broker.front_up = s.broker.vault_up = true;
  s.broker.sessions = 2;
  s.broker.front_starts = 1;
  s.broker.vault_starts = 2;
  s.broker.vault_ends = 1;
  s.broker.decisions[0] = {
      .allowed = 310, .refused = 4, .failed = 1, .took = times({20 * kMs, 30 * kMs})};
  s.broker.opened_ok = 120;
  s.rpc.connections = 4;
  s.rpc.opened = 30;
  s.rpc.bytes_in = 5u << 20;
  s.rpc.bytes_out = 9u << 20;
  s.rpc.methods = {{"Mayfly.submit", times({1 * kMs})}, {"Task.wait", times({40 * kMs, 50 * kMs})}};
  s.process = {.cpu_s = 91.5, .resident_bytes = 41u << 20, .open_fds = 120, .fds_max = 20'000};
  s.loop_lag = times({80'000, 90'000, 400'000});
  s.loop_lag_max_ns = 18 * kMs;
  s.audit_findings[at(AuditFinding::Kind::strayMount)] = 1;
  s.audit_walks = 120;
  s.audit_last = {.cgroups = 40, .processes = 33, .mounts = 60, .findings = 0};
  for (uint32_t ago = 40; ago-- > 0;) s.ticks.push_back(tick(ago));
  s.slow = {slowTask()};
  s.slow_tasks = 9;
  s.slow_task_ns = kS;
  s.notices = {{kNowMs - 9'000, "template", "template 'r-data' is unhealthy: 4 zygotes died"}};
  return s;
}

Json messageOf(const Snapshot& snapshot, size_t rows = metrics::kTicks) {
  Live live;
  return Json::parse(live.message(snapshot, rows));
}

TEST(DashboardMessage, IsExactlyWhatTheDocumentedFormatSays) {
  const std::string is = messageOf(madeUp(), 30).dump(1) + "\n";
  const std::string path = std::string(MAYFLY_SOURCE_DIR) + "/tests/unit/dashboard_message.json";
  std::ifstream in(path);
  std::stringstream wanted;
  wanted << in.rdbuf();
  if (wanted.str() == is) return;
  const std::string put = ::testing::TempDir() + "dashboard_message.json";
  std::ofstream(put) << is;
  FAIL() << "the message differs from " << path << "; it is in " << put;
}

TEST(DashboardMessage, HostileNamesStayTextAndAscii) {
  Snapshot s = madeUp();
  const std::string name =
      "</script>\"\\\x1b[31m\n\xe2\x80\xae\xff"
      "\x01";
  s.tenants[0].tenant = name;
  s.templates[0].state_why = name;
  s.slow[0].user = name;
  Live live;
  const std::string text = live.message(s, 3);
  for (char c : text) ASSERT_TRUE(c >= 0x20 && c < 0x7f) << static_cast<int>(c);
  const Json json = Json::parse(text);
  EXPECT_EQ(json["tenants"][0]["tenant"], "</script>\"\\\x1b[31m\n\xe2\x80\xae\xef\xbf\xbd\x01");
  EXPECT_EQ(json["templates"].size(), 2u);
}

TEST(DashboardMessage, OfADaemonThatHasJustStartedHasNullsAndNoRow) {
  Snapshot s;
  s.templates.push_back(broken());
  const Json json = messageOf(s);
  EXPECT_EQ(json["daemon"]["state"], "starting");
  EXPECT_TRUE(json["lastMinute"]["missShare"].is_null());
  EXPECT_TRUE(json["lastMinute"]["parts"][0]["p99S"].is_null());
  EXPECT_EQ(json["lastMinute"]["endedHz"], 0);
  EXPECT_TRUE(json["templates"][0]["missMeasured"].is_null());
  EXPECT_EQ(json["rows"], Json::array());
}

TEST(DashboardMessage, EveryRowHasAValueForEachColumn) {
  const Json json = messageOf(madeUp());
  ASSERT_EQ(json["rows"].size(), 40u);
  for (const Json& row : json["rows"]) {
    EXPECT_EQ(row[1].size(), json["columns"]["all"].size());
    EXPECT_EQ(row[2][0].size(), json["columns"]["template"].size());
  }
  EXPECT_EQ(json["rows"].back()[0], kNowMs);
}

TEST(DashboardMessage, ARowSaysNothingOfATemplateWithoutAnEvent) {
  Tick tick;
  TickTemplate second;
  second.index = 1;
  second.parked = 5;
  tick.templates.push_back(second);
  const Json row = Json::parse(rowOf(tick));
  EXPECT_TRUE(row[2][0].is_null());
  EXPECT_EQ(row[2][1][0], 5);
}

TEST(DashboardMessage, AnUpdateHasTheLatestRows) {
  Live live;
  const Json first = Json::parse(live.message(madeUp(), metrics::kTicks));
  const Json update = Json::parse(live.message(madeUp(), kRowsOfUpdate));
  ASSERT_EQ(update["rows"].size(), kRowsOfUpdate);
  EXPECT_EQ(update["rows"].back(), first["rows"].back());
}

TEST(DashboardMessage, RowsFollowTicksThatComeAndGo) {
  Snapshot s = madeUp();
  Live live;
  live.message(s, metrics::kTicks);
  s.ticks.erase(s.ticks.begin(), s.ticks.begin() + 30);
  auto next = std::make_shared<Tick>(*s.ticks.back());
  next->at_ms += metrics::kTickMs;
  s.ticks.push_back(next);
  EXPECT_EQ(Json::parse(live.message(s, metrics::kTicks))["rows"], messageOf(s)["rows"]);
  // Nobody has asked for so long that no tick is known any more.
  for (auto& each : s.ticks) each = std::make_shared<Tick>(*each);
  EXPECT_EQ(Json::parse(live.message(s, metrics::kTicks))["rows"].size(), 11u);
}

TEST(DashboardMessage, KeepsItsBoundWithManyTemplatesAndAFullPast) {
  Snapshot s = madeUp();
  s.ticks.clear();
  for (uint32_t ago = metrics::kTicks; ago-- > 0;) {
    auto full = std::make_shared<Tick>(*tick(ago));
    for (uint32_t index = 1; index < 60; ++index) {
      full->templates.push_back(full->templates[0]);
      full->templates.back().index = index;
    }
    s.ticks.push_back(full);
  }
  Live live;
  const std::string text = live.message(s, metrics::kTicks);
  EXPECT_LE(text.size(), kMessageBytes + 16);
  const Json rows = Json::parse(text)["rows"];
  EXPECT_GT(rows.size(), 60u);
  EXPECT_EQ(rows.back()[0], kNowMs);  // the oldest ones are left out
}

TEST(DashboardMinute, CountsTicksOfTheLastMinuteOnly) {
  Snapshot s = madeUp();
  const Minute minute = lastMinute(s, kLastMinute_ms);
  EXPECT_DOUBLE_EQ(minute.seconds, 60);  // 30 of 40 ticks
  EXPECT_EQ(minute.all.verdicts[at(Verdict::memory)], 60u);
  EXPECT_DOUBLE_EQ(minute.all.missShare(), 4.0 / 24);
  EXPECT_DOUBLE_EQ(minute.cpu_share, 0.125);
  EXPECT_DOUBLE_EQ(minute.spawner_cpu_share, 0.0625);
  EXPECT_EQ(minute.loop_lag_us_max, 329u);
}

TEST(DashboardAssets, HoldThePageAndNothingThatThePolicyForbids) {
  std::map<std::string_view, const Asset*> all;
  for (const Asset& each : assets()) all[each.path] = &each;
  ASSERT_TRUE(all.contains("/index.html"));
  ASSERT_TRUE(all.contains("/page.js"));
  EXPECT_THAT(std::string(all["/uplot.LICENSE.txt"]->body), HasSubstr("Leon Sorokin"));
  const std::string html(all["/index.html"]->body);
  EXPECT_THAT(html, Not(HasSubstr("style=")));
  EXPECT_THAT(html, Not(HasSubstr("http://")));
  EXPECT_THAT(html, Not(HasSubstr("https://")));
  std::ifstream in(std::string(MAYFLY_SOURCE_DIR) + "/src/dashboard/page/index.html");
  std::stringstream file;
  file << in.rdbuf();
  EXPECT_TRUE(html == file.str()) << "the program has another page than the sources";
  EXPECT_EQ(all["/page.css"]->type, "text/css; charset=utf-8");
  EXPECT_NE(all["/page.js"]->etag, all["/views.js"]->etag);
}

}  // namespace
}  // namespace mayfly::dashboard
