// The planner: the simulated host against closed forms, and its answers. All seeds are fixed.
#include "plan/advise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "budget/budget.h"
#include "config/daemon.h"
#include "plan/render.h"
#include "pool/policies.h"

namespace mayfly::plan {
namespace {

constexpr uint64_t kMs = 1'000'000, kS = 1'000'000'000;

// --- closed forms ---------------------------------------------------------------------

// The chance that all of c servers are busy at an offered load of a, if nobody waits.
double erlangB(uint32_t c, double a) {
  double b = 1;
  for (uint32_t k = 1; k <= c; ++k) b = a * b / (k + a * b);
  return b;
}
// The chance to wait, if everybody may.
double erlangC(uint32_t c, double a) {
  const double b = erlangB(c, a);
  return c * b / (c - a * (1 - b));
}

// How far a figure may be from its closed form. The traces have 100,000 arrivals and more.
constexpr double kClose = 0.05;

void expectClose(double measured, double exact, const char* what) {
  EXPECT_NEAR(measured, exact, kClose * exact) << what;
}

pool::Trace poisson(double rate_hz, double run_s, double time_s,
                    pool::TraceShape::Runs runs = pool::TraceShape::Runs::exponential,
                    double spread = 1) {
  pool::TraceShape s;
  s.rate_hz = rate_hz;
  s.run_s = run_s;
  s.time_s = time_s;
  s.runs = runs;
  s.run_spread = spread;
  s.seed = 7;
  return *pool::makeTrace(s);
}

// Clones cost nothing, so only places or processors make a task wait.
pool::SimResult simulated(const pool::Trace& trace, pool::SimOptions o) {
  o.each.box_make_ns = 1;
  o.each.clone_make_ns = 1;
  o.claim_ns = o.end_ns = 0;
  o.make_spread = 0;
  o.making_max = o.makers = 64;
  o.count_from_ns = trace.end_ns / 20;
  pool::FixedSizing plenty(200);
  auto result = pool::simulate(trace, o, plenty);
  EXPECT_TRUE(result) << result.error().message;
  return *result;
}

TEST(ClosedForm, WithoutAQueueTheRefusedShareIsErlangB) {
  pool::SimOptions o;
  o.queue_max = 0;
  for (auto [places, load] : {std::pair{8u, 6.0}, {4u, 5.0}, {20u, 15.0}}) {
    o.boxes_max = places;
    for (auto runs : {pool::TraceShape::Runs::exponential, pool::TraceShape::Runs::constant}) {
      const pool::SimResult r = simulated(poisson(load, 1, 120'000 / load, runs), o);
      expectClose(r.all.refusedShare(), erlangB(places, load), "refused");
      EXPECT_LE(r.running_max, places);
    }
  }
}

TEST(ClosedForm, WithAQueueTheWaitIsErlangC) {
  for (auto [places, load] : {std::pair{8u, 6.0}, {2u, 1.2}}) {
    pool::SimOptions o;
    o.boxes_max = places;
    const pool::SimResult r = simulated(poisson(load, 1, 1'200'000 / load), o);
    const double c = erlangC(places, load);
    expectClose(r.all.wait_mean_ns * 1e-9, c / (places - load), "mean wait");
    expectClose(static_cast<double>(r.all.wait_p90_ns) * 1e-9, std::log(c / 0.1) / (places - load),
                "90 % wait");
    expectClose(r.queued_mean, c * load / (places - load), "queue");
  }
}

TEST(ClosedForm, WithoutBoundsTheRunningTasksArePoisson) {  // M/G/inf: only the mean run counts
  using Runs = pool::TraceShape::Runs;
  for (auto [runs, spread] : {std::pair{Runs::exponential, 1.0},
                              {Runs::constant, 1.0},
                              {Runs::lognormal, 1.0},
                              {Runs::pareto, 3.0}}) {
    const pool::SimResult r = simulated(poisson(20, 1, 10'000, runs, spread), {});
    expectClose(r.running_mean, 20, "mean");
    expectClose(r.running_square - r.running_mean * r.running_mean, 20, "variance");
  }
}

pool::SimResult onProcessors(pool::Trace trace, double processors, const pool::SimCosts& costs) {
  pool::SimOptions o;
  o.processors = processors;
  o.each.costs = costs;
  o.boxes_max = 1'000'000;
  return simulated(trace, o);
}

pool::Trace computing(pool::Trace trace) {
  for (pool::Arrival& a : trace.arrivals) a.cpu_ns = a.run_ns;
  return trace;
}

TEST(ClosedForm, OneSharedProcessorDelaysByItsLoadAlone) {  // M/G/1-PS
  using Runs = pool::TraceShape::Runs;
  for (auto [runs, spread] :
       {std::pair{Runs::exponential, 1.0}, {Runs::constant, 1.0}, {Runs::lognormal, 0.8}}) {
    const pool::SimResult r = onProcessors(computing(poisson(7, 0.1, 30'000, runs, spread)), 1, {});
    expectClose(r.all.whole.mean_ns * 1e-9, 0.1 / (1 - 0.7), "whole");
    expectClose(r.processors_busy, 0.7, "busy");
  }
}

TEST(ClosedForm, SeveralSharedProcessorsAreErlangC) {  // M/M/c-PS
  const pool::SimResult r = onProcessors(computing(poisson(15, 0.1, 15'000)), 2, {});
  expectClose(r.all.whole.mean_ns * 1e-9, 0.1 + 0.1 * erlangC(2, 1.5) / (2 - 1.5), "whole");
  expectClose(r.processors_busy, 1.5, "busy");
}

TEST(ClosedForm, TheSpawnersThreadIsAQueueOfOne) {  // M/D/1, by Pollaczek and Khinchine
  pool::SimCosts costs;
  costs.claim.before.spawner_ns = 10 * kMs;
  const pool::SimResult r = onProcessors(poisson(80, 0, 2'000), 4, costs);
  expectClose(r.all.whole.mean_ns, (10 + 0.8 * 10 / (2 * 0.2)) * kMs, "whole");
  expectClose(r.spawner_busy, 0.8, "busy");
}

// --- the simulated host, by hand ----------------------------------------------------------

TEST(Processors, AreSharedInEqualPartsAndThreadsComeFirst) {
  using Class = pool::Processors::Class;
  pool::Processors p(2);
  p.add(1, Class::shared, 10);
  p.add(2, Class::shared, 30);
  EXPECT_EQ(p.nextDone_ns(), 10u);  // a processor each
  p.add(3, Class::ahead, 20);       // takes one of them; the other two share the other
  EXPECT_EQ(p.nextDone_ns(), 20u);
  p.advance(20);
  EXPECT_EQ(p.takeDone() + p.takeDone(), 4u);  // both at 20
  EXPECT_EQ(p.busy(), 1);
  EXPECT_EQ(p.nextDone_ns(), 40u);
  p.advance(40);
  EXPECT_EQ(p.takeDone(), 2u);
  EXPECT_EQ(p.nextDone_ns(), UINT64_MAX);
  EXPECT_EQ(p.busy(), 0);
}

TEST(SimHost, StepTakesThreadsThenItsOwnWorkAndLeavesTheRestBehind) {
  pool::SimHost host(4);
  pool::SimStep step;
  step.before = {5, 7, 11};
  step.behind = {0, 100, 0};
  ASSERT_TRUE(host.begin(1, step));
  ASSERT_TRUE(host.begin(2, step));  // waits for the daemon's thread
  const auto until = [&](uint64_t at_ns) {
    EXPECT_EQ(host.nextDone_ns(), at_ns);
    host.advance(at_ns);
    return host.next().value_or(0);
  };
  EXPECT_EQ(until(5), 0u);   // the daemon, 1
  EXPECT_EQ(until(10), 0u);  // the daemon, 2
  EXPECT_EQ(until(12), 0u);  // the spawner, 1
  EXPECT_EQ(until(19), 0u);  // the spawner, 2
  EXPECT_EQ(until(23), 1u);
  EXPECT_TRUE(host.spawnerBusy());  // with what is behind
  EXPECT_EQ(until(30), 2u);
  EXPECT_EQ(until(123), 0u);
  EXPECT_EQ(until(223), 0u);
  EXPECT_EQ(host.nextDone_ns(), UINT64_MAX);
  EXPECT_FALSE(host.begin(1, {}));  // nothing to wait for
}

TEST(SimHost, AFirstByteIsAsLateAsWasMeasuredForAnIdleOrAFullHost) {
  pool::Trace trace;
  trace.templates = {"python"};
  for (uint64_t i = 0; i < 2; ++i) trace.arrivals.push_back({0, 900 * kS, 0, 0, 900 * kS});
  for (uint64_t i = 1; i <= 400; ++i) trace.arrivals.push_back({i * kS, 0, 0, 0, 1});
  trace.end_ns = 401 * kS;
  pool::SimOptions o;
  o.each.costs.claim.before.own_ns = 1'000;
  o.boxes_max = 1'000;
  const auto first = [&](double processors, std::vector<uint64_t> idle,
                         std::vector<uint64_t> full) {
    o.processors = processors;
    o.each.costs.late_ns = std::move(idle);
    o.each.costs.late_full_ns = std::move(full);
    return simulated(trace, o).all.first_byte;
  };
  EXPECT_LT(first(2, {}, {}).max_ns, 10'000u);
  EXPECT_LT(first(3, {}, {4 * kMs}).max_ns, 10'000u);  // one processor is idle
  EXPECT_NEAR(first(2, {}, {4 * kMs}).mean_ns, 4 * kMs, 10'000);
  EXPECT_LT(first(2, {4 * kMs}, {}).max_ns, 10'000u);
  // Half of all between 0 and 1 ms, half between 1 and 9.
  const pool::SimTimes spread = first(3, {0, kMs, 9 * kMs}, {});
  EXPECT_NEAR(spread.mean_ns, 2.75 * kMs, 0.4 * kMs);
  EXPECT_NEAR(static_cast<double>(spread.p50_ns), kMs, 0.4 * kMs);
  EXPECT_NEAR(static_cast<double>(spread.p90_ns), 7.4 * kMs, 0.8 * kMs);
  EXPECT_LT(spread.max_ns, 9 * kMs + 10'000);
}

config::PlanTemplate python() {
  config::PlanTemplate t;
  t.name = "python";
  t.limits.memory_bytes = 256ull << 20;
  return t;
}

TEST(Costs, AddUpToWhatWasMeasuredWhateverTheShapes) {
  pool::Random random(3);
  for (int i = 0; i < 1'000; ++i) {
    config::PlanTemplate t = python();
    for (uint64_t* us :
         {&t.make.time_us, &t.make.daemon_us, &t.make.spawner_us, &t.make.other_us,
          &t.task.claim_us, &t.task.run_us, &t.task.end_us, &t.task.box_cpu_us, &t.task.daemon_us,
          &t.task.spawner_us, &t.task.other_us, &t.task.client_us})
      *us = random.next() % 5'000 + 1;
    t.make.box_us = random.next() % (t.make.time_us + 1);
    t.task.first_us = random.next() % (t.task.run_us + 1);
    const pool::SimCosts c = costsOf(t, true);
    const auto work = [](const pool::SimStep& s) {
      return static_cast<double>(s.before.all_ns() + s.behind.all_ns()) * 1e-3;
    };
    const auto time = [](const pool::SimStep& s) {
      return static_cast<double>(s.before.all_ns() + s.wait_ns) * 1e-3;
    };
    const config::PlanMake& m = t.make;
    const config::PlanTask& k = t.task;
    const auto sum = [](auto... each) { return static_cast<double>((each + ...)); };
    ASSERT_NEAR(time(c.box) + time(c.clone), sum(m.time_us), 0.1);
    ASSERT_NEAR(work(c.box) + work(c.clone), sum(m.daemon_us, m.spawner_us, m.other_us), 0.1);
    ASSERT_NEAR(time(c.claim), sum(k.claim_us), 0.1);
    ASSERT_NEAR(time(c.end), sum(k.end_us), 0.1);
    // The run's own work is what the box's time has beyond the first byte.
    const double run = static_cast<double>(c.cpu_default_ns - c.cpu_before_ns) * 1e-3;
    ASSERT_NEAR(work(c.claim) + work(c.first) + run + work(c.end),
                sum(k.box_cpu_us, k.daemon_us, k.spawner_us, k.other_us, k.client_us), 0.1);
    ASSERT_LE(c.cpu_before_ns, c.cpu_default_ns);
  }
}

// --- a host under a load --------------------------------------------------------------------

config::PlanHost bigHost(double processors = 4) {
  config::PlanHost h;
  h.file = "host.toml";
  h.processors = processors;
  h.memory_bytes = 64ull << 30;
  h.open_files = 20'000;
  h.processes = 100'000;
  h.user_namespaces = 30'000;
  h.ptys = 4'096;
  h.templates = {python()};
  return h;
}

config::PlanScenario scenario(double rate_hz, uint64_t run_ms, double cpu_share) {
  config::PlanScenario s;
  s.time_ms = 120'000;
  s.warm_up_ms = 20'000;
  config::PlanLoad load;
  load.rate_hz = rate_hz;
  load.run_ms = run_ms;
  load.cpu_share = cpu_share;
  s.loads = {load};
  return s;
}

Input inputOf(const config::PlanScenario& s, config::PlanHost host) {
  Input in;
  auto trace = makeLoad(s, host);
  EXPECT_TRUE(trace) << trace.error().message;
  in.trace = std::move(*trace);
  in.host = std::move(host);
  in.warm_up_ns = *s.warm_up_ms * kMs;
  in.seed = s.seed;
  return in;
}

Advice advised(const Input& in, const config::PlanScenario& s) {
  auto a = advise(in, s);
  EXPECT_TRUE(a) << a.error().message;
  return a ? std::move(*a) : Advice{};
}

TEST(Predict, IdleHostServesAtTheMeasuredSpeed) {
  const config::PlanScenario s = scenario(2, 0, 1);
  auto o = predict(inputOf(s, bigHost()), 1, 1);
  ASSERT_TRUE(o);
  const config::PlanTask k = bigHost().templates[0].task;
  const uint64_t first_ns = (k.claim_us + k.first_us) * 1'000;
  EXPECT_NEAR(static_cast<double>(o->sim.all.first_byte.p50_ns), static_cast<double>(first_ns),
              0.1 * static_cast<double>(first_ns));
  EXPECT_LT(o->sim.all.missShare(), 0.05);
  EXPECT_EQ(o->sim.all.refused, 0u);
  EXPECT_GT(o->sim.all.first_byte.p99_ns, 0u);
}

TEST(Predict, IsTheSameEachTimeAndDiffersBySeed) {
  const config::PlanScenario s = scenario(50, 20, 1);
  Input in = inputOf(s, bigHost(2));
  const auto figures = [&] {
    auto o = predict(in, 2, 1.5);
    EXPECT_TRUE(o);
    return std::tuple(o->sim.all.arrivals, o->sim.all.hits, o->sim.all.first_byte.mean_ns,
                      o->sim.all.memory_byte_s);
  };
  const auto once = figures();
  EXPECT_EQ(once, figures());
  in.seed = 2;
  EXPECT_NE(once, figures());
}

TEST(Predict, EachHostGetsItsPartOfTheLoad) {
  const config::PlanScenario s = scenario(60, 5, 1);
  const Input in = inputOf(s, bigHost());
  const auto all = static_cast<double>(predict(in, 1, 1)->sim.all.arrivals);
  for (uint32_t hosts : {2u, 5u})
    EXPECT_NEAR(static_cast<double>(predict(in, hosts, 1)->sim.all.arrivals), all / hosts,
                5 * std::sqrt(all / hosts));
}

TEST(Predict, BrokerCostsEachBoxTwoDescriptors) {
  config::PlanHost h = bigHost();
  config::Daemon settings;
  const sched::Budget budget = budgetOf(h, settings);
  EXPECT_EQ(demandOf(h.templates[0], budget, true).fds,
            demandOf(h.templates[0], budget, false).fds + 2);
  // The daemon's own budget leaves as many boxes.
  h.open_files = 4'096;
  const sched::Budget plain = budgetOf(h, settings);
  settings.broker_policy = "/etc/mayfly/broker.toml";
  const sched::Budget with = budgetOf(h, settings);
  EXPECT_GT(with.fds_max, 0u);
  EXPECT_LE(with.fds_max / demandOf(h.templates[0], with, true).fds,
            plain.fds_max / demandOf(h.templates[0], plain, false).fds);
}

TEST(Predict, OneTenantsFloodLeavesAnotherItsTurn) {
  config::PlanHost h = bigHost();
  config::PlanTemplate calm = python();
  calm.name = "calm";
  h.templates.insert(h.templates.begin(), calm);
  h.memory_bytes = 4ull << 30;  // some ten tasks at a time
  config::PlanScenario s = scenario(1, 200, 0);
  s.loads[0].template_name = "calm";
  s.loads[0].tenant = "calm";
  config::PlanLoad flood = s.loads[0];
  flood.template_name = "python";
  flood.tenant = "flood";
  flood.arrivals = config::PlanLoad::Arrivals::bursts;
  flood.burst = 300;
  s.loads.push_back(flood);
  auto o = predict(inputOf(s, h), 1, 1);
  ASSERT_TRUE(o);
  ASSERT_EQ(o->lanes[0].name == "calm" ? o->lanes[1].name : o->lanes[0].name, "python");
  const size_t of_calm = o->lanes[0].name == "calm" ? 0 : 1;
  EXPECT_LT(o->sim.templates[of_calm].first_byte.p90_ns * 3,
            o->sim.templates[1 - of_calm].first_byte.p90_ns);
}

TEST(Predict, TenantsWithZygotesOfTheirOwnHavePoolsOfTheirOwn) {
  config::PlanHost h = bigHost();
  h.templates[0].per_tenant = true;
  config::PlanScenario s = scenario(5, 5, 1);
  s.loads.push_back(s.loads[0]);
  s.loads[0].tenant = "a";
  s.loads[1].tenant = "b";
  auto o = predict(inputOf(s, h), 1, 1);
  ASSERT_TRUE(o);
  ASSERT_EQ(o->lanes.size(), 2u);
  EXPECT_EQ(o->lanes[0].name.substr(0, 10), "python/u1.");
  EXPECT_NE(o->lanes[0].name, o->lanes[1].name);
}

// --- answers --------------------------------------------------------------------------------

TEST(Advise, BusyProcessorsBindAndMoreHostsHelp) {
  config::PlanScenario s = scenario(60, 100, 1);  // 6 processors' worth of programs
  const Input in = inputOf(s, bigHost(4));
  const Advice a = advised(in, s);
  EXPECT_GE(a.hosts, 2u);
  EXPECT_LE(a.hosts, 4u);
  EXPECT_EQ(a.hosts_spare, a.hosts + 1);
  EXPECT_TRUE(a.score.met);
  EXPECT_GE(a.headroom, 1.0);
  EXPECT_LT(a.headroom, 2.5);
  EXPECT_NE(a.binds.find("processors"), std::string::npos) << a.binds;
  EXPECT_EQ(a.resources[0].name, "processors");
  for (const Row& row : a.what_ifs) {
    if (row.what == "twice the load") {
      EXPECT_GE(row.hosts, 2 * a.hosts - 1);
      EXPECT_LE(row.hosts, 2 * a.hosts + 1);
    } else if (row.what == "half the processors") {
      EXPECT_GT(row.hosts, a.hosts);
    } else if (row.what == "half the memory") {
      EXPECT_EQ(row.hosts, a.hosts);
    } else if (row.what == "nothing parked") {
      EXPECT_EQ(row.score.missed, 1.0);
    }
  }
}

TEST(Advise, MemoryBindsWhereTasksWaitAndDoNotCompute) {
  config::PlanScenario s = scenario(20, 2'000, 0.001);  // 40 tasks of 256 MiB at a time
  config::PlanHost h = bigHost(8);
  h.memory_bytes = 16ull << 30;
  const Advice a = advised(inputOf(s, h), s);
  EXPECT_NE(a.binds.find("memory"), std::string::npos) << a.binds;
  EXPECT_NE(a.binds.find("full for"), std::string::npos) << a.binds;
}

TEST(Advise, TheSpawnersThreadBindsHostsOfManyProcessors) {
  config::PlanScenario s = scenario(150, 1, 1);
  s.time_ms = 60'000;
  config::PlanHost h = bigHost(64);
  h.templates[0].make.spawner_us = 1'500;
  h.templates[0].task.spawner_us = 1'500;
  s.hosts_max = 1;
  const Advice a = advised(inputOf(s, h), s);
  EXPECT_NE(a.binds.find("the spawner's thread"), std::string::npos) << a.binds;
}

TEST(Advise, GoalThatNoHostMeetsIsSaid) {
  config::PlanScenario s = scenario(5, 5, 1);
  s.goal.first_byte_ms = 1;  // a claim alone takes as long
  s.hosts_max = 8;
  const Input in = inputOf(s, bigHost());
  const Advice a = advised(in, s);
  EXPECT_EQ(a.hosts, 0u);
  EXPECT_EQ(a.headroom, 0);
  EXPECT_EQ(hostsInWords(s, a).substr(0, 47), "No number of hosts up to 8 meets the goal: burs");
}

TEST(Advise, ThePoolsMemoryIsItsMostBecauseTheirSizesChangeSlowly) {
  const config::PlanScenario s = scenario(20, 50, 1);
  const Advice a = advised(inputOf(s, bigHost()), s);
  const auto pools = std::find_if(a.resources.begin(), a.resources.end(), [](const Resource& r) {
    return r.name.starts_with("memory of the pools");
  });
  ASSERT_NE(pools, a.resources.end());
  EXPECT_GT(pools->most, 0);
  EXPECT_EQ(pools->mean, pools->most);
}

TEST(Advise, SettingsToPasteAreSettingsAndHelp) {
  config::PlanScenario s = scenario(3, 50, 0.2);
  config::PlanLoad bursts = s.loads[0];
  bursts.arrivals = config::PlanLoad::Arrivals::bursts;
  bursts.burst = 30;
  bursts.every_ms = 5'000;
  s.loads.push_back(bursts);
  Input in = inputOf(s, bigHost(16));
  in.settings.parked_max = 4;
  s.hosts_max = 1;  // more hosts would have more clones parked, too
  const Advice a = advised(in, s);
  EXPECT_NE(a.binds.find("parked_max: at most 4 clones"), std::string::npos) << a.binds;
  auto pasted = config::parseDaemon(a.settings_toml, "mayfly.toml");
  ASSERT_TRUE(pasted) << pasted.error().message << "\n" << a.settings_toml;
  EXPECT_GT(pasted->parked_max, 30u);
  EXPECT_GE(pasted->queue_max, config::Daemon{}.queue_max);
  ASSERT_GE(a.what_ifs.size(), 2u);
  EXPECT_EQ(a.what_ifs[1].what, "the settings below");
  EXPECT_LT(a.what_ifs[1].score.missed, 0.5 * a.what_ifs[0].score.missed);
}

TEST(Advise, AnotherMechanismIsTriedIfItWasMeasured) {
  config::PlanScenario s = scenario(20, 5, 1);
  config::PlanHost h = bigHost();
  config::PlanTemplate shell = python();
  shell.name = "shell";
  shell.mechanism = "exec";
  shell.make.time_us = 60'000;
  shell.make.other_us = 60'000;
  h.templates.push_back(shell);
  const Advice a = advised(inputOf(s, h), s);
  const Row& row = a.what_ifs.back();
  EXPECT_EQ(row.what, "made by exec, as 'shell'");
  EXPECT_GT(row.processors, a.what_ifs[0].processors);
  // With both in the load, each alone is another way.
  s.loads.push_back(s.loads[0]);
  s.loads[1].template_name = "shell";
  const Advice both = advised(inputOf(s, h), s);
  std::vector<std::string> made;
  for (const Row& each : both.what_ifs)
    if (each.what.starts_with("made by")) made.push_back(each.what);
  EXPECT_EQ(made,
            (std::vector<std::string>{"made by fork, as 'python'", "made by exec, as 'shell'"}));
}

TEST(Advise, WhatCannotBePlannedIsRefusedByName) {
  const config::PlanScenario s = scenario(5, 5, 1);
  const Input good = inputOf(s, bigHost());
  const auto refused = [&](auto change) {
    Input in = good;
    change(in);
    auto a = advise(in, s);
    EXPECT_FALSE(a);
    return a ? "" : a.error().message;
  };
  EXPECT_EQ(refused([](Input& in) { in.trace.templates[0] = "ruby"; }),
            "the trace names template 'ruby', and host.toml has no measure of it");
  EXPECT_EQ(refused([](Input& in) { in.trace.arrivals.clear(); }),
            "there is no load: no task arrives");
  EXPECT_EQ(refused([](Input& in) { in.warm_up_ns = 500 * kS; }),
            "the warm-up of 500 s leaves nothing of the trace's 120 s");
  const std::string never = refused([](Input& in) { in.host.memory_bytes = 128ull << 20; });
  EXPECT_EQ(never.substr(0, 57), "host.toml: no task of template 'python' can ever run: the");
  config::PlanScenario other = s;
  other.loads[0].template_name = "ruby";
  auto load = makeLoad(other, bigHost());
  ASSERT_FALSE(load);
  EXPECT_EQ(load.error().code, base::Code::notFound);
}

// --- what is shown --------------------------------------------------------------------------

size_t widest(const std::string& text) {
  size_t most = 0, width = 0;
  for (char c : text) {
    if (c == '\n')
      width = 0;
    else
      most = std::max(most, ++width);
  }
  return most;
}

TEST(Render, TableJsonAndPictureSayTheSame) {
  config::PlanScenario s = scenario(60, 100, 1);
  const Input in = inputOf(s, bigHost(4));
  const Advice a = advised(in, s);
  const std::string table = renderTable(in, s, a);
  EXPECT_LE(widest(table.substr(table.find("One host of"))), 100u);  // sentences may be longer
  const nlohmann::json json = nlohmann::json::parse(renderJson(in, s, a));
  const std::string svg = renderSvg(s, a);
  EXPECT_EQ(json["hosts"], a.hosts);
  EXPECT_EQ(json["hostsWithSpare"], a.hosts + 1);
  EXPECT_EQ(json["settings"], a.settings_toml);
  EXPECT_NEAR(json["oneHost"]["firstByteP99Ms"].get<double>(),
              static_cast<double>(a.score.first_p99_ns) * 1e-6, 1e-9);
  EXPECT_EQ(json["whatIf"].size(), a.what_ifs.size());
  for (const std::string& words : {hostsInWords(s, a), bindingInWords(s, a)}) {
    EXPECT_NE(table.find(words), std::string::npos) << words;
    EXPECT_NE(svg.find(words), std::string::npos) << words;  // in its label, at least
  }
  for (const Row& row : a.what_ifs) EXPECT_NE(table.find(row.what), std::string::npos) << row.what;
  for (const Resource& r : a.resources) {
    EXPECT_NE(table.find(r.name), std::string::npos) << r.name;
    EXPECT_NE(svg.find(r.name), std::string::npos) << r.name;
  }
  EXPECT_NE(table.find(a.settings_toml), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  EXPECT_EQ(svg.substr(svg.size() - 7), "</svg>\n");
}

TEST(Render, FiguresFinerThanTheModelAreWarnedOf) {
  config::PlanScenario s = scenario(60, 100, 1);
  Advice a;
  a.score.tasks = 5'000;
  a.score.first_p99_ns = 5 * kMs;
  s.goal.first_byte_ms = 5;
  EXPECT_TRUE(warningsOf(s, a).empty());
  s.goal.first_byte_ms = 4;
  ASSERT_EQ(warningsOf(s, a).size(), 1u);
  EXPECT_NE(warningsOf(s, a)[0].find("a first byte within 4ms, is below 5ms"), std::string::npos);
  s.goal.first_byte_ms = 100;
  a.score.first_p99_ns = 1'200'000;
  ASSERT_EQ(warningsOf(s, a).size(), 1u);
  EXPECT_NE(warningsOf(s, a)[0].find("p99 of 1.2 ms is below 5ms"), std::string::npos);
  a.score.first_p99_ns = 0;  // no task was served
  EXPECT_TRUE(warningsOf(s, a).empty());
  a.score.tasks = 1'999;
  ASSERT_EQ(warningsOf(s, a).size(), 1u);
  EXPECT_EQ(warningsOf(s, a)[0].substr(0, 16), "Only 1999 tasks:");
}

TEST(Render, WarningsAreInTheTableAndInTheJson) {
  config::PlanScenario s = scenario(5, 5, 1);
  const Input in = inputOf(s, bigHost());
  const Advice a = advised(in, s);
  const std::vector<std::string> warnings = warningsOf(s, a);
  ASSERT_EQ(warnings.size(), 2u) << "a short load on an idle host";
  EXPECT_EQ(nlohmann::json::parse(renderJson(in, s, a))["warnings"], warnings);
  for (const std::string& each : warnings)
    EXPECT_NE(renderTable(in, s, a).find(each + "\n"), std::string::npos) << each;
}

TEST(Render, NamesCannotBreakThePicture) {
  config::PlanScenario s = scenario(5, 5, 1);
  Advice a = advised(inputOf(s, bigHost()), s);
  a.binds = "<script>\"&\x1b[31m";
  a.headroom = 1.5;
  a.unbound = false;
  const std::string svg = renderSvg(s, a);
  EXPECT_EQ(svg.find("<script>"), std::string::npos);
  EXPECT_NE(svg.find("&lt;script&gt;&quot;&amp;\\x1b[31m"), std::string::npos);
  EXPECT_EQ(svg.find('\x1b'), std::string::npos) << "XML allows no control byte";
}

}  // namespace
}  // namespace mayfly::plan
