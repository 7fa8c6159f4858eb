// Mix files, and the command lines of `mayfly bench`.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "bench/mix_target.h"
#include "cli/bench_options.h"
#include "config/mix.h"

namespace mayfly::cli {
namespace {

using bench::LoadShape;
using config::Mix;

constexpr const char* kMix = R"toml([[task]]
name = "small"
weight = 9
code = "print(6*7)"
expect = "42\n"
tenant = "web"

[[task]]
name = "large"
template = "python-data"
script = "report.py"
args = ["--all"]
files = ["data/a.csv"]
input_sizes = ["4KiB", "1MiB"]
collect = true
env = { MODE = "fast" }
limits = { memory = "64MiB", wall_time = "2s" }

[[task]]
name = "shell"
template = "shell"
command = ["sh", "-c", "echo hi"]
)toml";

std::string mistake(const std::string& text) {
  auto mix = config::parseMix(text, "m.toml");
  return mix ? "taken" : mix.error().message;
}

TEST(BenchMix, AFileBecomesTasks) {
  auto mix = config::parseMix(kMix, "m.toml");
  ASSERT_TRUE(mix) << mix.error().message;
  ASSERT_EQ(mix->tasks.size(), 3u);
  EXPECT_EQ(mix->tasks[0].weight, 9u);
  EXPECT_EQ(mix->tasks[0].expect, "42\n");
  EXPECT_EQ(mix->tasks[0].tenant, "web");
  const config::MixTask& large = mix->tasks[1];
  EXPECT_EQ(large.weight, 1u);
  EXPECT_FALSE(large.expect);
  EXPECT_EQ(large.input_sizes_bytes, (std::vector<uint64_t>{4'096, 1'048'576}));
  EXPECT_TRUE(large.collect);
  EXPECT_EQ(large.env, (std::vector<std::pair<std::string, std::string>>{{"MODE", "fast"}}));
  ASSERT_EQ(large.limits.size(), 2u);
  const LimitWishes wishes = bench::wishesOf(large);
  EXPECT_EQ(wishes.memory_bytes, 64u << 20);
  EXPECT_EQ(wishes.wall_time_ms, 2'000u);
  EXPECT_FALSE(wishes.cpu_milli);
  EXPECT_EQ(mix->tasks[2].command.size(), 3u);
}

TEST(BenchMix, AMistakeNamesFileLineAndKey) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "m.toml: has no [[task]]"},
      {"[[task]]\nname = \"a\"\ncode = \"x\"\nweigth = 3\n", "m.toml:4: unknown key 'task.weigth'"},
      {"[[task]]\nname = \"a\"\ncode = \"x\"\nweight = 0\n",
       "m.toml:4: 'task.weight' must be a whole number from 1"},
      {"[[task]]\nname = \"a\"\n", "m.toml:1: 'task' needs exactly one of code, script, command"},
      {"[[task]]\nname = \"a\"\ncode = \"x\"\nscript = \"y\"\n", "exactly one of"},
      {"[[task]]\ncode = \"x\"\n", "'task.name' is required"},
      {"[[task]]\nname = \"a\"\ncode = \"x\"\n[[task]]\nname = \"a\"\ncode = \"x\"\n",
       "m.toml:5: 'task.name' is the name of another task"},
      {"[[task]]\nname = \"a\"\ncode = \"x\"\ntemplate = \"../x\"\n",
       "m.toml:4: 'task.template' must be"},
      {"[[task]]\nname = \"a\"\ncode = \"x\"\ninput_sizes = [\"2 parsecs\"]\n",
       "m.toml:4: 'task.input_sizes' is wrong"},
      {"[[task]]\nname = \"a\"\ncode = \"x\"\ninput_sizes = [\"1GiB\"]\n", "at most 64MiB"},
      {"[[task]]\nname = \"a\"\ncode = \"x\"\n[task.limits]\nmemory = \"1KiB\"\n",
       "m.toml:5: 'task.limits.memory' is 1KiB"},
      {"[[task]]\nname = \"a\"\ncode = \"x\"\n[task.limits]\nspeed = 3\n",
       "unknown key 'task.limits.speed'"},
      {"[[task]]\nname = \"a\"\ncommand = []\n", "whole command line"},
      {"[[task]]\nname = \"a\"\ncode = \"x\"\ntenant = \"a\\u0007\"\n",
       "'task.tenant' must be at most 64 printable bytes"},
      {"task = 3\n", "'task' must be a list"},
      {"[[task]\n", "m.toml:1: not valid TOML"},
  };
  for (const auto& [text, says] : cases)
    EXPECT_NE(mistake(text).find(says), std::string::npos) << mistake(text) << "\nwanted: " << says;
}

TEST(BenchMix, PathsAreRelativeToTheFile) {
  char folder[] = "/tmp/mayfly-mix-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/m.toml";
  std::ofstream(path) << kMix;
  auto mix = config::loadMix(path);
  ASSERT_TRUE(mix) << mix.error().message;
  EXPECT_EQ(mix->tasks[1].script, std::string(folder) + "/report.py");
  EXPECT_EQ(mix->tasks[1].files[0], std::string(folder) + "/data/a.csv");
  ::unlink(path.c_str());
  ::rmdir(folder);
  EXPECT_NE(config::loadMix(path).error().message.find(path), std::string::npos);
}

// --- traces ---------------------------------------------------------------------------

pool::Trace traceOf(const char* lines) {
  auto trace = pool::parseTrace(lines, "t.csv", 0, 1);
  EXPECT_TRUE(trace) << trace.error().message;
  return trace ? *trace : pool::Trace{};
}

using Tenants = std::vector<std::string>;

TEST(BenchTrace, TasksAreForTheTracesTenantsAndHaveItsFigures) {
  const pool::Trace trace =
      traceOf("0,python,0.5,0.25,4096,u1,t1\n1,python,0.125,,,u1,\n2,python,1,,,u1,t2\n");
  const auto tenants = bench::tenantsOf(trace);
  ASSERT_TRUE(tenants) << tenants.error().message;
  EXPECT_EQ(*tenants, (Tenants{"t1", "", "t2"}));
  using Env = std::vector<std::pair<std::string, std::string>>;
  TaskSpec spec;
  bench::askFor(trace, *tenants, 0, spec);
  EXPECT_EQ(spec.tenant, "t1");
  EXPECT_EQ(
      spec.env,
      (Env{{"RUN_SECONDS", "0.500000"}, {"CPU_SECONDS", "0.250000"}, {"MEMORY_BYTES", "4096"}}));
  TaskSpec unknown;
  bench::askFor(trace, *tenants, 1, unknown);
  EXPECT_EQ(unknown.tenant, "");
  EXPECT_EQ(unknown.env, (Env{{"RUN_SECONDS", "0.125000"}}));
  TaskSpec named;
  named.tenant = "mine";
  bench::askFor(trace, *tenants, 2, named);
  EXPECT_EQ(named.tenant, "mine") << "the mix's word counts";
  const pool::Trace plain = traceOf("0,python,1\n");
  TaskSpec nobodys;
  bench::askFor(plain, *bench::tenantsOf(plain), 0, nobodys);
  EXPECT_EQ(nobodys.tenant, "");
}

TEST(BenchTrace, SeveralUsersBecomeTenants) {
  const pool::Trace trace =
      traceOf("0,a,1,,,u1,t1\n1,a,1,,,u2,t1\n2,a,1,,,u2,\n3,a,1,,,,t9\n4,a,1\n");
  EXPECT_EQ(*bench::tenantsOf(trace), (Tenants{"u1/t1", "u2/t1", "u2", "t9", ""}));
  const auto refused =
      bench::tenantsOf(traceOf(("0,a,1,,,u1," + std::string(65, 'x') + "\n").c_str()));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::Code::invalidArgument);
  EXPECT_NE(refused.error().message.find("is no name that a daemon takes"), std::string::npos);
}

// --- the command line -----------------------------------------------------------------

using Words = std::vector<std::string>;

template <class Verb>
Verb parsed(const Words& words) {
  BenchCommand command = parseBench(words, "/run/d.sock");
  if (auto* text = std::get_if<BenchText>(&command.verb)) {
    ADD_FAILURE() << text->text;
    return {};
  }
  return std::get<Verb>(command.verb);
}

std::string refused(const Words& words) {
  BenchCommand command = parseBench(words, "/run/d.sock");
  auto* text = std::get_if<BenchText>(&command.verb);
  if (text == nullptr) return "taken";
  EXPECT_EQ(text->code, 2) << text->text;
  return text->text;
}

TEST(BenchOptions, WordsOfARunBecomeItsLoad) {
  const auto plain = parsed<bench::RunVerb>({"run"});
  EXPECT_EQ(plain.socket, "/run/d.sock");
  EXPECT_EQ(plain.shape.kind, LoadShape::Kind::poisson);
  EXPECT_EQ(plain.shape.in_flight, 1'000u);
  EXPECT_EQ(plain.rounds, 6u);
  EXPECT_EQ(plain.load.mix->tasks[0].expect, "42\n");
  const auto closed = parsed<bench::RunVerb>({"run", "--arrivals", "closed", "-c", "print(1)",
                                              "--socket", "/x", "--time", "250ms", "--warm-up",
                                              "0s", "--rounds", "2", "--seed", "9", "-t", "shell"});
  EXPECT_EQ(closed.shape.kind, LoadShape::Kind::closed);
  EXPECT_EQ(closed.shape.in_flight, 4u);
  EXPECT_EQ(closed.shape.time_s, 0.25);
  EXPECT_EQ(closed.shape.warm_up_s, 0);
  EXPECT_EQ(closed.socket, "/x");
  EXPECT_EQ(closed.load.seed, 9u);
  EXPECT_EQ(closed.load.mix->tasks[0].template_name, "shell");
  EXPECT_FALSE(closed.load.mix->tasks[0].expect) << "another program prints something else";
  const auto bursts =
      parsed<bench::RunVerb>({"run", "--arrivals", "bursts", "--burst", "20", "--every", "500ms"});
  EXPECT_EQ(bursts.shape.stated_per_s(), 40);
}

TEST(BenchOptions, ATraceIsReplayedAsLongAsItIs) {
  char path[] = "/tmp/mayfly-trace-XXXXXX";
  const int fd = ::mkstemp(path);
  ASSERT_GE(fd, 0);
  ::close(fd);
  std::ofstream(path) << "seconds,template,run_seconds\n0,python,0.5\n1,python,0.25\n4,python\n";
  const auto run =
      parsed<bench::RunVerb>({"run", "--arrivals", "trace", "--trace", path, "--speed", "2"});
  EXPECT_EQ(run.shape.time_s, 2);
  EXPECT_EQ(run.shape.warm_up_s, 0);
  EXPECT_EQ(run.shape.stated_per_s(), 1.5);
  EXPECT_EQ(run.load.trace->arrivals.size(), 3u);
  EXPECT_NE(run.load.mix->tasks[0].code.find("RUN_SECONDS"), std::string::npos);
  load::Plan plan = bench::planOf(run.shape, 0);
  EXPECT_EQ(plan.arrivals(), 0u);
  EXPECT_EQ(plan.arrivals(), 500'000'000u);
  EXPECT_EQ(plan.arrivals(), 2'000'000'000u);
  ::unlink(path);
  EXPECT_NE(refused({"run", "--arrivals", "trace", "--trace", path}).find(path), std::string::npos);
  EXPECT_NE(refused({"run", "--arrivals", "trace"}).find("--trace"), std::string::npos);
  EXPECT_NE(refused({"run", "--trace", "x"}).find("needs --arrivals trace"), std::string::npos);
}

TEST(BenchOptions, EachRoundHasItsOwnSequenceAndEachSeedTheSameOnes) {
  LoadShape shape;
  auto first = [&](uint64_t round) { return *bench::planOf(shape, round).arrivals(); };
  EXPECT_EQ(first(0), first(0));
  EXPECT_NE(first(0), first(1));
  const uint64_t before = first(0);
  shape.seed = 2;
  EXPECT_NE(first(0), before);
}

TEST(BenchOptions, OtherVerbsBecomeTheirValues) {
  const auto sweep = parsed<bench::SweepVerb>(
      {"sweep", "--goal", "p99=50ms", "--from", "5", "--to", "100", "--repeats", "2"});
  EXPECT_EQ(sweep.goal.most_ms, 50);
  EXPECT_EQ(sweep.search.from_per_s, 5);
  EXPECT_EQ(sweep.search.to_per_s, 100);
  const auto isolation =
      parsed<bench::IsolationVerb>({"isolation", "--noise", "disk", "--pairs", "3"});
  EXPECT_EQ(isolation.noise_load.mix->tasks[0].name, "disk");
  EXPECT_EQ(isolation.noise_load.mix->tasks[0].tenant, "noisy");
  EXPECT_EQ(isolation.victim_load.mix->tasks[0].tenant, "victim");
  EXPECT_EQ(isolation.pairs, 3u);
  const auto ladder = parsed<bench::LadderVerb>(
      {"ladder", "--rest", "5ms", "--templates", "/a", "--templates", "/b"});
  EXPECT_EQ(ladder.rest_ms, 5u);
  EXPECT_EQ(ladder.template_dirs, (std::vector<std::string>{"/a", "/b"}));
  const auto diff = parsed<DiffVerb>({"diff", "a.json", "b.json", "--margin", "0.1"});
  EXPECT_EQ(diff.b, "b.json");
  EXPECT_EQ(diff.options.margin, 0.1);
}

TEST(BenchOptions, WrongUseNamesTheOptionAndTheReason) {
  const std::pair<Words, const char*> cases[] = {
      {{}, "mayfly bench: measures"},
      {{"rum"}, "no verb 'rum'; the nearest is 'run'"},
      {{"run", "--rate", "x"}, "--rate: 'x' is not a number"},
      {{"run", "--rate", "nan"}, "--rate"},
      {{"run", "--rate", "1000000", "--time", "1h"}, "at most 10000000 are allowed"},
      {{"run", "--arrivals", "often"}, "'often' is none of poisson, constant"},
      {{"run", "--time", "5"}, "--time"},
      {{"run", "--rounds", "51"}, "51 is not from 1 to 50"},
      {{"run", "--raet", "5"}, "the nearest is '--rate'"},
      {{"run", "-c", "1", "--script", "x"}, "exclude each other"},
      {{"run", "--mix", "/no/such.toml"}, "/no/such.toml"},
      {{"sweep", "--goal", "fast"}, "'fast' is no goal"},
      {{"sweep", "--from", "10", "--to", "5"}, "--to"},
      {{"isolation", "--noise", "loud"}, "'loud' is none of cpu"},
      {{"diff", "a.json"}, "B"},
      {{"run", "\x1b[31m"}, "\\x1b"},
  };
  for (const auto& [words, says] : cases)
    EXPECT_NE(refused(words).find(says), std::string::npos)
        << refused(words) << "\nwanted: " << says;
}

TEST(BenchOptions, HelpFitsATerminal) {
  for (const char* verb : {"run", "sweep", "ladder", "isolation", "diff"}) {
    BenchCommand command = parseBench({verb, "--help"}, "/run/d.sock");
    auto* text = std::get_if<BenchText>(&command.verb);
    ASSERT_NE(text, nullptr);
    EXPECT_EQ(text->code, 0);
    size_t width = 0;
    for (char c : text->text) {
      width = c == '\n' ? 0 : width + 1;
      EXPECT_LE(width, 80u) << verb << ":\n" << text->text;
      if (width > 80) break;
    }
    EXPECT_TRUE(text->text.find("Usage: mayfly bench " + std::string(verb)) != std::string::npos)
        << text->text;
  }
}

}  // namespace
}  // namespace mayfly::cli
