// Policy: which submission is refused, which task is next, how a task ended. No process, socket or
// clock: every time is a number.
#include <gtest/gtest.h>
#include <signal.h>

#include "sched/task_machine.h"
#include "sched/validate.h"
#include "sched/verdict.h"

namespace mayfly::sched {
namespace {

using base::Code;
using base::Phase;
using base::Verdict;

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kS = 1'000'000'000;

pool::TemplateSpec python() {
  pool::TemplateSpec t;
  t.name = "python";
  t.runs_code = true;
  t.maximum.memory_bytes = 1ull << 30;
  return t;
}

TaskSpec code(std::string text) {
  TaskSpec s;
  s.template_name = "python";
  s.kind = CodeKind::string;
  s.code = std::move(text);
  return s;
}

std::string refusal(const TaskSpec& s, const pool::TemplateSpec& t = python()) {
  auto r = checkSpec(s, t);
  if (r) return "accepted";
  EXPECT_EQ(r.error().code, Code::invalidArgument);
  return r.error().message;
}

// --- validation ------------------------------------------------------------------

TEST(Validate, PlainCodeIsAcceptedWithTheTemplatesDefaults) {
  auto limits = checkSpec(code("print(1)"), python());
  ASSERT_TRUE(limits);
  EXPECT_EQ(limits->memory_bytes, base::Limits{}.memory_bytes);
}

TEST(Validate, ATraceContextIsW3CsOrNone) {
  const std::string good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  EXPECT_EQ(checkTrace("").value(), "");
  EXPECT_EQ(checkTrace(good).value(), good);
  EXPECT_EQ(checkTrace("cc" + good.substr(2) + "-what-the-future-brings").value(),
            "cc" + good.substr(2));
  std::string upper = good, zero_trace = good, zero_parent = good;
  upper[4] = 'A';
  zero_trace.replace(3, 32, 32, '0');
  zero_parent.replace(36, 16, 16, '0');
  for (const std::string& bad :
       {std::string("x"), good.substr(1), good + "0", good + "-more", "ff" + good.substr(2), upper,
        zero_trace, zero_parent, std::string(55, '-'), "cc" + good.substr(2) + "x"}) {
    auto r = checkTrace(bad);
    ASSERT_FALSE(r) << bad;
    EXPECT_NE(r.error().message.find("traceparent"), std::string::npos);
  }
}

TEST(Validate, EveryKindOfUnsafePathIsRefused) {
  const std::pair<std::string, const char*> cases[] = {
      {"", "empty"},
      {"/etc/passwd", "absolute"},
      {"../x", "'.' and '..'"},
      {"a/../b", "'.' and '..'"},
      {"a/./b", "'.' and '..'"},
      {"a//b", "empty part"},
      {"a/", "empty part"},
      {std::string("a\0b", 3), "NUL"},
      {"a\nb", "control"},
      {"a\xff", "UTF-8"},
      {"con", "device"},
      {"x/LPT1", "device"},
      {std::string(256, 'a'), "more than 255"},
      {std::string(2000, 'a'), "1024"},
  };
  for (const auto& [path, why] : cases) {
    TaskSpec s = code("1");
    s.files.push_back({path, "data"});
    EXPECT_NE(refusal(s).find(why), std::string::npos) << path << ": " << refusal(s);
  }
  std::string deep = "d";
  for (size_t i = 0; i < kPathDepthMax; ++i) deep += "/d";
  TaskSpec s = code("1");
  s.files.push_back({deep, ""});
  EXPECT_NE(refusal(s).find("deeper"), std::string::npos);
  s.files[0].path = "data/table 1.csv";
  EXPECT_EQ(refusal(s), "accepted");
}

TEST(Validate, TwoFilesThatCannotBothExistAreRefused) {
  TaskSpec s = code("1");
  s.files = {{"a", "1"}, {"a", "2"}};
  EXPECT_NE(refusal(s).find("twice"), std::string::npos);
  s.files = {{"a", "1"}, {"a/b", "2"}};
  EXPECT_NE(refusal(s).find("folder of another"), std::string::npos);
  s.files = {{"out", "1"}};
  EXPECT_NE(refusal(s).find("output files"), std::string::npos);
  s.files = {{"script.py", "1"}};
  s.kind = CodeKind::file;
  s.script_name = "script.py";
  EXPECT_NE(refusal(s).find("twice"), std::string::npos);
}

TEST(Validate, SetuidModesAreRefused) {
  TaskSpec s = code("1");
  s.files = {{"a", "1", 04755}};
  EXPECT_NE(refusal(s).find("permission bits"), std::string::npos);
}

TEST(Validate, CountsAndSizesHaveBounds) {
  TaskSpec s = code("1");
  s.args.assign(kArgsMax + 1, "x");
  EXPECT_NE(refusal(s).find("1025 arguments"), std::string::npos);
  s.args.assign(1, std::string(kArgBytesMax, 'x'));
  EXPECT_NE(refusal(s).find("the arguments take"), std::string::npos);
  s.args.assign(1, std::string("a\0b", 3));
  EXPECT_NE(refusal(s).find("NUL"), std::string::npos);
  s = code(std::string("1\0", 2));
  EXPECT_NE(refusal(s).find("NUL byte"), std::string::npos);
  s.kind = CodeKind::stdinText;
  EXPECT_EQ(refusal(s).find("NUL byte"), std::string::npos);
  s = code(std::string(kCodeBytesMax + 1, '#'));
  EXPECT_NE(refusal(s).find("the code has"), std::string::npos);
  s = code("1");
  for (size_t i = 0; i <= kFilesMax; ++i) s.files.push_back({"f" + std::to_string(i), ""});
  EXPECT_NE(refusal(s).find("1001 input files"), std::string::npos);
  s = code("1");
  s.limits.input_bytes = 10;
  s.stdin_data = "12345678901";
  EXPECT_NE(refusal(s).find("may bring 10"), std::string::npos);
  s = code("1");
  s.limits.disk_bytes = 1 << 20;
  s.files = {{"big", std::string((1 << 20) + 1, 'x')}};
  EXPECT_NE(refusal(s).find("files fill the disk"), std::string::npos);
  s = code("1");
  s.limits.disk_inodes = 64;
  for (int i = 0; i < 60; ++i) s.files.push_back({"f" + std::to_string(i), ""});
  EXPECT_NE(refusal(s).find("inodes"), std::string::npos);
}

std::shared_ptr<const base::Fd> someBlob() { return std::make_shared<base::Fd>(); }

TEST(Validate, ABlobCountsAgainstTheTasksCapsAndNotForTheDaemonsMemory) {
  TaskSpec s = code("1");
  s.files = {{"a", "data", 0644, {}, 0}, {"b", "", 0644, someBlob(), 1000}};
  EXPECT_EQ(inputBytes(s), 1005u);
  EXPECT_EQ(heldBytes(s), 5u);
  s.limits.input_bytes = 1004;
  EXPECT_NE(refusal(s).find("may bring 1004"), std::string::npos);
  s.limits.input_bytes = 1005;
  EXPECT_EQ(refusal(s), "accepted");
  s.limits.disk_bytes = 1 << 20;
  s.limits.input_bytes.reset();
  s.files[1].blob_bytes = 1 << 20;
  EXPECT_NE(refusal(s).find("files fill the disk"), std::string::npos);
}

TEST(Validate, AFileHasABlobOrDataAndATaskHasAtMost64Blobs) {
  TaskSpec s = code("1");
  s.files = {{"a", "data", 0644, someBlob(), 10}};
  EXPECT_NE(refusal(s).find("'a' has both"), std::string::npos);
  s.files.clear();
  auto shared = someBlob();
  for (size_t i = 0; i < 500; ++i)
    s.files.push_back({"s" + std::to_string(i), "", 0644, shared, 1});
  for (size_t i = 1; i < kBlobsMax; ++i)
    s.files.push_back({"f" + std::to_string(i), "", 0644, someBlob(), 1});
  EXPECT_EQ(refusal(s), "accepted");
  s.files.push_back({"more", "", 0644, someBlob(), 1});
  EXPECT_NE(refusal(s).find("65 different blobs"), std::string::npos);
}

TEST(Validate, TheTimeToCopyInputGrowsWithItsSizeAndWithASmallShareOfTheCores) {
  base::Limits l;
  l.cpu_milli = 1'000;
  uint64_t one = copyTime_ns(kCopyBytesPerSecondMin, l);
  EXPECT_EQ(one, kS);
  l.cpu_milli = 100;
  EXPECT_NEAR(static_cast<double>(copyTime_ns(kCopyBytesPerSecondMin, l)), 10.0 * kS, kMs);
  l.cpu_milli = 8'000;  // one clone copies on one core
  EXPECT_EQ(copyTime_ns(kCopyBytesPerSecondMin, l), kS);
  EXPECT_EQ(copyTime_ns(0, l), 0u);
}

TEST(Validate, EnvironmentNamesAreChecked) {
  for (const char* name : {"", "1A", "A=B", "A B", "\xc3\xa9"}) {
    TaskSpec s = code("1");
    s.env = {{name, "v"}};
    EXPECT_NE(refusal(s), "accepted") << name;
  }
  TaskSpec s = code("1");
  s.env = {{"A", "1"}, {"A", "2"}};
  EXPECT_NE(refusal(s).find("twice"), std::string::npos);
  s.env = {{"A", std::string("x\0y", 3)}};
  EXPECT_NE(refusal(s).find("NUL"), std::string::npos);
  s.env = {{"_A1", "any = text"}};
  EXPECT_EQ(refusal(s), "accepted");
}

TEST(Validate, ATaskWithLessThanItsCloneTakesIsRefusedAtOnce) {
  pool::TemplateSpec node = python();
  node.memory_least_bytes = 46ull << 20;
  TaskSpec s = code("1");
  s.limits.memory_bytes = 32ull << 20;
  EXPECT_EQ(refusal(s, node),
            "the cap 'memory' of 32 MiB is below what a clone of the template takes, 46 MiB");
  EXPECT_EQ(refusal(s), "accepted") << "a forked clone takes nothing";
  s.limits.memory_bytes = 46ull << 20;
  EXPECT_EQ(refusal(s, node), "accepted");
  node.processes_least = 11;
  s.limits.processes = 10;
  EXPECT_EQ(refusal(s, node),
            "the cap 'processes' of 10 is below what a clone of the template takes, 11");
  s.limits.processes = 11;
  EXPECT_EQ(refusal(s, node), "accepted");
}

TEST(Validate, ZeroCapsAndCapsAboveTheMaximumNameTheCap) {
  TaskSpec s = code("1");
  s.limits.memory_bytes = 0;
  EXPECT_EQ(refusal(s), "the cap 'memory' must be more than 0");
  s.limits.memory_bytes = 2ull << 30;
  EXPECT_EQ(refusal(s), "the cap 'memory' of 2GiB is above the template's maximum of 1GiB");
  s.limits.memory_bytes = (16ull << 20) - 1;
  EXPECT_NE(refusal(s).find("is below the least, 16MiB"), std::string::npos);
  s.limits.memory_bytes = 16ull << 20;
  EXPECT_EQ(refusal(s), "accepted");
  s.limits.memory_bytes = 1ull << 30;
  EXPECT_EQ(refusal(s), "accepted");
  s.limits.processes = 0;
  EXPECT_EQ(refusal(s), "the cap 'processes' must be more than 0");
  s = code("1");
  s.limits.grace_ms = 0;  // none
  EXPECT_EQ(refusal(s), "accepted");
  s.limits.grace_ms = 1;
  EXPECT_EQ(refusal(s), "the cap 'grace' of 1ms is above the template's maximum of 0ms");
}

TEST(Validate, CodeAndCommandMustFitTheTemplate) {
  TaskSpec s = code("1");
  s.kind = CodeKind::command;
  s.code.clear();
  s.args = {"ls"};
  EXPECT_NE(refusal(s).find("runs code, no commands"), std::string::npos);
  pool::TemplateSpec shell = python();
  shell.runs_code = false;
  shell.runs_commands = true;
  EXPECT_EQ(refusal(s, shell), "accepted");
  s.args.clear();
  EXPECT_NE(refusal(s, shell).find("empty"), std::string::npos);
  EXPECT_NE(refusal(code("1"), shell).find("runs commands, no code"), std::string::npos);
  s = code("1");
  s.script_name = "x.py";
  EXPECT_NE(refusal(s).find("without a script file"), std::string::npos);
  s.kind = CodeKind::file;
  s.script_name = "../x.py";
  EXPECT_NE(refusal(s).find("script name"), std::string::npos);
}

TEST(Validate, AModuleOrAFolderNeedsATemplateThatRunsThem) {
  pool::TemplateSpec perl = python();
  perl.name = "perl";
  pool::TemplateSpec snake = python();
  snake.runs_modules = true;
  TaskSpec s = code("json.tool");
  s.kind = CodeKind::module;
  EXPECT_EQ(refusal(s, snake), "accepted");
  EXPECT_NE(refusal(s, perl).find("template 'perl' runs no modules"), std::string::npos);
  pool::TemplateSpec shell = python();
  shell.name = "shell";
  shell.runs_code = false;
  shell.runs_commands = true;
  EXPECT_NE(refusal(s, shell).find("template 'shell' runs no modules"), std::string::npos);
  for (const std::string& name : {std::string(), std::string("a\0b", 3), std::string(2'000, 'x')}) {
    s.code = name;
    EXPECT_NE(refusal(s, snake).find("the module's name"), std::string::npos);
  }

  s = code("");
  s.kind = CodeKind::path;
  s.script_name = "app";
  EXPECT_NE(refusal(s, snake).find("not among the input files"), std::string::npos);
  s.files = {{"app/__main__.py", "print(1)"}};
  EXPECT_EQ(refusal(s, snake), "accepted");
  EXPECT_NE(refusal(s, perl).find("template 'perl' runs no folders"), std::string::npos);
  EXPECT_NE(refusal(s, shell).find("runs commands, no code"), std::string::npos);
  s.script_name = "app/__main__.py";
  EXPECT_EQ(refusal(s, perl), "accepted") << "a script among the files";
  s.code = "x";
  EXPECT_NE(refusal(s, snake).find("code besides"), std::string::npos);
  s.code.clear();
  s.script_name = "../app";
  EXPECT_NE(refusal(s, snake).find("program"), std::string::npos);
}

// --- verdicts ---------------------------------------------------------------------------

End exitedWith(int status) {
  End e;
  e.first = Cause::exited;
  e.exit = {CLD_EXITED, status};
  e.counters_final = true;
  return e;
}

TEST(Verdict, ExitStatusOfTheKernelDecidesWhereNoCapWasHit) {
  base::Limits l;
  EXPECT_EQ(judge(exitedWith(0), l).verdict, Verdict::succeeded);
  EXPECT_EQ(judge(exitedWith(3), l).verdict, Verdict::failed);
  EXPECT_EQ(judge(exitedWith(3), l).exit_code, 3);
  End e = exitedWith(0);
  e.exit = {CLD_DUMPED, SIGSEGV};
  EXPECT_EQ(judge(e, l).verdict, Verdict::signaled);
  EXPECT_EQ(judge(e, l).signal, SIGSEGV);
  EXPECT_EQ(judge(e, l).reason, "killed by SIGSEGV");
}

TEST(Verdict, CountersRevealACapThatExitCodeZeroHides) {
  base::Limits l;
  End e = exitedWith(0);
  e.counters.oom_kills = 1;
  EXPECT_EQ(judge(e, l).verdict, Verdict::memory);
  EXPECT_EQ(judge(e, l).cap_value, l.memory_bytes);
  e = exitedWith(0);
  e.counters.forks_refused = 1;
  EXPECT_EQ(judge(e, l).verdict, Verdict::processes);
  e = exitedWith(0);
  e.counters.user_cpu_ns = l.cpu_time_ms * kMs - 1;
  EXPECT_EQ(judge(e, l).verdict, Verdict::succeeded);
  e.counters.system_cpu_ns = 1;
  EXPECT_EQ(judge(e, l).verdict, Verdict::cpuTime);
  e = exitedWith(0);
  e.output_over = true;
  EXPECT_EQ(judge(e, l).verdict, Verdict::output);
  e = exitedWith(0);
  e.counters.disk_bytes = e.counters.disk_bytes_max = 4096;
  EXPECT_EQ(judge(e, l).verdict, Verdict::disk);
  EXPECT_EQ(judge(e, l).cap_value, l.disk_bytes);
  e = exitedWith(0);
  e.counters.disk_inodes = e.counters.disk_inodes_max = 10;
  EXPECT_EQ(judge(e, l).cap_value, l.disk_inodes);
}

TEST(Verdict, FirstCauseIsNeverOverwrittenByCounters) {
  base::Limits l;
  for (auto [cause, verdict] : {std::pair{Cause::wallTime, Verdict::wallTime},
                                {Cause::cancelled, Verdict::cancelled},
                                {Cause::clientGone, Verdict::clientGone},
                                {Cause::daemonStopping, Verdict::daemonStopping},
                                {Cause::queueTime, Verdict::queueTime},
                                {Cause::internal, Verdict::internal}}) {
    End e = exitedWith(0);
    e.first = cause;
    e.counters.oom_kills = 5;
    EXPECT_EQ(judge(e, l).verdict, verdict);
  }
}

TEST(Verdict, WhoEndsWithinTheGraceKeepsItsExitBesideTheFirstCause) {
  base::Limits l;
  l.wall_time_ms = 300;
  l.grace_ms = 2'000;
  const std::pair<Cause, Verdict> firsts[] = {{Cause::wallTime, Verdict::wallTime},
                                              {Cause::cancelled, Verdict::cancelled},
                                              {Cause::daemonStopping, Verdict::daemonStopping}};
  const std::tuple<ExitStatus, int, int, const char*> exits[] = {
      {{CLD_EXITED, 0, true}, 0, 0, "exited with code 0 within its grace"},
      {{CLD_EXITED, 3, true}, 3, 0, "exited with code 3 within its grace"},
      {{CLD_KILLED, SIGTERM, true}, 0, SIGTERM, "killed by SIGTERM within its grace"}};
  for (const auto& [first, verdict] : firsts)
    for (const auto& [exit, code, signal, words] : exits) {
      End e;
      e.first = first;
      e.asked = true;
      e.then = Cause::exited;
      e.exit = exit;
      e.counters_final = true;
      const Judgement j = judge(e, l);
      EXPECT_EQ(j.verdict, verdict);
      EXPECT_EQ(std::tuple(j.exit_code, j.signal, j.in_grace), std::tuple(code, signal, true));
      EXPECT_EQ(j.cap_value, first == Cause::wallTime ? 300u : 0u);
      EXPECT_NE(j.reason.find(words), std::string::npos) << j.reason;
    }
}

TEST(Verdict, WhateverElseEndsTheGraceIsNamedAndIsNoExit) {
  base::Limits l;
  l.wall_time_ms = 300;
  l.grace_ms = 2'000;
  for (auto [then, words] : {std::pair{Cause::none, "grace of 2000 ms, killed"},
                             {Cause::memory, "killed at its memory cap"},
                             {Cause::output, "killed at its output cap"},
                             {Cause::cpuTime, "killed at its cpu time cap"},
                             {Cause::cancelled, "; cancelled within its grace"},
                             {Cause::clientGone, "its client went away within its grace"},
                             {Cause::boxDied, "its box ended within its grace"}}) {
    End e;
    e.first = Cause::wallTime;
    e.asked = true;
    e.grace_ns = 2 * kS;
    e.then = then;
    e.exit = {CLD_KILLED, SIGKILL, true};
    const Judgement j = judge(e, l);
    EXPECT_EQ(j.verdict, Verdict::wallTime);
    EXPECT_EQ(std::tuple(j.exit_code, j.signal, j.in_grace), std::tuple(0, 0, false));
    EXPECT_NE(j.reason.find(words), std::string::npos) << j.reason;
    EXPECT_NE(j.reason.find("wall time cap of 300 ms"), std::string::npos) << j.reason;
  }
  // The kernel killed the main process at the memory cap: that end is not its own.
  End e;
  e.first = Cause::cancelled;
  e.asked = true;
  e.then = Cause::exited;
  e.exit = {CLD_KILLED, SIGKILL, true};
  e.counters_final = true;
  e.counters.oom_kills = 1;
  const Judgement j = judge(e, l);
  EXPECT_EQ(j.verdict, Verdict::cancelled);
  EXPECT_EQ(std::tuple(j.signal, j.in_grace), std::tuple(0, false));
  EXPECT_NE(j.reason.find("memory cap"), std::string::npos) << j.reason;
}

TEST(Verdict, NoStatusIsMayflysFailureNotTheTasks) {
  End e;
  e.first = Cause::exited;
  EXPECT_EQ(judge(e, {}).verdict, Verdict::internal);
  e.first = Cause::boxDied;
  EXPECT_EQ(judge(e, {}).verdict, Verdict::internal);
}

// --- the machine ---------------------------------------------------------------------------

struct Running {
  base::Limits limits;
  Bounds bounds;
  TaskMachine m;
  explicit Running(base::Limits l = {}, Bounds b = {}) : limits(l), bounds(b), m(l, b, 100) {
    EXPECT_TRUE(m.admitted(200).has(Act::make));
    m.boxMade(250, 300);
    EXPECT_TRUE(m.cloneReady(350, 400).has(Act::claim));
    m.claimed(450);
    EXPECT_TRUE(m.started(500, 600).has(Act::begin));
  }
};

TEST(TaskMachine, OrdinaryLifeEndsOnceAndKeepsEveryPhase) {
  Running r;
  EXPECT_TRUE(r.m.cloneExited({CLD_EXITED, 0}, 1000, 1100).has(Act::end));
  EXPECT_EQ(r.m.stage(), TaskStage::ending);
  EXPECT_TRUE(r.m.boxReaped({CLD_EXITED, 0}, {}, 1000, 1200).has(Act::drain));
  Acts acts = r.m.boxGone(true, 1300);
  EXPECT_TRUE(acts.has(Act::finish));
  EXPECT_FALSE(r.m.boxGone(true, 1400).has(Act::finish));
  EXPECT_EQ(r.m.judgement().verdict, Verdict::succeeded);
  const uint64_t want[] = {100, 200, 250, 350, 450, 500, 0, 1000, 1200, 1300};
  for (size_t i = 0; i < base::kPhases; ++i) EXPECT_EQ(r.m.phases()[i], want[i]) << i;
  EXPECT_EQ(r.m.usage(0, 0).wall_ns, 500u);
}

TEST(TaskMachine, TimesThatCannotBeTrueAreClamped) {
  TaskMachine m({}, {}, 100);
  m.admitted(200);
  m.boxMade(50, 300);  // before it was requested
  EXPECT_EQ(m.phases()[size_t(Phase::boxReady)], 200u);
  m.cloneReady(999, 400);  // in the future
  EXPECT_EQ(m.phases()[size_t(Phase::clone)], 400u);
  m.claimed(450);
  m.started(1'000'000, 500);
  EXPECT_EQ(m.phases()[size_t(Phase::started)], 500u);
  uint64_t wall_ns = base::Limits{}.wall_time_ms * kMs;
  EXPECT_LE(m.deadline_ns(), 500 + wall_ns);
}

TEST(TaskMachine, EndIsAskedForOnceWhateverFollows) {
  Running r;
  EXPECT_TRUE(r.m.stop(Cause::cancelled, {}, 700).has(Act::end));
  EXPECT_FALSE(r.m.stop(Cause::clientGone, {}, 710).has(Act::end));
  EXPECT_FALSE(r.m.capHit(Cause::memory, 720).has(Act::end));
  EXPECT_FALSE(r.m.cloneExited({CLD_KILLED, SIGKILL}, 730, 740).has(Act::end));
  EXPECT_FALSE(r.m.outputOver("stdout", 750).has(Act::end));
  Counters c;
  c.oom_kills = 3;
  r.m.boxReaped({CLD_KILLED, SIGKILL}, c, 730, 800);
  r.m.boxGone(true, 900);
  EXPECT_EQ(r.m.judgement().verdict, Verdict::cancelled);
}

TEST(TaskMachine, ControlEofBeforeStartedIsInternalWhateverTheExitCode) {
  TaskMachine m({}, {}, 100);
  m.admitted(200);
  m.boxMade(250, 300);
  m.cloneReady(350, 400);
  m.claimed(450);
  EXPECT_TRUE(m.controlBroken("eof", Again::no, 500).has(Act::end));
  m.boxReaped({CLD_EXITED, 0}, {}, 480, 600);
  m.boxGone(true, 700);
  EXPECT_EQ(m.judgement().verdict, Verdict::internal);
}

TEST(TaskMachine, ExitBeforeStartedIsInternal) {
  TaskMachine m({}, {}, 100);
  m.admitted(200);
  m.boxMade(250, 300);
  EXPECT_TRUE(m.cloneExited({CLD_EXITED, 0}, 350, 400).has(Act::end));
  m.boxReaped({CLD_EXITED, 0}, {}, 350, 500);
  m.boxGone(true, 600);
  EXPECT_EQ(m.judgement().verdict, Verdict::internal);
}

TEST(TaskMachine, ControlEofAfterStartedMeansNothing) {
  Running r;
  EXPECT_FALSE(r.m.controlBroken("eof", Again::no, 700).has(Act::end));
  EXPECT_EQ(r.m.stage(), TaskStage::running);
}

TEST(TaskMachine, WallDeadlineCountsFromStarted) {
  base::Limits l;
  l.wall_time_ms = 50;
  l.cpu_time_ms = 1'000'000;
  Running r(l);
  EXPECT_EQ(r.m.deadline_ns(), 500 + 50 * kMs);
  EXPECT_FALSE(r.m.tick(500 + 50 * kMs - 1).has(Act::end));
  EXPECT_TRUE(r.m.tick(500 + 50 * kMs).has(Act::end));
  r.m.boxReaped({CLD_KILLED, SIGKILL}, {}, 0, 60 * kMs);
  r.m.boxGone(true, 70 * kMs);
  EXPECT_EQ(r.m.judgement().verdict, Verdict::wallTime);
  EXPECT_EQ(r.m.judgement().cap_value, 50u);
}

// The spawner's report of the exit came after the deadline.
TEST(TaskMachine, ATaskThatHadExitedByItselfIsNotToldWallTime) {
  base::Limits l;
  l.wall_time_ms = 50;
  Running r(l);
  EXPECT_TRUE(r.m.tick(500 + 50 * kMs).has(Act::end));
  r.m.boxReaped({CLD_EXITED, 7}, {}, 60 * kMs, 60 * kMs);
  r.m.boxGone(true, 70 * kMs);
  EXPECT_EQ(r.m.judgement().verdict, Verdict::failed);
  EXPECT_EQ(r.m.judgement().exit_code, 7);
}

TEST(TaskMachine, ADeadlineThatNobodyConfirmsIsInternal) {
  base::Limits l;
  l.wall_time_ms = 50;
  for (bool reaped : {false, true}) {
    Running r(l);
    EXPECT_TRUE(r.m.tick(500 + 50 * kMs).has(Act::end));
    if (reaped) r.m.boxReaped({CLD_KILLED, SIGKILL}, {}, 0, 60 * kMs);
    r.m.unproven("the spawner did not answer");
    r.m.boxGone(false, 70 * kMs);
    EXPECT_EQ(r.m.judgement().verdict, reaped ? Verdict::wallTime : Verdict::internal);
    EXPECT_EQ(r.m.phases()[size_t(Phase::reaped)], reaped ? 60 * kMs : 0);
    EXPECT_EQ(r.m.phases()[size_t(Phase::receipt)], 0u) << "nobody proved that nothing is left";
  }
}

// --- the grace -------------------------------------------------------------------------------

base::Limits withGrace(uint64_t grace_ms) {
  base::Limits l;
  l.wall_time_ms = 50;
  l.cpu_time_ms = 1'000'000;
  l.grace_ms = grace_ms;
  return l;
}
constexpr uint64_t kWall = 500 + 50 * kMs;  // of a Running task

// Samples until `at_ns`, as the driver does.
Acts tickTo(TaskMachine& m, uint64_t at_ns) {
  Acts acts;
  while (m.stage() == TaskStage::running && m.deadline_ns() <= at_ns) {
    acts = m.tick(m.deadline_ns());
    if (!acts.has(Act::sample)) return acts;
  }
  return acts;
}

TEST(TaskMachine, AtWallTimeATaskWithAGraceIsAskedFirstAndKilledAfterIt) {
  Running r(withGrace(1'000));
  EXPECT_TRUE(r.m.tick(kWall).has(Act::terminate));
  EXPECT_TRUE(r.m.inGrace());
  EXPECT_EQ(r.m.stage(), TaskStage::running);
  EXPECT_FALSE(tickTo(r.m, kWall + 1'000 * kMs - 1).has(Act::end));
  EXPECT_TRUE(tickTo(r.m, kWall + 1'000 * kMs).has(Act::end));
  r.m.boxReaped({CLD_KILLED, SIGKILL, true}, {}, 0, 2 * kS);
  r.m.boxGone(true, 2 * kS);
  EXPECT_EQ(r.m.judgement().verdict, Verdict::wallTime);
  EXPECT_FALSE(r.m.judgement().in_grace);
  EXPECT_EQ(r.m.usage(0, 0).wall_ns, 1'050 * kMs);
}

TEST(TaskMachine, WithoutAGraceNothingIsAskedOfATask) {
  Running wall(withGrace(0)), cancelled(withGrace(0)), stopping(withGrace(0));
  EXPECT_TRUE(wall.m.tick(kWall).has(Act::end));
  EXPECT_TRUE(cancelled.m.cancel(Cancel::soft, 700).has(Act::end));
  EXPECT_TRUE(stopping.m.stop(Cause::daemonStopping, {}, 700).has(Act::end));
}

TEST(TaskMachine, WhoEndsWithinTheGraceEndsAtOnceAndKeepsItsExitCode) {
  Running r(withGrace(60'000));
  EXPECT_TRUE(r.m.cancel(Cancel::soft, 700).has(Act::terminate));
  EXPECT_TRUE(r.m.cloneExited({CLD_EXITED, 3, true}, 800, 900).has(Act::end));
  r.m.boxReaped({CLD_EXITED, 3, true}, {}, 800, 1'000);
  r.m.boxGone(true, 1'100);
  const Judgement j = r.m.judgement();
  EXPECT_EQ(j.verdict, Verdict::cancelled);
  EXPECT_EQ(std::tuple(j.exit_code, j.in_grace), std::tuple(3, true));
  EXPECT_EQ(r.m.phases()[size_t(Phase::exited)], 800u);
}

// The exit is known only by the box's last report: it came between SIGTERM and the kill.
TEST(TaskMachine, AnExitThatCrossesTheEndOfTheGraceStillCounts) {
  Running r(withGrace(1'000));
  r.m.tick(kWall);
  EXPECT_TRUE(tickTo(r.m, 2 * kS).has(Act::end));
  r.m.boxReaped({CLD_EXITED, 0, true}, {}, 2 * kS, 2 * kS);
  r.m.boxGone(true, 2 * kS);
  EXPECT_EQ(r.m.judgement().verdict, Verdict::wallTime);
  EXPECT_TRUE(r.m.judgement().in_grace);
}

TEST(TaskMachine, WhoHadEndedBeforeItWasAskedIsNotToldWallTime) {
  for (bool by_last_report : {false, true}) {
    Running r(withGrace(1'000));
    EXPECT_TRUE(r.m.tick(kWall).has(Act::terminate));
    const ExitStatus before{CLD_EXITED, 7, false};
    if (by_last_report)
      EXPECT_TRUE(tickTo(r.m, 2 * kS).has(Act::end));
    else
      EXPECT_TRUE(r.m.cloneExited(before, kWall, kWall + kMs).has(Act::end));
    r.m.boxReaped(before, {}, kWall, 2 * kS);
    r.m.boxGone(true, 2 * kS);
    EXPECT_EQ(r.m.judgement().verdict, Verdict::failed);
    EXPECT_EQ(r.m.judgement().exit_code, 7);
    EXPECT_FALSE(r.m.judgement().in_grace);
  }
}

TEST(TaskMachine, CapsHoldWithinTheGraceAndEndItAtOnce) {
  using Hit = Acts (*)(TaskMachine&);
  const std::pair<const char*, Hit> hits[] = {
      {"memory cap", [](TaskMachine& m) { return m.capHit(Cause::memory, 800); }},
      {"processes", [](TaskMachine& m) { return m.capHit(Cause::processes, 800); }},
      {"output cap", [](TaskMachine& m) { return m.outputOver("stdout", 800); }},
      {"cpu time cap",
       [](TaskMachine& m) {
         Counters c;
         c.user_cpu_ns = 1'000'000 * kMs;
         return m.sampled(c, 800);
       }},
      {"its box ended", [](TaskMachine& m) { return m.boxDied("killed", 800); }},
      {"its client went away", [](TaskMachine& m) { return m.stop(Cause::clientGone, {}, 800); }},
  };
  for (const auto& [words, hit] : hits) {
    Running r(withGrace(60'000));
    r.m.cancel(Cancel::soft, 700);
    EXPECT_FALSE(tickTo(r.m, kWall).has(Act::terminate));  // wall time has nothing to add
    EXPECT_TRUE(hit(r.m).has(Act::end)) << words;
    EXPECT_EQ(r.m.judgement().verdict, Verdict::cancelled);
    EXPECT_NE(r.m.judgement().reason.find(words), std::string::npos) << r.m.judgement().reason;
  }
}

TEST(TaskMachine, ASecondCancelEndsTheGraceAndSoDoesAClosedTask) {
  Running twice(withGrace(60'000)), closed(withGrace(60'000));
  EXPECT_TRUE(twice.m.cancel(Cancel::soft, 700).has(Act::terminate));
  EXPECT_TRUE(twice.m.cancel(Cancel::soft, 800).has(Act::end));
  EXPECT_TRUE(closed.m.cancel(Cancel::atOnce, 700).has(Act::end));
  EXPECT_EQ(twice.m.judgement().verdict, Verdict::cancelled);
}

TEST(TaskMachine, WhoHasNotStartedNeedsNoGrace) {
  TaskMachine m(withGrace(60'000), {}, 100);
  EXPECT_TRUE(m.cancel(Cancel::soft, 200).has(Act::finish));
  TaskMachine claiming(withGrace(60'000), {}, 100);
  claiming.admitted(200);
  claiming.boxMade(250, 300);
  EXPECT_TRUE(claiming.cancel(Cancel::soft, 400).has(Act::end));
}

TEST(TaskMachine, TheDaemonsStopBoundsEveryGrace) {
  Bounds bounds;
  bounds.stop_grace_ns = 3 * kS;
  Running asked(withGrace(60'000), bounds), early(withGrace(60'000), bounds),
      shorter(withGrace(10), bounds);
  EXPECT_TRUE(asked.m.stop(Cause::daemonStopping, {}, 700).has(Act::terminate));
  EXPECT_TRUE(tickTo(asked.m, 700 + 3 * kS).has(Act::end));
  EXPECT_EQ(asked.m.judgement().verdict, Verdict::daemonStopping);
  early.m.cancel(Cancel::soft, 700);
  EXPECT_FALSE(early.m.stop(Cause::daemonStopping, {}, 800).has(Act::end));
  EXPECT_TRUE(tickTo(early.m, 800 + 3 * kS).has(Act::end));
  EXPECT_EQ(early.m.judgement().verdict, Verdict::cancelled);
  for (const auto& m : {asked.m, early.m})  // not the minute that they asked for
    EXPECT_NE(m.judgement().reason.find("within its grace of 3000 ms"), std::string::npos)
        << m.judgement().reason;
  shorter.m.stop(Cause::daemonStopping, {}, 700);
  EXPECT_TRUE(tickTo(shorter.m, 700 + 10 * kMs).has(Act::end));
}

TEST(TaskMachine, AGraceWhoseEndNobodySawIsInternalAndAnInitThatDiedIsNotTheTasksExit) {
  Running r(withGrace(1'000));
  r.m.tick(kWall);
  tickTo(r.m, 2 * kS);
  r.m.unproven("the spawner did not answer");
  r.m.boxGone(false, 3 * kS);
  EXPECT_EQ(r.m.judgement().verdict, Verdict::internal);

  Running init(withGrace(1'000));
  init.m.cancel(Cancel::soft, 700);
  init.m.cloneExited({CLD_KILLED, SIGKILL, true}, 800, 810);
  init.m.boxDied("killed", 820);
  EXPECT_EQ(init.m.judgement().verdict, Verdict::cancelled);
  EXPECT_FALSE(init.m.judgement().in_grace);
}

TEST(TaskMachine, ATaskThatNoBoxTookInTimeNeverRan) {
  base::Limits l;
  l.queue_time_ms = 20;
  TaskMachine m(l, {}, 100);
  EXPECT_EQ(m.deadline_ns(), 100 + 20 * kMs);
  EXPECT_FALSE(m.tick(100 + 20 * kMs - 1).has(Act::finish));
  EXPECT_TRUE(m.tick(100 + 20 * kMs).has(Act::finish));
  EXPECT_EQ(m.judgement().verdict, Verdict::queueTime);
  EXPECT_EQ(m.judgement().cap_value, 20u);
  EXPECT_EQ(m.phases()[size_t(Phase::started)], 0u);
}

TEST(TaskMachine, ATaskThatLostItsBoxWaitsAnew) {
  base::Limits l;
  l.queue_time_ms = 20;
  TaskMachine m(l, {}, 100);
  m.admitted(100 + 19 * kMs);
  EXPECT_GT(m.deadline_ns(), 100 + 20 * kMs);  // no queue any more
  EXPECT_TRUE(m.templateGone(100 + 30 * kMs).has(Act::queue));
  EXPECT_EQ(m.deadline_ns(), 100 + 50 * kMs);
}

TEST(TaskMachine, BoxThatIsNotMadeInTimeIsInternal) {
  TaskMachine m({}, {}, 100);
  m.admitted(200);
  EXPECT_EQ(m.deadline_ns(), 200 + 10 * kS);
  EXPECT_TRUE(m.tick(200 + 10 * kS).has(Act::end));
  EXPECT_TRUE(m.boxFailed("late", Again::no, 11 * kS).has(Act::finish));
  EXPECT_EQ(m.judgement().verdict, Verdict::internal);
  EXPECT_EQ(m.judgement().reason, "the box was not made in time");
}

TEST(TaskMachine, OnlyWhatMayPassIsWorthAnotherBox) {
  auto claiming = [] {
    TaskMachine m({}, {}, 100);
    m.admitted(200);
    m.boxMade(300, 300);
    return m;
  };
  auto lost = claiming();
  EXPECT_TRUE(lost.boxDied("the init was killed", 400).has(Act::end));
  lost.boxReaped({}, {}, 0, 500);
  EXPECT_TRUE(lost.boxGone(true, 600).has(Act::queue));
  EXPECT_EQ(lost.stage(), TaskStage::queued);
  EXPECT_EQ(lost.phases()[static_cast<size_t>(Phase::queued)], 100u);
  EXPECT_EQ(lost.phases()[static_cast<size_t>(Phase::boxReady)], 0u);

  auto said_so = claiming();  // the clone itself reports its failure
  said_so.controlBroken("input files: no space", Again::no, 400);
  said_so.boxReaped({}, {}, 0, 500);
  EXPECT_TRUE(said_so.boxGone(true, 600).has(Act::finish));

  auto memory = claiming();
  memory.cloneExited({CLD_KILLED, SIGKILL}, 400, 400);
  Counters counters;
  counters.oom_kills = 1;
  memory.boxReaped({}, counters, 0, 500);
  EXPECT_TRUE(memory.boxGone(true, 600).has(Act::finish));

  auto unproven = claiming();
  unproven.boxDied("", 400);
  EXPECT_TRUE(unproven.boxGone(false, 600).has(Act::finish));
}

TEST(TaskMachine, CancelWhileQueuedNeedsNoBox) {
  TaskMachine m({}, {}, 100);
  EXPECT_TRUE(m.stop(Cause::cancelled, {}, 200).has(Act::finish));
  EXPECT_EQ(m.judgement().verdict, Verdict::cancelled);
  EXPECT_FALSE(m.admitted(300).has(Act::make));
}

TEST(TaskMachine, CancelWhileTheBoxIsMadeWaitsForItsReceipt) {
  TaskMachine m({}, {}, 100);
  m.admitted(200);
  EXPECT_TRUE(m.stop(Cause::cancelled, {}, 300).has(Act::end));
  m.boxMade(310, 320);
  EXPECT_FALSE(m.cloneReady(330, 340).has(Act::claim));
  EXPECT_TRUE(m.boxGone(true, 400).has(Act::finish));
  EXPECT_EQ(m.judgement().verdict, Verdict::cancelled);
}

TEST(TaskMachine, MissingReceiptEndsTheWaitWithinItsBound) {
  Running r;
  r.m.stop(Cause::cancelled, {}, 700);
  uint64_t bound = r.m.deadline_ns();
  EXPECT_EQ(bound, 700 + r.bounds.receipt_ns);
  EXPECT_FALSE(r.m.tick(bound - 1).has(Act::finish));
  EXPECT_TRUE(r.m.tick(bound).has(Act::finish));
  EXPECT_TRUE(r.m.receiptOverdue());
}

TEST(TaskMachine, InitThatDiedFirstIsNotTheTasksSignal) {
  Running r;
  r.m.cloneExited({CLD_KILLED, SIGKILL}, 700, 710);
  r.m.boxDied("killed", 720);
  r.m.boxReaped({CLD_KILLED, SIGKILL}, {}, 700, 730);
  r.m.boxGone(true, 740);
  EXPECT_EQ(r.m.judgement().verdict, Verdict::internal);
}

TEST(TaskMachine, OutputFoundAtDeathStillCounts) {
  Running r;
  r.m.cloneExited({CLD_EXITED, 0}, 700, 710);
  r.m.boxReaped({CLD_EXITED, 0}, {}, 700, 720);
  EXPECT_FALSE(r.m.outputOver("stderr", 730).has(Act::end));
  r.m.boxGone(true, 740);
  EXPECT_EQ(r.m.judgement().verdict, Verdict::output);
  EXPECT_NE(r.m.judgement().reason.find("stderr"), std::string::npos);
}

TEST(TaskMachine, CapThatOnlyACounterShowsEndsTheTaskAtTheSample) {
  const std::pair<Verdict, void (*)(Counters&)> cases[] = {
      {Verdict::disk, [](Counters& c) { c.disk_bytes = c.disk_bytes_max = 4096; }},
      {Verdict::disk, [](Counters& c) { c.disk_inodes = c.disk_inodes_max = 16; }},
      {Verdict::cpuTime, [](Counters& c) { c.user_cpu_ns = 30'000 * kMs; }},
      {Verdict::memory, [](Counters& c) { c.oom_kills = 1; }},
      {Verdict::processes, [](Counters& c) { c.forks_refused = 1; }},
  };
  for (const auto& [verdict, hit] : cases) {
    Running r;
    Counters c;
    EXPECT_FALSE(r.m.sampled(c, 900).has(Act::end));
    hit(c);
    EXPECT_TRUE(r.m.sampled(c, 1000).has(Act::end));
    EXPECT_EQ(r.m.judgement().verdict, verdict);
  }
}

TEST(TaskMachine, ASampleShowsCapsThatTheKernelHasNoEventFor) {
  for (bool processes : {true, false}) {
    Running r;
    Counters c;
    (processes ? c.forks_refused : c.oom_kills) = 1;
    EXPECT_TRUE(r.m.sampled(c, 1000).has(Act::end));
    EXPECT_EQ(r.m.judgement().verdict, processes ? Verdict::processes : Verdict::memory);
  }
}

// --- sampling ------------------------------------------------------------------------------

TEST(CpuSampling, NextSampleIsWhenTheBudgetCouldBeUsedUpAtTheEarliest) {
  base::Limits l;
  Bounds b;
  b.host_cores = 4;
  l.cpu_milli = 2000;
  l.cpu_time_ms = 8000;
  // By quota 2 cores: 4 s, less one period's burst; by cores 2 s.
  EXPECT_EQ(nextCpuSample_ns(0, {}, l, b), 3900 * kMs);
  Counters c;
  c.user_cpu_ns = 7'600 * kMs;
  // 400 ms left: by cores 100 ms, by quota 200 - 100.
  EXPECT_EQ(nextCpuSample_ns(0, c, l, b), 100 * kMs);
  c.user_cpu_ns = 7'999 * kMs;
  EXPECT_EQ(nextCpuSample_ns(0, c, l, b), b.sample_min_ns);
  c.user_cpu_ns = 9'000 * kMs;
  EXPECT_EQ(nextCpuSample_ns(5, c, l, b), 5 + b.sample_min_ns);
}

TEST(CpuSampling, ASampleThatIsNotAnsweredIsAskedForAgain) {
  base::Limits l;
  l.cpu_time_ms = 1;
  Running r(l);
  uint64_t due = r.m.deadline_ns();
  EXPECT_TRUE(r.m.tick(due).has(Act::sample));
  EXPECT_EQ(r.m.deadline_ns(), due + r.bounds.disk_sample_ns);
  EXPECT_TRUE(r.m.tick(r.m.deadline_ns()).has(Act::sample));
}

}  // namespace
}  // namespace mayfly::sched
