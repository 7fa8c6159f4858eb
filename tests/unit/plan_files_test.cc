// What the planner reads: the host's and the scenario's file, traces, the daemon's log; and how a
// host's costs come from measured tasks.
#include <gtest/gtest.h>

#include <cmath>

#include "config/plan_file.h"
#include "plan/calibrate.h"
#include "plan/log_trace.h"
#include "pool/trace.h"

namespace mayfly::plan {
namespace {

using base::Phase;

constexpr uint64_t kMs = 1'000'000, kS = 1'000'000'000;

// --- files --------------------------------------------------------------------------------

TEST(PlanFile, HostIsWrittenAsItIsRead) {
  config::PlanHost h;
  h.processors = 2.5;
  h.background = 0.125;
  h.clients_here = false;
  h.memory_bytes = 7'654'321'000;
  h.open_files = 20'000;
  h.processes = 32'768;
  h.user_namespaces = 30'000;
  h.ptys = 99;
  config::PlanTemplate t;
  t.name = "python-data";
  t.mechanism = "fork";
  t.clone_bytes = 1'234'567;
  t.parked_min = 2;
  t.parked_max = 33;
  t.per_tenant = true;
  t.ptys = 8;
  t.limits.memory_bytes = 256ull << 20;
  t.limits.processes = 77;
  t.limits.wall_time_ms = 90'000;
  t.limits.grace_ms = 1'500;
  t.make = {5'100, 2'050, 0.25, 11, 12, 13};
  t.task = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10'001, {0, 5, 5}, {7}};
  h.templates = {t};
  const std::string text = config::formatPlanHost(h, {"a remark\nand more"});
  auto read = config::parsePlanHost(text, "host.toml");
  ASSERT_TRUE(read) << read.error().message << "\n" << text;
  EXPECT_EQ(config::formatPlanHost(*read, {"a remark\nand more"}), text);
  EXPECT_EQ(read->file, "host.toml");
  ASSERT_NE(read->find("python-data"), nullptr);
  EXPECT_EQ(read->find("python-data")->limits.grace_ms, 1'500u);
  EXPECT_EQ(read->find("python-data")->task.memory_bytes, 10'001u);
  EXPECT_EQ(read->find("python-data")->task.late_us, (std::vector<uint64_t>{0, 5, 5}));
  EXPECT_EQ(read->find("python-data")->task.late_full_us, (std::vector<uint64_t>{7}));
  EXPECT_EQ(read->find("ruby"), nullptr);
}

constexpr const char* kHost =
    "[host]\nprocessors = 2\nmemory = \"4GiB\"\nopen_files = 1024\nprocesses = 4096\n"
    "user_namespaces = 1000\n";

TEST(PlanFile, FaultyHostIsRefusedWithFileLineAndKey) {
  const std::string good = std::string(kHost) + "[templates.python]\n";
  ASSERT_TRUE(config::parsePlanHost(good, "h.toml"));
  const std::pair<std::string, std::string> cases[] = {
      {"", "h.toml:1: 'host' is missing"},
      {kHost, "h.toml:1: 'templates' is missing"},
      {"[host\n", "h.toml:1: not valid TOML"},
      {"[host]\nprocessors = 0\n", "h.toml:2: 'host.processors' is 0; allowed are 0.1 to 4096"},
      {"[host]\nprocessors = \"two\"\n", "h.toml:2: 'host.processors' must be a number"},
      {"[host]\nmemory = \"4Gb\"\n", "h.toml:2: 'host.memory' is wrong"},
      {"[host]\nprocessors = 2\nbackground = 1.9\n", "h.toml:3: 'host.background' leaves less"},
      {"[host]\nprocessors = 2\n", "h.toml:1: 'host.memory' is missing"},
      {good + "pool_min = 9\npool_max = 8\n", "h.toml:8: 'templates.python.pool_min' is more"},
      {good + "[templates.python.make]\ntime_us = 1\nbox_us = 2\n",
       "h.toml:10: 'templates.python.make.box_us' is more than time_us"},
      {good + "[templates.python.task]\nclaims = 1\n",
       "h.toml:9: unknown key 'templates.python.task.claims'"},
      {good + "[templates.python.task]\nlate_us = [2, 1]\n",
       "h.toml:9: 'templates.python.task.late_us' must be a list of at most 101 whole numbers from "
       "0 to 3600000000, none less than the one before it"},
      {good + "[templates.python.task]\nlate_full_us = [-1]\n",
       "h.toml:9: 'templates.python.task.late_full_us' must be a list"},
      {good + "[templates.python.limits]\nmemory = \"1KiB\"\n",
       "h.toml:9: 'templates.python.limits.memory' is 1KiB"},
      {good + "[templates.Bad]\n", "h.toml:8: 'templates.Bad' is no template name"},
  };
  for (const auto& [text, says] : cases) {
    auto host = config::parsePlanHost(text, "h.toml");
    ASSERT_FALSE(host) << says;
    EXPECT_EQ(host.error().code, base::Code::invalidArgument);
    EXPECT_EQ(host.error().message.substr(0, says.size()), says);
  }
}

TEST(PlanFile, ScenarioIsReadWithItsDefaults) {
  auto s = config::parsePlanScenario(
      "host = \"h.toml\"\ntime = \"2m\"\nseed = 9\n[goal]\nfirst_byte_p99 = \"40ms\"\n"
      "spare_hosts = 0\n[[load]]\nrate = 2.5\nrun = \"1s\"\nrun_spread = \"pareto\"\n"
      "[[load]]\ntemplate = \"shell\"\ntenant = \"b\"\narrivals = \"onoff\"\non = \"1s\"\n",
      "s.toml");
  ASSERT_TRUE(s) << s.error().message;
  EXPECT_EQ(s->time_ms, 120'000u);
  EXPECT_EQ(s->goal.first_byte_ms, 40u);
  EXPECT_EQ(s->goal.spare_hosts, 0u);
  ASSERT_EQ(s->loads.size(), 2u);
  EXPECT_EQ(s->loads[0].template_name, "python");
  EXPECT_EQ(s->loads[0].run_spread, 1.5);
  EXPECT_EQ(s->loads[1].arrivals, config::PlanLoad::Arrivals::onoff);
  EXPECT_EQ(s->loads[1].on_ms, 1'000u);
}

TEST(PlanFile, FaultyScenarioIsRefusedWithFileLineAndKey) {
  const std::pair<std::string, std::string> cases[] = {
      {"time = \"9s\"\nwarm_up = \"9s\"\n", "s.toml:2: 'warm_up' leaves nothing"},
      {"[[load]]\nrate = 0\n", "s.toml:2: 'load.rate' is 0; allowed are 1e-06 to 1e+06"},
      {"[[load]]\narrivals = \"often\"\n", "s.toml:2: 'load.arrivals' must be one of poisson"},
      {"[[load]]\nrun_spread = \"pareto\"\nrun_shape = 1\n", "s.toml:3: 'load.run_shape' must be"},
      {"[[load]]\ntenant = \"a,b\"\n", "s.toml:2: 'load.tenant' must be a name"},
      {"[goal]\nmissed = 2\n", "s.toml:2: 'goal.missed' is 2; allowed are 0 to 1"},
      {"goals = 1\n", "s.toml:1: unknown key 'goals'"},
      {"trace = \"x.csv\"\n[[load]]\n", "s.toml:2: 'load' and `trace` exclude each other"},
  };
  for (const auto& [text, says] : cases) {
    auto s = config::parsePlanScenario(text, "s.toml");
    ASSERT_FALSE(s) << says;
    EXPECT_EQ(s.error().message.substr(0, says.size()), says);
  }
}

// --- traces -------------------------------------------------------------------------------

TEST(PlanTrace, IsReadAsItIsWritten) {
  const char* const text =
      "seconds,template,run_seconds,cpu_seconds,memory_bytes,user,tenant\n"
      "0.000000,python,0.250000,0.125000,4096,u1,t1\n"
      "0.000000,shell,1.000000,,,u1,\n"
      "3.500000,python,0.000010,0.000001,1,u2,t1\n";
  auto t = pool::parseTrace(text, "x.csv", 0, 1);
  ASSERT_TRUE(t) << t.error().message;
  EXPECT_EQ(pool::writeTrace(*t), text);
  EXPECT_EQ(t->tenants.size(), 3u);
  EXPECT_EQ(t->arrivals[0].cpu_ns, 125 * kMs);
  EXPECT_EQ(t->arrivals[1].cpu_ns, 0u);
  // Lines without a tenant before lines with one.
  auto mixed = pool::parseTrace("1,a\n2,a,1,1,1,u,t\n3,a\n", "x.csv", 0, 1);
  ASSERT_TRUE(mixed);
  EXPECT_EQ(mixed->tenants.size(), 2u);
  EXPECT_EQ(mixed->arrivals[0].tenant_index, mixed->arrivals[2].tenant_index);
  EXPECT_EQ(mixed->tenants[mixed->arrivals[1].tenant_index].tenant, "t");
}

TEST(PlanTrace, MergedOnesKeepOrderAndNames) {
  auto a = *pool::parseTrace("1,x,1,,,u1,t1\n5,y,1,,,u1,t2\n", "a", 0, 1);
  auto b = *pool::parseTrace("2,y,1,,,u1,t2\n9,z,1\n", "b", 0, 1);
  auto m = pool::mergeTraces({a, b}, "both");
  ASSERT_TRUE(m);
  EXPECT_EQ(m->templates, (std::vector<std::string>{"x", "y", "z"}));
  std::string order;
  for (const pool::Arrival& each : m->arrivals) order += m->templates[each.template_index];
  EXPECT_EQ(order, "xyyz");
  EXPECT_EQ(m->tenants[m->arrivals[1].tenant_index], m->tenants[m->arrivals[2].tenant_index]);
  EXPECT_EQ(m->end_ns, 9 * kS);
  EXPECT_FALSE(pool::mergeTraces(std::vector<pool::Trace>(3'000, *pool::makeTrace({})), "x"));
}

TEST(PlanTrace, RunTimesHaveTheirMeanInEveryShape) {
  using Runs = pool::TraceShape::Runs;
  for (auto [runs, spread] : {std::pair{Runs::exponential, 1.0},
                              {Runs::constant, 1.0},
                              {Runs::lognormal, 1.0},
                              {Runs::pareto, 2.5}}) {
    pool::TraceShape s;
    s.kind = pool::TraceShape::Kind::constant;
    s.rate_hz = 100;
    s.time_s = 2'000;
    s.run_s = 0.5;
    s.runs = runs;
    s.run_spread = spread;
    const pool::Trace t = *pool::makeTrace(s);
    ASSERT_EQ(t.arrivals.size(), 200'000u);
    double sum = 0;
    for (const pool::Arrival& a : t.arrivals) sum += static_cast<double>(a.run_ns) * 1e-9;
    EXPECT_NEAR(sum / 200'000, 0.5, 0.02) << static_cast<int>(runs);
    EXPECT_EQ(t.arrivals[1].at_ns - t.arrivals[0].at_ns, 10 * kMs);
  }
}

// --- the log ------------------------------------------------------------------------------

std::string line(const std::string& stamp, const std::string& rest) {
  return stamp + " info task id=4438781884534978 " + rest;
}

TEST(LogTrace, LinesBecomeArrivalsWithoutNames) {
  LogTrace log;
  const char* const costs =
      " verdict=succeeded queue_ms=0.031 claim_ms=0.5 run_ms=20.000 reap_ms=1 whole_ms={} "
      "cpu_ms=7.500 memory_peak=4096 processes_peak=1";
  const auto with = [&](const char* whole) {
    std::string text = costs;
    text.replace(text.find("{}"), 2, whole);
    return text;
  };
  // In the order of their ends; the second one began first.
  for (const std::string& each :
       {line("2026-02-28T23:59:59.900",
             "template=python mechanism=fork user=uid:1000 tenant=\"a \\\"b\\\" whole_ms=1\"" +
                 with("100.000")),
        "Mar 01 00:00:00 host mayflyd[7]: " +
            line("2026-03-01T00:00:00.000",
                 "template=shell mechanism=exec user=uid:0" + with("1000.000")),
        std::string("2026-03-01T00:00:00.500 info template 'python' is ready"),
        std::string("a line of another program"),
        line("2026-03-01T00:00:01.000",
             "template=python mechanism=fork user=uid:1000 tenant=\"a\"" + with("100")),
        // It took as long as `slow_task` or longer.
        "2026-03-01T00:00:03.000 warning slow task id=9 template=shell mechanism=exec user=uid:0 "
        "trace=00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" +
            with("500")})
    ASSERT_TRUE(log.line(each)) << each;
  EXPECT_EQ(log.tasks(), 4u);
  EXPECT_EQ(log.skipped(), 0u);
  auto t = log.finish("x.log");
  ASSERT_TRUE(t) << t.error().message;
  EXPECT_EQ(pool::writeTrace(*t), std::string(pool::kTraceFields) +
                                      "\n0.000000,shell,0.020000,0.007500,4096,u1,\n"
                                      "0.800000,python,0.020000,0.007500,4096,u2,t1\n"
                                      "1.900000,python,0.020000,0.007500,4096,u2,t2\n"
                                      "3.500000,shell,0.020000,0.007500,4096,u1,\n");
}

TEST(LogTrace, LinesThatCannotBeReadAreCountedAndSkipped) {
  const std::string good = "template=python user=uid:0 run_ms=1 whole_ms=2 cpu_ms=1 memory_peak=1";
  const std::string stamp = "2026-03-01T00:00:00.000";
  LogTrace log;
  for (const std::string& bad :
       {line(stamp, "template=python user=uid:0 whole_ms=2 cpu_ms=1"),  // it never ran
        line(stamp, "template=python user=uid:0 run_ms=x whole_ms=2 cpu_ms=1"),
        line(stamp, "template=python user=uid:0 run_ms=-1 whole_ms=2 cpu_ms=1"),
        line(stamp, "template=python user=uid:0 run_ms=1 whole_ms=1e300 cpu_ms=1"),
        line(stamp, "template=python tenant=\"open run_ms=1 whole_ms=2 cpu_ms=1"),
        line("2026-13-01T00:00:00.000", good), line("yesterday", good), std::string(" task id=1"),
        line(stamp, good + std::string(10'000, ' '))})
    ASSERT_TRUE(log.line(bad));
  EXPECT_EQ(log.skipped(), 9u);
  EXPECT_EQ(log.tasks(), 0u);
  auto none = log.finish("x.log");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().message, "x.log: holds no line of a task's end");
  ASSERT_TRUE(log.line(line(stamp, good) + "\r\n"));
  EXPECT_EQ(log.tasks(), 1u);
  ASSERT_TRUE(log.line(line("2027-03-01T00:00:00.000", good)));
  auto long_ago = log.finish("x.log");
  ASSERT_FALSE(long_ago);
  EXPECT_NE(long_ago.error().message.find("spans 365 days"), std::string::npos);
}

TEST(LogTrace, LinesThatTheJournalDroppedAreCounted) {
  LogTrace log;
  for (const char* each :
       {"Suppressed 120 messages from mayfly.service",  // journalctl -o cat
        "Nov 30 08:00:01 host systemd-journald[312]: Suppressed 7 messages from mayfly.service\r\n",
        "2026-03-01T00:00:00.000 info a task said 'Suppressed 5 messages from x'",
        "Suppressed many messages from mayfly.service", "Suppressed  messages from x",
        "Suppressed -3 messages from x", "Suppressed 99999999999 messages from x",
        " messages from Suppressed 3", "Suppressed 3", ""})
    ASSERT_TRUE(log.line(each)) << each;
  EXPECT_EQ(log.suppressed(), 127u);
  ASSERT_TRUE(log.line(line("2026-03-01T00:00:00.000",
                            "template=python user=uid:0 tenant=\": Suppressed 5 messages from x\" "
                            "run_ms=1 whole_ms=2 cpu_ms=1")));
  EXPECT_EQ(log.suppressed(), 127u) << "a tenant's name is no word of the journal";
  EXPECT_EQ(log.tasks(), 1u);
  EXPECT_EQ(log.skipped(), 0u);
}

TEST(LogTrace, AnyBytesAreReadOrSkipped) {
  const std::string alphabet = "=\"\\ 0123456789.-Tte: \xff";
  const std::string whole = line("2026-03-01T00:00:00.000",
                                 "template=python user=uid:0 tenant=\"t\" run_ms=1 whole_ms=2 "
                                 "cpu_ms=1 memory_peak=1");
  pool::Random random(5);
  LogTrace log;
  for (int i = 0; i < 20'000; ++i) {
    std::string text = whole;
    for (uint64_t n = random.next() % 4; n > 0; --n)
      text[random.next() % text.size()] = alphabet[random.next() % alphabet.size()];
    const base::Status status = log.line(text.substr(0, random.next() % (text.size() + 1)));
    if (!status) {
      ASSERT_EQ(status.error().code, base::Code::invalidArgument);
    }
  }
  EXPECT_GT(log.tasks(), 100u);
}

// --- calibration --------------------------------------------------------------------------

TaskSample sample(uint64_t box_ready_us, uint64_t clone_us) {
  TaskSample s;
  const auto at = [&](Phase phase, uint64_t us) {
    s.phases[static_cast<size_t>(phase)] = (1'000'000 + us) * 1'000;
  };
  at(Phase::queued, 0);
  at(Phase::box, 10);
  at(Phase::boxReady, 10 + box_ready_us);
  at(Phase::clone, 10 + clone_us);
  at(Phase::started, 10 + clone_us + 700);
  at(Phase::firstByte, 10 + clone_us + 1'900);
  at(Phase::exited, 10 + clone_us + 2'200);
  at(Phase::receipt, 10 + clone_us + 4'700);
  s.first_byte_ns = (1'900 + 300 + clone_us) * 1'000;
  s.cpu_ns = 3 * kMs;
  s.memory_bytes = 2u << 20;
  return s;
}

Measured measured() {
  Measured m;
  m.quiet.assign(30, sample(0, 0));
  m.busy.assign(21, sample(0, 0));
  for (size_t i = 0; i < m.busy.size(); ++i) m.busy[i].first_byte_ns = (21 - i) * kMs;
  m.busy.push_back(sample(0, 9'000));  // found no clone
  m.burst.assign(20, sample(0, 0));
  for (uint64_t us : {6'000u, 5'000u, 5'500u, 30'000u}) m.burst.push_back(sample(2'000, us));
  m.full = {10 * kS, 19 * kS, 1 * kS, 2 * kS, 1 * kS, 6 * kS, 1'000, 1'000};
  m.refills = {1 * kS, kS, 20 * kMs, 100 * kMs, 5 * kMs, 0, 0, 100};
  m.background = 0.1;
  m.clone_bytes = 900'000;
  return m;
}

TEST(Calibrate, CostsComeFromTasksAndFromTheMachinesTime) {
  config::PlanTemplate t;
  ASSERT_TRUE(setCosts(measured(), t));
  EXPECT_EQ(t.task.claim_us, 700u);
  EXPECT_EQ(t.task.first_us, 1'200u);
  EXPECT_EQ(t.task.run_us, 1'500u);
  EXPECT_EQ(t.task.end_us, 2'500u);
  EXPECT_EQ(t.task.box_cpu_us, 3'000u);
  EXPECT_EQ(t.task.memory_bytes, 2u << 20);
  // Beyond the 1.9 ms of claim and first byte; who comes before that is not late.
  EXPECT_EQ(t.task.late_us, std::vector<uint64_t>(kLateQuantiles, 300));
  ASSERT_EQ(t.task.late_full_us.size(), kLateQuantiles);
  EXPECT_EQ(t.task.late_full_us[0], 0u);
  EXPECT_EQ(t.task.late_full_us[1], 100u);
  EXPECT_EQ(t.task.late_full_us[20], 19'100u);
  EXPECT_EQ(t.clone_bytes, 900'000u);
  EXPECT_EQ(t.make.time_us, 5'000u);  // the fastest
  EXPECT_EQ(t.make.box_us, 2'000u);
  // 1 ms of the daemon, 2 of the spawner for each task and its making; refills tell the makings'.
  EXPECT_EQ(t.make.daemon_us, 200u);
  EXPECT_EQ(t.task.daemon_us, 800u);
  EXPECT_EQ(t.make.spawner_us, 1'000u);
  EXPECT_EQ(t.task.spawner_us, 1'000u);
  EXPECT_EQ(t.task.client_us, 1'000u);
  // 19 s less 1 of the background, 1 + 2 + 1 + 6 seen: 8 ms for each task and making.
  EXPECT_EQ(t.make.other_us + t.task.other_us, 8'000u);
  EXPECT_EQ(t.make.other_us, 7'200u);  // at most nine tenths: the refills say 7.75
  // Programs that came to the background while the host was full are left out.
  Measured disturbed = measured();
  disturbed.full.machine_ns += 3 * kS;
  disturbed.full.others_ns = 4 * kS;
  ASSERT_TRUE(setCosts(disturbed, t));
  EXPECT_EQ(t.make.other_us + t.task.other_us, 8'000u);
}

TEST(Calibrate, StockedBoxesTellTheBoxesPart) {
  Measured m = measured();
  m.burst.insert(m.burst.end(), 5, sample(0, 1'500));
  config::PlanTemplate t;
  ASSERT_TRUE(setCosts(m, t));
  EXPECT_EQ(t.make.time_us - t.make.box_us, 1'500u);
}

TEST(Calibrate, TooFewTasksAreRefusedInWords) {
  const auto refused = [](auto change) {
    Measured m = measured();
    change(m);
    config::PlanTemplate t;
    const base::Status status = setCosts(m, t);
    EXPECT_FALSE(status);
    return status ? "" : status.error().message;
  };
  EXPECT_EQ(refused([](Measured& m) { m.quiet.assign(30, sample(5, 9)); }),
            "only 0 of 30 tasks found a parked clone on the idle host; 5 are needed");
  EXPECT_EQ(refused([](Measured& m) { m.burst.resize(21); }),
            "only 1 of 21 tasks in bursts had a box made for them; 3 are needed");
  EXPECT_EQ(refused([](Measured& m) { m.full.tasks = 3; }),
            "only 3 tasks ended while the host was kept full; 20 are needed");
  // Without refills, the making's part is that of its time.
  Measured m = measured();
  m.refills = {};
  config::PlanTemplate t;
  ASSERT_TRUE(setCosts(m, t));
  EXPECT_EQ(t.make.daemon_us, static_cast<uint64_t>(std::llround(1'000 * 5'000.0 / 8'200)));
}

}  // namespace
}  // namespace mayfly::plan
