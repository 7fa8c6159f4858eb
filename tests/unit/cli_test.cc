#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/blob.h"
#include "cli/doctor.h"
#include "cli/files.h"
#include "cli/options.h"
#include "cli/program.h"
#include "cli/report.h"
#include "cli/template.h"
#include "cli/template_check.h"
#include "config/daemon.h"

namespace mayfly::cli {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

// --- the words -----------------------------------------------------------------------

RunOptions runOf(const Words& words) {
  Options options = parseCommandLine(words, "/default");
  if (auto* said = std::get_if<SayAndExit>(&options.verb)) {
    ADD_FAILURE() << said->text;
    return {};
  }
  return std::get<RunOptions>(options.verb);
}
SayAndExit saidOf(const Words& words) {
  Options options = parseCommandLine(words, "/default");
  auto* said = std::get_if<SayAndExit>(&options.verb);
  if (said == nullptr) ADD_FAILURE() << "it was taken for right";
  return said != nullptr ? *said : SayAndExit{};
}

TEST(Words, WhatFollowsTheScriptIsTheScripts) {
  auto run =
      runOf({"run", "-t", "python", "--memory", "1G", "x.py", "--memory", "2", "-c", "--", "-"});
  EXPECT_EQ(run.script, "x.py");
  EXPECT_EQ(run.args, (Words{"--memory", "2", "-c", "--", "-"}));
  EXPECT_EQ(run.limits.memory_bytes, 1u << 30);
  EXPECT_FALSE(run.code);
  EXPECT_FALSE(run.command);
}
TEST(Words, TheProgramMayComeFromTheCommandLineOrFromStdin) {
  auto run = runOf({"run", "-c", "-1\nprint()", "a", "--b"});
  EXPECT_EQ(run.code, "-1\nprint()");
  EXPECT_EQ(run.args, (Words{"a", "--b"}));
  EXPECT_EQ(run.template_name, "python");
  auto piped = runOf({"run", "-", "a"});
  EXPECT_EQ(piped.script, "-");
  EXPECT_EQ(piped.args, Words{"a"});
  EXPECT_EQ(runOf({"run", "-c", ""}).code, "");
}
TEST(Words, ACommandStandsBehindTwoDashes) {
  auto run = runOf({"run", "-tshell", "--cpus=0.5", "--", "sh", "-c", "echo"});
  EXPECT_TRUE(run.command);
  EXPECT_EQ(run.template_name, "shell");
  EXPECT_EQ(run.limits.cpu_milli, 500u);
  EXPECT_EQ(run.args, (Words{"sh", "-c", "echo"}));
}
TEST(Words, EveryCapHasItsFlag) {
  auto l = runOf({"run",  "--memory",    "512M", "--cpus",
                  "1.5",  "--wall-time", "30s",  "--cpu-time",
                  "1m",   "--pids",      "3",    "--files",
                  "4",    "--file-size", "5",    "--disk",
                  "6KiB", "--inodes",    "7",    "--output",
                  "8",    "--input",     "9",    "--out-size",
                  "10",   "--out-files", "11",   "--queue-time",
                  "12ms", "--grace",     "13ms", "x"})
               .limits;
  EXPECT_EQ(l.memory_bytes, 512u << 20);
  EXPECT_EQ(l.cpu_milli, 1500u);
  EXPECT_EQ(l.wall_time_ms, 30'000u);
  EXPECT_EQ(l.cpu_time_ms, 60'000u);
  EXPECT_EQ(l.processes, 3u);
  EXPECT_EQ(l.open_files, 4u);
  EXPECT_EQ(l.file_size_bytes, 5u);
  EXPECT_EQ(l.disk_bytes, 6u << 10);
  EXPECT_EQ(l.disk_inodes, 7u);
  EXPECT_EQ(l.output_bytes, 8u);
  EXPECT_EQ(l.input_bytes, 9u);
  EXPECT_EQ(l.out_files_bytes, 10u);
  EXPECT_EQ(l.out_files, 11u);
  EXPECT_EQ(l.queue_time_ms, 12u);
  EXPECT_EQ(l.grace_ms, 13u);
  EXPECT_EQ(runOf({"run", "--open-files", "5", "x"}).limits.open_files, 5u);
}
TEST(Words, TimeoutIsAnotherNameOfWallTime) {
  EXPECT_EQ(runOf({"run", "--timeout", "1.5m", "x"}).limits.wall_time_ms, 90'000u);
  EXPECT_EQ(runOf({"run", "--timeout=250ms", "x"}).limits.wall_time_ms, 250u);
  EXPECT_EQ(saidOf({"run", "--wall-time", "1s", "--timeout", "2s", "x"}).code, kExitMayfly);
}
TEST(Words, NoCapIsNamedByDefault) {
  auto l = runOf({"run", "x"}).limits;
  EXPECT_FALSE(l.memory_bytes || l.cpu_milli || l.wall_time_ms || l.processes || l.out_files);
}
TEST(Words, RepeatableOptionsKeepTheirOrder) {
  auto run = runOf({"run", "--env", "A=1=2", "--file", "a:b", "--env", "B=", "--file", "[c]",
                    "--seed", "0", "--out", "o", "--stdin", "--json", "-q", "x"});
  EXPECT_EQ(run.env, (std::vector<std::pair<std::string, std::string>>{{"A", "1=2"}, {"B", ""}}));
  EXPECT_EQ(run.files, (Words{"a:b", "[c]"}));
  EXPECT_EQ(run.seed, 0u);
  EXPECT_EQ(run.out_dir, "o");
  EXPECT_TRUE(run.forward_stdin && run.json && run.quiet);
}
TEST(Words, GrantsHaveANameAndPerhapsBounds) {
  auto run = runOf({"run", "--grant", "openai", "--grant", "orders:calls=10,paths=/a:b", "x"});
  ASSERT_EQ(run.grants.size(), 2u);
  EXPECT_EQ(run.grants[0].name + "|" + run.grants[0].narrowing, "openai|");
  EXPECT_EQ(run.grants[1].name + "|" + run.grants[1].narrowing, "orders|calls=10,paths=/a:b");
  for (const char* wrong : {"", ":calls=1"})
    EXPECT_EQ(saidOf({"run", "--grant", wrong, "x"}).code, kExitMayfly) << wrong;
}
TEST(Words, AWrongUseOfRunIs125AndSaysWhat) {
  for (const auto& [words, says] : std::vector<std::pair<Words, std::string>>{
           {{"run"}, "nothing to run"},
           {{"run", "--"}, "no command"},
           {{"run", "-c", "1", "--", "x"}, "exclude"},
           {{"run", "--memroy", "1", "x"}, "--memroy"},
           {{"run", "--memory", "lots", "x"}, "not a size"},
           {{"run", "--timeout", "30", "x"}, "30s"},
           {{"run", "--wall-time", "30", "x"}, "30s"},
           {{"run", "--pids", "99999999999", "x"}, "too large"},
           {{"run", "--env", "=x", "y"}, "NAME=VALUE"},
           {{"run", "--seed", "-1", "y"}, "--seed"},
           {{"run", "--stdin", "-"}, "--stdin"},
           {{"run", "--memroy", "1", "x"}, "the nearest is '--memory'"},
           {{"run", "--memroy=1G", "x"}, "the nearest is '--memory'"},
           {{"run", "--memory", "64Mb", "x"}, "ambiguous"},
           {{"run", "--timeout", "5M", "x"}, "months"},
           {{"run", "-m"}, "-m"},
           {{"run", "-m", ""}, "no name"},
           {{"run", "-c", "1", "-m", "x"}, "exclude"},
           {{"run", "--file", "a.csv", "b.csv", "s.py"}, "--file a.csv --file b.csv s.py"},
       }) {
    auto said = saidOf(words);
    EXPECT_EQ(said.code, kExitMayfly);
    EXPECT_NE(said.text.find(says), std::string::npos) << said.text;
  }
}
TEST(Words, UnitsAreAsUsersWriteThem) {
  EXPECT_EQ(runOf({"run", "--memory", "64m", "x"}).limits.memory_bytes, 64u << 20);
  EXPECT_EQ(runOf({"run", "--memory", "64MB", "x"}).limits.memory_bytes, 64'000'000u);
  EXPECT_EQ(runOf({"run", "--timeout", "30S", "x"}).limits.wall_time_ms, 30'000u);
}
TEST(Words, AModuleEndsMayflysOptions) {
  auto run = runOf({"run", "--memory", "1G", "-m", "pkg.mod", "--memory", "x", "-c", "--"});
  EXPECT_EQ(run.module, "pkg.mod");
  EXPECT_EQ(run.args, (Words{"--memory", "x", "-c", "--"}));
  EXPECT_EQ(run.limits.memory_bytes, 1u << 30);
  EXPECT_TRUE(run.script.empty() && !run.code && !run.command);
  auto attached = runOf({"run", "-q", "-mjson.tool", "-h"});
  EXPECT_EQ(attached.module, "json.tool");
  EXPECT_EQ(attached.args, Words{"-h"});
  EXPECT_TRUE(runOf({"run", "x.py", "-m", "y"}).module.empty());
}
TEST(Words, ASecondFileWithoutItsFlagIsToldFromAnArgument) {
  EXPECT_EQ(runOf({"run", "--file=a.csv", "b.csv", "s.py"}).script, "b.csv") << "as it is meant";
  auto run = runOf({"run", "--file", "a.py", "s.py", "a.py"});  // the argument names the file
  EXPECT_EQ(run.script, "s.py");
  EXPECT_EQ(run.args, Words{"a.py"});
  EXPECT_EQ(runOf({"run", "--file", "d/a.py", "s.py", "a.py"}).script, "s.py");
  EXPECT_EQ(runOf({"run", "--file", "x:a.py", "s.py", "a.py"}).script, "s.py");
  EXPECT_EQ(runOf({"run", "--file", "a.csv", "-q", "s.py", "t.py"}).script, "s.py");
  EXPECT_EQ(runOf({"run", "--file", "a.csv", "s.py", "b.csv"}).script, "s.py");
}
TEST(Words, AnUnknownVerbOrFlagIsNamedWithItsNearest) {
  for (const auto& [words, says] : std::vector<std::pair<Words, std::string>>{
           {{"rum", "x.py"}, "has no verb 'rum'; the nearest is 'run'"},
           {{"tsak", "list"}, "the nearest is 'task'"},
           {{"task", "lst"}, "`mayfly task` has no verb 'lst'; the nearest is 'list'"},
           {{"blob", "removed"}, "the nearest is 'remove'"},
           {{"ps", "--jsn"}, "`mayfly ps` has no option '--jsn'; the nearest is '--json'"},
           {{"task", "wait", "1", "--ot", "d"}, "the nearest is '--out'"},
           {{"ps", "x"}, "`mayfly ps` takes no 'x'"},
           {{"fly"}, "has no verb 'fly'"},
       }) {
    auto said = saidOf(words);
    EXPECT_EQ(said.code, 2);
    EXPECT_NE(said.text.find(says), std::string::npos) << said.text;
  }
  EXPECT_EQ(saidOf({"fly"}).text.find("nearest"), std::string::npos);
}
TEST(Words, TheVersionIsAVerbAndAFlag) {
  EXPECT_TRUE(std::get<VersionOptions>(parseCommandLine({"--version"}, "").verb).ours_only);
  for (const char* verb : {"ps", "run", "image", "template", "pool"})
    EXPECT_TRUE(std::get<VersionOptions>(parseCommandLine({verb, "--version"}, "").verb).ours_only)
        << verb;
  EXPECT_EQ(runOf({"run", "x.py", "--version"}).args, std::vector<std::string>{"--version"});
  EXPECT_FALSE(std::get<VersionOptions>(parseCommandLine({"version"}, "").verb).ours_only);
}
TEST(Words, BlobsAreNamedByTheirHashOrAll) {
  EXPECT_EQ(std::get<BlobOptions>(parseCommandLine({"blob", "list", "--json"}, "").verb).verb,
            BlobVerb::list);
  auto some = std::get<BlobOptions>(parseCommandLine({"blob", "remove", "ab", "cd"}, "").verb);
  EXPECT_EQ(some.verb, BlobVerb::remove);
  EXPECT_EQ(some.hashes, (Words{"ab", "cd"}));
  EXPECT_TRUE(std::get<BlobOptions>(parseCommandLine({"blob", "remove", "--all"}, "").verb).all);
  EXPECT_EQ(saidOf({"blob", "remove"}).code, 2);
  EXPECT_EQ(saidOf({"blob", "remove", "--all", "ab"}).code, 2);
}
TEST(Words, OtherWrongUsesAre2) {
  EXPECT_EQ(saidOf({}).code, 2);
  EXPECT_EQ(saidOf({"fly"}).code, 2);
  EXPECT_EQ(saidOf({"kill"}).code, 2);
  EXPECT_EQ(saidOf({"kill", "x"}).code, 2);
}
TEST(Words, HelpFitsEightyColumnsAndNamesEveryFlag) {
  for (const Words& words : {Words{"--help"},
                             {"run", "--help"},
                             {"ps", "-h"},
                             {"doctor", "--help"},
                             {"task", "-h"},
                             {"blob", "--help"},
                             {"blob", "remove", "--help"}}) {
    auto said = saidOf(words);
    EXPECT_EQ(said.code, 0);
    std::istringstream lines(said.text);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 80u) << line;
  }
  auto help = saidOf({"run", "--help"}).text;
  for (const char* flag : {"--memory", "--cpus", "--wall-time", "--timeout", "--cpu-time", "--pids",
                           "--files", "--disk", "--output", "--env", "--stdin", "--seed", "--json",
                           "--out", "124", "137", "125", "mayfly run -t TEMPLATE"})
    EXPECT_NE(help.find(flag), std::string::npos) << flag;
}
TaskOptions taskOf(const Words& words) {
  Options options = parseCommandLine(words, "/default");
  auto* task = std::get_if<TaskOptions>(&options.verb);
  EXPECT_NE(task, nullptr);
  return task != nullptr ? *task : TaskOptions{};
}

TEST(Words, ADetachedTaskIsSubmittedAndFoundAgain) {
  auto plain = runOf({"run", "--detach", "-c", "1"});
  ASSERT_TRUE(plain.detach);
  EXPECT_EQ(plain.detach->lease_ms, 3'600'000u);
  EXPECT_TRUE(plain.detach->key.empty());
  auto all =
      runOf({"run", "--detach", "--key", "k", "--lease", "90s", "--collect", "a.py", "--key"});
  EXPECT_EQ(all.detach->key, "k");
  EXPECT_EQ(all.detach->lease_ms, 90'000u);
  EXPECT_TRUE(all.collect);
  EXPECT_EQ(all.args, Words{"--key"});
  auto wait = taskOf({"task", "wait", "7", "--out", "d", "--json"});
  EXPECT_EQ(wait.verb, TaskVerb::wait);
  EXPECT_EQ(wait.id, 7u);
  EXPECT_EQ(wait.out_dir, "d");
  EXPECT_TRUE(wait.json);
  EXPECT_EQ(taskOf({"task", "list", "--json"}).verb, TaskVerb::list);
  auto cancel = taskOf({"task", "cancel", "--key", "k"});
  EXPECT_EQ(cancel.verb, TaskVerb::cancel);
  EXPECT_EQ(cancel.key, "k");
  EXPECT_FALSE(cancel.id);
  for (const Words& wrong : {Words{"run", "--key", "k", "-c", "1"},
                             {"run", "--lease", "1m", "-c", "1"},
                             {"run", "--collect", "-c", "1"},
                             {"run", "--detach", "--stdin", "-c", "1"},
                             {"run", "--detach", "--out", "d", "-c", "1"},
                             {"run", "--detach", "--lease", "0s", "-c", "1"},
                             {"run", "--detach", "--lease", "60d", "-c", "1"}})
    EXPECT_EQ(saidOf(wrong).code, kExitMayfly) << wrong[1];
  for (const Words& wrong : {Words{"task"},
                             {"task", "info"},
                             {"task", "wait", "x"},
                             {"task", "wait", "1", "--key", "k"},
                             {"task", "cancel", "1", "--json"}})
    EXPECT_EQ(saidOf(wrong).code, 2);
}

TEST(Words, TheOtherVerbs) {
  EXPECT_EQ(std::get<KillOptions>(parseCommandLine({"kill", "3", "4"}, "").verb).ids,
            (std::vector<uint64_t>{3, 4}));
  EXPECT_TRUE(std::get<PsOptions>(parseCommandLine({"ps", "--json"}, "").verb).json);
  EXPECT_EQ(std::get<ImageOptions>(parseCommandLine({"image", "build", "--x", "-y"}, "").verb).args,
            (Words{"build", "--x", "-y"}));
  EXPECT_FALSE(std::get<DoctorOptions>(parseCommandLine({"doctor"}, "").verb).quick);
  EXPECT_TRUE(std::get<DoctorOptions>(parseCommandLine({"doctor", "--quick"}, "").verb).quick);
}
TEST(Words, TheSocketIsNamedBeforeOrAfterTheVerb) {
  EXPECT_EQ(parseCommandLine({"--socket", "/a", "ps"}, "/d").socket, "/a");
  EXPECT_EQ(parseCommandLine({"ps", "--socket", "/a"}, "/d").socket, "/a");
  EXPECT_EQ(parseCommandLine({"run", "--socket", "/a", "x"}, "/d").socket, "/a");
  EXPECT_EQ(parseCommandLine({"run", "x", "--socket", "/a"}, "/d").socket, "/d");
  EXPECT_EQ(config::Daemon{}.socketPath(), kDefaultSocket);
}

// --- the doctor's rows about restored clones -----------------------------------------------

TEST(Doctor, ATrialThatWorkedNamesVersionPathAndTime) {
  auto lines = restoreLines(R"({"works":true,"template":"node","state":"","criu":"4.1.1",)"
                            R"("path":"/usr/sbin/criu","clones":4,"ms":2100})");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].value, "4.1.1, /usr/sbin/criu in the image of 'node'");
  EXPECT_EQ(lines[1].value, "'node' dumped, and restored in 4 clones at once, in 2100 ms");
  for (const auto& line : lines) EXPECT_EQ(line.verdict, host::HostVerdict::ok) << line.what;
}
TEST(Doctor, AFailedTrialCostsNoPromiseAndGivesReasonAndRemedy) {
  auto lines = restoreLines(
      R"({"works":false,"template":"node","state":"failed","why":"criu failed","advice":"Do."})");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].verdict, host::HostVerdict::degraded);
  EXPECT_TRUE(lines[0].costs.empty());
  EXPECT_EQ(lines[0].note,
            "criu failed. Do. (templates with mechanism \"restore\" are refused; all others work)");
}
TEST(Doctor, WhatCannotBeTriedIsNoFaultOfTheHost) {
  auto none = restoreLines(R"({"works":false,"template":"","state":"no template","why":"w"})");
  EXPECT_EQ(none[0].verdict, host::HostVerdict::ok);
  auto no_image = restoreLines(
      R"({"works":false,"template":"node","state":"no image","why":"w","advice":"Build it."})");
  EXPECT_EQ(no_image[0].verdict, host::HostVerdict::unknown);
  EXPECT_EQ(no_image[0].note, "w. Build it.");
}
TEST(Doctor, ATrialWithoutAWordIsAFailure) {
  for (const char* said : {"", "{", "[]", "{}", R"({"works":1})"})
    EXPECT_EQ(restoreLines(said).at(0).verdict, host::HostVerdict::degraded) << said;
}

// --- what is said -----------------------------------------------------------------------

TaskResult resultOf(base::Verdict verdict) {
  TaskResult r;
  r.verdict = verdict;
  r.usage.wall_ns = 1'500'000;
  r.receipt.box = 7;
  r.receipt.complete = true;
  return r;
}

TEST(ExitCode, IsTheTasksOwnOrTellsTheKindOfEnd) {
  using enum base::Verdict;
  auto failedWith = resultOf(failed);
  failedWith.exit_code = 3;
  EXPECT_EQ(exitCode(failedWith), 3);
  auto killed = resultOf(signaled);
  killed.signal = 11;
  EXPECT_EQ(exitCode(killed), 139);
  for (auto [verdict, code] : std::vector<std::pair<base::Verdict, int>>{{succeeded, 0},
                                                                         {wallTime, 124},
                                                                         {cpuTime, 124},
                                                                         {memory, 137},
                                                                         {processes, 137},
                                                                         {output, 137},
                                                                         {disk, 137},
                                                                         {cancelled, 130},
                                                                         {clientGone, 125},
                                                                         {daemonStopping, 125},
                                                                         {internal, 125}})
    EXPECT_EQ(exitCode(resultOf(verdict)), code) << base::name(verdict);
}
TEST(VerdictLine, NamesTheEndTheCapAndTheReceipt) {
  auto r = resultOf(base::Verdict::memory);
  r.reason = "memory: the cap of 64 MiB \x1b[31m";
  EXPECT_EQ(
      verdictLine(r),
      "memory: memory: the cap of 64 MiB \\x1b[31m | 1.50 ms, cpu 0 ns, peak 0 B | box 7 is gone");
  r = resultOf(base::Verdict::signaled);
  r.signal = 11;
  EXPECT_TRUE(verdictLine(r).starts_with("signaled: SIGSEGV | "));
  r.receipt.complete = false;
  r.receipt.missing = "a cgroup stands";
  EXPECT_NE(verdictLine(r).find("receipt incomplete: a cgroup stands"), std::string::npos);
}
TEST(Json, WhoEndedWithinTheGraceHasItsExitBesideTheVerdict) {
  for (auto verdict : {base::Verdict::wallTime, base::Verdict::cancelled}) {
    auto r = resultOf(verdict);
    auto json = nlohmann::json::parse(resultJson(r, "", "", {}));
    EXPECT_TRUE(json["exitCode"].is_null() && json["signal"].is_null());
    EXPECT_EQ(json["inGrace"], false);
    r.in_grace = true;
    json = nlohmann::json::parse(resultJson(r, "", "", {}));
    EXPECT_EQ(json["exitCode"], 0);
    EXPECT_TRUE(json["signal"].is_null());
    r.signal = 15;
    json = nlohmann::json::parse(resultJson(r, "", "", {}));
    EXPECT_TRUE(json["exitCode"].is_null());
    EXPECT_EQ(json["signal"], 15);
    EXPECT_EQ(json["inGrace"], true);
    EXPECT_EQ(exitCode(r), verdict == base::Verdict::wallTime ? 124 : 130) << "the verdict's";
  }
}
TEST(Json, HoldsEverythingAndMarksWhatIsNotUtf8) {
  auto r = resultOf(base::Verdict::failed);
  r.exit_code = 3;
  r.phases[0] = 5;
  r.out_files = {{"a\xff", 2, 0755, ""}, {"l", 0, 0, "symbolic link"}};
  auto json =
      nlohmann::json::parse(resultJson(r, "h\xc3\xa9\n", "\xff\x00", {{true, ""}, {false, "no"}}));
  EXPECT_EQ(json["verdict"], "failed");
  EXPECT_EQ(json["exitCode"], 3);
  EXPECT_TRUE(json["signal"].is_null());
  EXPECT_EQ(json["stdout"], "h\xc3\xa9\n");
  EXPECT_EQ(json["stdoutBase64"], false);
  EXPECT_EQ(json["stderr"], "/w==");
  EXPECT_EQ(json["stderrBase64"], true);
  EXPECT_EQ(json["phases"].size(), base::kPhases);
  EXPECT_EQ(json["phases"]["queuedNs"], 5);
  EXPECT_EQ(json["receipt"]["complete"], true);
  EXPECT_EQ(json["files"][0]["pathBase64"], true);
  EXPECT_EQ(json["files"][0]["written"], true);
  EXPECT_EQ(json["files"][1]["skipped"], "symbolic link");
  EXPECT_EQ(json["files"][1]["whyNotWritten"], "no");
  EXPECT_EQ(json["limits"]["memoryBytes"], base::Limits{}.memory_bytes);
}
TEST(Truncated, IsSaidInWordsAndInJson) {
  auto r = resultOf(base::Verdict::succeeded);
  EXPECT_EQ(truncatedLine(r, Stream::out), "");
  auto json = nlohmann::json::parse(resultJson(r, "", "", {}));
  EXPECT_EQ(json["stdoutTruncated"], false);
  EXPECT_EQ(json["stderrTruncated"], false);
  r.truncated[0] = true;
  r.captured[0] = std::string(1u << 20, 'x');
  r.usage.stdout_bytes = 5u << 20;
  json = nlohmann::json::parse(resultJson(r, r.captured[0], "", {}));
  EXPECT_EQ(json["stdoutTruncated"], true);
  EXPECT_EQ(json["stderrTruncated"], false);
  const std::string line = truncatedLine(r, Stream::out);
  for (const char* says :
       {"stdout is cut", "wrote 5 MiB", "first 1 MiB", "without --detach", "--collect"})
    EXPECT_NE(line.find(says), std::string::npos) << line;
  EXPECT_EQ(truncatedLine(r, Stream::err), "");
}
TEST(CheckInput, RefusesBeforeAnUploadWhatTheDaemonWouldRefuseAfterIt) {
  TemplateInfo python;
  python.name = "python";
  python.defaults.input_bytes = 64u << 20;
  python.defaults.disk_bytes = 256u << 20;
  python.defaults.memory_bytes = 512u << 20;
  python.maximum = python.defaults;
  python.maximum.input_bytes = 256u << 20;
  TaskSpec spec;
  spec.template_name = "python";
  const auto refusal = [&](uint64_t files, uint64_t uploaded = 0, uint64_t code = 0,
                           bool code_on_disk = false) {
    auto checked = checkInput({code, files, uploaded, code_on_disk}, spec, {python}, 512u << 20);
    return checked ? "" : checked.error().message + " " + checked.error().advice;
  };
  EXPECT_EQ(refusal(64u << 20), "");
  for (const char* says : {"65 MiB", "64 MiB", "Nothing was uploaded", "--input", "256 MiB"})
    EXPECT_NE(refusal(65u << 20).find(says), std::string::npos) << refusal(65u << 20);
  spec.limits.input_bytes = 300u << 20;
  EXPECT_NE(refusal(256u << 20).find("--disk"), std::string::npos);
  EXPECT_EQ(refusal(255u << 20, 0, 1u << 20), "") << "a program of -c is no file";
  EXPECT_NE(refusal(255u << 20, 0, 1u << 20, true).find("--disk"), std::string::npos);
  spec.limits.disk_bytes = 1u << 30;
  EXPECT_NE(refusal(257u << 20).find("--memory"), std::string::npos);
  spec.limits.memory_bytes = 1u << 30;
  EXPECT_EQ(refusal(257u << 20), "");
  EXPECT_NE(refusal(0, 513u << 20).find("for a user"), std::string::npos);
  spec.template_name = "unknown";
  EXPECT_EQ(refusal(1ull << 40), "") << "the submit names the template";
}
TEST(Blobs, AreListedAndFoundByTheirFirstDigits) {
  BlobInfo one, two;
  one.blob.sha256.fill(0xab);
  two.blob.sha256.fill(0xab);
  two.blob.sha256[8] = 0;
  one.blob.size_bytes = 2u << 20;
  EXPECT_EQ(blobsTable({}), "no blobs\n");
  EXPECT_NE(blobsTable({one, two}).find("2 blobs of 2 MiB"), std::string::npos);
  auto json = nlohmann::json::parse(blobsJson({one}));
  EXPECT_EQ(json["blobs"][0]["sizeBytes"], 2u << 20);
  EXPECT_EQ(json["blobs"][0]["sha256"].get<std::string>().size(), 64u);
  EXPECT_EQ(blobOf({one, two}, "abababab").error().code, base::Code::invalidArgument);
  EXPECT_EQ(blobOf({one, two}, "ababababababababab")->sha256, one.blob.sha256);
  EXPECT_EQ(blobOf({one}, "abab").error().code, base::Code::invalidArgument);
  EXPECT_EQ(blobOf({one}, "cdcdcdcd").error().code, base::Code::notFound);
}
TEST(DetachedTasks, AreListedWithStateKeyAndLease) {
  DetachedTask task;
  task.task.id = 7;
  task.task.template_name = "python";
  task.task.state = "done";
  task.key = "nightly\x1b[2J";
  task.lease_left_ms = 61'500;
  const std::string table = detachedTable({task});
  EXPECT_EQ(table.find('\x1b'), std::string::npos);
  EXPECT_NE(table.find("61 s"), std::string::npos) << table;
  auto json = nlohmann::json::parse(detachedListJson({task}));
  EXPECT_EQ(json["tasks"][0]["id"], 7);
  EXPECT_EQ(json["tasks"][0]["leaseLeftMs"], 61'500);
  EXPECT_EQ(detachedTable({}), "no detached tasks\n");
}
TEST(Tables, ShowNothingRaw) {
  TaskInfo task;
  task.id = 5;
  task.template_name = "py\x1b]0;x\x07";
  task.state = "running";
  task.now_ns = 3'000'000'000;
  task.queued_ns = 1'000'000'000;
  auto text = tasksTable({task});
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_NE(text.find("2.00 s"), std::string::npos);
  EXPECT_EQ(tasksTable({}), "no tasks\n");
}

// --- files ------------------------------------------------------------------------------

class Folder : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/mayfly-cli-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    path = name;
    fs::create_directory(path / "out");
    auto opened = openOutDir(path / "out");
    ASSERT_TRUE(opened);
    dir = std::move(*opened);
  }
  void TearDown() override { fs::remove_all(path); }
  static std::string text(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  base::Status write(const std::string& name, std::string content, unsigned mode = 0644) {
    return writeBelow(dir.view(), name, mode,
                      [content](uint64_t offset) -> base::Result<std::string> {
                        return offset < content.size() ? content.substr(offset, 3) : std::string();
                      });
  }
  fs::path path;
  base::Fd dir;
};

TEST_F(Folder, AFileIsWrittenWithItsFoldersAndMode) {
  ASSERT_TRUE(write("a/b/c.txt", "hello world", 0755));
  EXPECT_EQ(text(path / "out/a/b/c.txt"), "hello world");
  EXPECT_EQ(fs::status(path / "out/a/b/c.txt").permissions() & fs::perms::owner_exec,
            fs::perms::owner_exec);
  ASSERT_TRUE(write("a/b/c.txt", "again"));
  EXPECT_EQ(text(path / "out/a/b/c.txt"), "again");
  ASSERT_TRUE(write("empty", ""));
  EXPECT_TRUE(fs::exists(path / "out/empty"));
}
TEST_F(Folder, NamesThatLeaveItOrAreOddAreRefused) {
  for (const std::string& name :
       {std::string("../x"), std::string("/x"), std::string(""), std::string("a/../../x"),
        std::string("a//b"), std::string("./x"), std::string("a/."), std::string("x\n"),
        std::string("x\x1b[2J"), std::string("x\xff"), std::string("nul\0x", 5), std::string("a/"),
        std::string("x\xe2\x80\xaegpj")})
    EXPECT_FALSE(write(name, "x")) << name;
  std::string deep;
  for (int i = 0; i < 40; ++i) deep += "d/";
  EXPECT_FALSE(write(deep + "x", "x"));
  EXPECT_TRUE(fs::is_empty(path / "out"));
  EXPECT_FALSE(fs::exists(path / "x"));
}
TEST_F(Folder, ALinkIsReplacedAndNeverFollowed) {
  std::ofstream(path / "victim") << "precious";
  fs::create_directory(path / "elsewhere");
  fs::create_symlink(path / "victim", path / "out/link");
  fs::create_hard_link(path / "victim", path / "out/hard");
  fs::create_directory_symlink(path / "elsewhere", path / "out/dirlink");
  ASSERT_TRUE(write("link", "new"));
  ASSERT_TRUE(write("hard", "new"));
  EXPECT_EQ(text(path / "victim"), "precious");
  EXPECT_FALSE(fs::is_symlink(path / "out/link"));
  EXPECT_EQ(text(path / "out/link"), "new");
  EXPECT_FALSE(write("dirlink/x", "x"));
  EXPECT_TRUE(fs::is_empty(path / "elsewhere"));
}
TEST_F(Folder, AFailedReadLeavesNothing) {
  auto status = writeBelow(dir.view(), "f", 0644, [](uint64_t offset) -> base::Result<std::string> {
    if (offset == 0) return std::string("part");
    return base::fail(base::Code::unavailable, "gone");
  });
  EXPECT_FALSE(status);
  EXPECT_TRUE(fs::is_empty(path / "out"));
}
TEST_F(Folder, AnInputFileIsNamedAfterItsPathOrAsTold) {
  std::ofstream(path / "in.csv") << "1,2";
  std::ofstream(path / "co:lon") << "c";
  size_t left = kInlineFilesBytesMax;
  auto plain = openInput(path / "in.csv", &left);
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->file.path, "in.csv");
  EXPECT_EQ(plain->file.data, "1,2");
  EXPECT_FALSE(plain->large);
  EXPECT_EQ(left, kInlineFilesBytesMax - 3);
  EXPECT_EQ(openInput((path / "in.csv").string() + ":d/x.csv", &left)->file.path, "d/x.csv");
  EXPECT_EQ(openInput(path / "co:lon", &left)->file.path, "co:lon");
  EXPECT_FALSE(openInput(path / "none", &left));
  EXPECT_FALSE(openInput(path, &left));
}
TEST_F(Folder, ALargeInputFileIsOpenedAndNotRead) {
  std::ofstream(path / "large") << std::string(kInlineFileBytesMax + 1, 'x');
  std::ofstream(path / "small") << std::string(kInlineFileBytesMax, 'x');
  size_t left = kInlineFilesBytesMax;
  auto large = openInput(path / "large", &left);
  ASSERT_TRUE(large && large->large);
  EXPECT_TRUE(large->file.data.empty());
  EXPECT_EQ(left, kInlineFilesBytesMax);
  for (size_t i = 0; i < kInlineFilesBytesMax / kInlineFileBytesMax; ++i)
    EXPECT_EQ(openInput(path / "small", &left)->file.data.size(), kInlineFileBytesMax);
  // A file that no longer fits into the request becomes a blob, however small.
  EXPECT_EQ(left, 0u);
  EXPECT_TRUE(openInput(path / "small", &left)->large);
}
TEST_F(Folder, APipeThatIsLargeIsSpooledWhole) {
  for (size_t bytes :
       {size_t{10}, kInlineFileBytesMax, kInlineFileBytesMax + 1, size_t{5'000'000}}) {
    auto pipe = base::makePipe();
    std::string text(bytes, '\0');
    for (size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(i % 251);
    std::thread writer([&] {
      for (std::string_view rest = text; !rest.empty();)
        rest.remove_prefix(
            static_cast<size_t>(::write(pipe->write.get(), rest.data(), rest.size())));
      pipe->write.reset();
    });
    size_t left = kInlineFilesBytesMax;
    auto input = openInput("/dev/fd/" + std::to_string(pipe->read.get()) + ":x", &left);
    writer.join();
    ASSERT_TRUE(input) << input.error().message;
    EXPECT_EQ(input->file.mode, 0644);
    EXPECT_EQ(bool{input->large}, bytes > kInlineFileBytesMax);
    std::string got = input->file.data;
    if (input->large) {
      got.assign(bytes + 1, '?');
      EXPECT_EQ(::pread(input->large.get(), got.data(), got.size(), 0), ssize_t(bytes));
      got.pop_back();
    }
    EXPECT_TRUE(got == text) << bytes;
  }
}

// --- programs ---------------------------------------------------------------------------

struct Taken {
  TaskSpec spec;
  std::vector<Input> inputs;
  base::Status status;
};
Taken take(const RunOptions& options) {
  Taken t;
  size_t left = kInlineFilesBytesMax;
  t.status = takeProgram(options, &t.spec, &t.inputs, &left);
  return t;
}
std::vector<std::string> pathsOf(const Taken& t) {
  std::vector<std::string> paths;
  for (const Input& input : t.inputs) paths.push_back(input.file.path);
  return paths;
}

TEST_F(Folder, AFolderIsBroughtWithoutHiddenFiles) {
  fs::create_directories(path / "app/sub/__pycache__");
  fs::create_directories(path / "app/.git");
  for (const char* name :
       {"__main__.py", "b.py", "sub/c.txt", ".env", ".git/config", "sub/__pycache__/c.pyc"})
    std::ofstream(path / "app" / name) << name;
  RunOptions options;
  for (const std::string& script :
       {(path / "app").string(), (path / "app/").string(), (path / "app/sub/..").string()}) {
    options.script = script;
    Taken t = take(options);
    ASSERT_TRUE(t.status) << t.status.error().message;
    EXPECT_EQ(t.spec.kind, CodeKind::path);
    EXPECT_EQ(t.spec.script_name, "app");
    EXPECT_EQ(pathsOf(t),
              (std::vector<std::string>{"app/__main__.py", "app/b.py", "app/sub/c.txt"}));
  }
  fs::create_symlink("/etc/passwd", path / "app/link");
  Taken linked = take(options);
  ASSERT_FALSE(linked.status);
  EXPECT_NE(linked.status.error().message.find("link"), std::string::npos);
  fs::remove(path / "app/link");
  fs::remove(path / "app/__main__.py");
  EXPECT_NE(take(options).status.error().message.find("no __main__.py"), std::string::npos);
}
TEST_F(Folder, AFolderOfTooManyFilesIsRefused) {
  fs::create_directory(path / "app");
  std::ofstream(path / "app/__main__.py") << "1";
  for (size_t i = 0; i < kFolderFilesMax; ++i) std::ofstream(path / "app" / std::to_string(i));
  RunOptions options;
  options.script = path / "app";
  Taken t = take(options);
  ASSERT_FALSE(t.status);
  EXPECT_NE(t.status.error().message.find("1000 files"), std::string::npos)
      << t.status.error().message;
}
TEST_F(Folder, AModuleBringsItsTopFromTheCurrentFolder) {
  fs::create_directories(path / "pkg/sub");
  for (const char* name : {"pkg/mod.py", "pkg/sub/deep.py", "single.py"})
    std::ofstream(path / name) << name;
  const fs::path before = fs::current_path();
  fs::current_path(path);
  const auto bring = [](const char* module) {
    RunOptions options;
    options.module = module;
    return take(options);
  };
  Taken package = bring("pkg.sub.deep"), single = bring("single"), none = bring("json.tool"),
        odd = bring("../x");
  fs::current_path(before);
  for (const Taken* t : {&package, &single, &none, &odd})
    ASSERT_TRUE(t->status) << t->status.error().message;
  EXPECT_EQ(package.spec.kind, CodeKind::module);
  EXPECT_EQ(package.spec.code, "pkg.sub.deep");
  EXPECT_EQ(pathsOf(package), (std::vector<std::string>{"pkg/mod.py", "pkg/sub/deep.py"}));
  EXPECT_EQ(pathsOf(single), std::vector<std::string>{"single.py"});
  EXPECT_TRUE(none.inputs.empty() && odd.inputs.empty());
}
TEST_F(Folder, AMissingScriptHintsAtACommand) {
  RunOptions options;
  options.template_name = "shell";
  options.script = "no-such-echo";
  options.args = {"hi"};
  Taken t = take(options);
  ASSERT_FALSE(t.status);
  EXPECT_EQ(t.status.error().message, "there is no file 'no-such-echo'");
  EXPECT_NE(t.status.error().advice.find("mayfly run -t shell -- no-such-echo hi"),
            std::string::npos)
      << t.status.error().advice;
}
TEST_F(Folder, TheHintIsWordsForAShell) {
  RunOptions options;
  options.template_name = "shell";
  options.script = "bash";
  options.args = {"-c", "echo 'a  b' | wc -c", ""};
  Taken t = take(options);
  ASSERT_FALSE(t.status);
  EXPECT_NE(t.status.error().advice.find(
                "mayfly run -t shell -- bash -c 'echo '\\''a  b'\\'' | wc -c' ''"),
            std::string::npos)
      << t.status.error().advice;
  options.script = "no-such.py";
  Taken script = take(options);
  ASSERT_FALSE(script.status);
  EXPECT_EQ(script.status.error().advice, "") << "nobody means a command by it";
}
TEST_F(Folder, ALargeProgramGoesAmongTheFiles) {
  std::ofstream(path / "app.pyz") << std::string(kInlineFileBytesMax + 1, 'x');
  std::ofstream(path / "small.py") << "1";
  RunOptions options;
  options.script = path / "app.pyz";
  Taken t = take(options);
  ASSERT_TRUE(t.status);
  EXPECT_EQ(t.spec.kind, CodeKind::path);
  EXPECT_EQ(t.spec.script_name, "app.pyz");
  EXPECT_TRUE(t.inputs.at(0).large);
  options.script = path / "small.py";
  Taken small = take(options);
  EXPECT_EQ(small.spec.kind, CodeKind::file);
  EXPECT_EQ(small.spec.code, "1");
}

TEST(TemplateVerb, ANewManifestParsesAsItIsForEveryBase) {
  for (const char* base_name : {"python", "shell"}) {
    auto base = config::findManifest({MAYFLY_SOURCE_DIR "/templates"}, base_name);
    ASSERT_TRUE(base) << base.error().message;
    const std::string text = newManifest("mine", *base);
    auto m = config::parseManifest(text, "m.toml", &*base);
    ASSERT_TRUE(m) << m.error().message << "\n" << text;
    EXPECT_EQ(m->name, "mine");
    EXPECT_EQ(m->base, base_name);
    EXPECT_EQ(m->image.pip.empty(), std::string_view(base_name) == "shell");
  }
}

TEST(TemplateVerb, APathNamesItsFolderAndANameIsLookedForWhereItIsSaid) {
  TemplateArgs args;
  EXPECT_EQ(placeOf(args, "/a/b/").dirs, std::vector<std::string>{"/a"});
  EXPECT_EQ(placeOf(args, "/a/b/").name, "b");
  EXPECT_EQ(placeOf(args, "/b").dirs, std::vector<std::string>{"/"});
  args.template_dirs = {"/x", "/y"};
  EXPECT_EQ(placeOf(args, "b").dirs, args.template_dirs);
  EXPECT_EQ(placeOf(args, "/a/b").dirs, std::vector<std::string>{"/a"}) << "a path is exact";
}

TEST(TemplateCheck, ReadsWhatTheZygoteLibrarySays) {
  const char* log =
      "x info zygote of 'other' says: preloaded 9 in 1.0 ms; a 1.0 ms\n"
      "x info zygote of 'mine' says: preloaded 1 in 2.5 ms; old 2.5 ms\n"
      "x info zygote of 'mine' says: preloaded 80 in 277.6 ms; asyncio 90.9 ms, http.client 25.0 "
      "ms\n"
      "x info more\n";
  auto report = parsePreloads(log, "mine");
  ASSERT_TRUE(report);
  EXPECT_EQ(report->count, 80u);
  EXPECT_DOUBLE_EQ(report->ms, 277.6);
  EXPECT_EQ(report->longest, (std::vector<std::pair<std::string, double>>{{"asyncio", 90.9},
                                                                          {"http.client", 25.0}}));
  EXPECT_FALSE(parsePreloads(log, "third"));
  EXPECT_FALSE(parsePreloads("zygote of 'mine' says: preloaded x", "mine"));
}

TEST(TemplateCheck, KeepsTheLastLineOfAnException) {
  const std::string log =
      "x info zygote of 'mine' says: Traceback (most recent call last):\n"
      "x info zygote of 'mine' says: ImportError: of an earlier start\n"
      "x info zygote of 'other' says: Traceback (most recent call last):\n"
      "x info zygote of 'mine' says: preloaded 3 in 1.0 ms; a 1.0 ms\n"
      "x info zygote of 'mine' says: Traceback (most recent call last):\n"
      "x info zygote of 'mine' says:   File \"x.py\", line 1\n"
      "x info zygote of 'mine' says: ImportError: \n"
      "x info zygote of 'mine' says: \n"
      "x info zygote of 'mine' says: Original error was: libstdc++.so.6: cannot open\n"
      "x info zygote of 'mine' says: cannot serve: preload 'numpy' failed\n"
      "x info more\n";
  const auto words = zygoteWords(log, "mine");
  ASSERT_EQ(words.size(), 4u);
  EXPECT_EQ(words.front(), "Traceback (most recent call last):");
  EXPECT_EQ(words.back(), "Original error was: libstdc++.so.6: cannot open");
  EXPECT_TRUE(zygoteWords(log, "third").empty());
  std::string trace;
  for (int i = 0; i < 5'000; ++i) trace += "  File \"x.py\", line " + std::to_string(i) + "\n";
  const auto last = lastLines(trace + "ImportError: \x1b[31mlibx.so.1\n\n");
  EXPECT_EQ(last.size(), 20u);
  EXPECT_EQ(last.back(), "ImportError: \\x1b[31mlibx.so.1");
  CheckReport report;
  report.image.digest = std::string(64, 'a');
  report.refused = "a task that does nothing ends as failed";
  report.said = last;
  EXPECT_NE(checkText(report).find("\n  | ImportError: \\x1b[31mlibx.so.1\n"), std::string::npos)
      << checkText(report);
  const auto json = nlohmann::json::parse(checkJson(report));
  EXPECT_EQ(json["said"].back(), last.back());
}

TEST(TemplateCheck, UniqueMemoryIsThePrivatePages) {
  EXPECT_EQ(
      uniqueBytes(
          "00400000-7ff rollup\nRss: 100 kB\nShared_Clean: 5 kB\nPrivate_Clean:        12 kB\n"
          "Private_Dirty:      1000 kB\n"),
      std::optional<uint64_t>(1012u << 10));
  EXPECT_EQ(uniqueBytes("Rss: 100 kB\n"), std::nullopt);
}

TEST(TemplateCheck, TheReportSaysWhyATemplateIsRefused) {
  CheckReport report;
  report.name = "mine";
  report.image.digest = std::string(64, 'a');
  report.clone_ns = {1'000'000, 2'000'000, 9'000'000};
  EXPECT_NE(checkText(report).find("clone      2.00 ms, median of 3 (1.00 ms to 9.00 ms)"),
            std::string::npos)
      << checkText(report);
  EXPECT_NE(checkText(report).find("fit        yes"), std::string::npos);
  report.refused = "preload 'x' started a thread";
  EXPECT_NE(checkText(report).find("refused    preload 'x' started a thread"), std::string::npos);
  auto json = nlohmann::json::parse(checkJson(report));
  EXPECT_EQ(json["fit"], false);
  EXPECT_EQ(json["refused"], "preload 'x' started a thread");
  EXPECT_EQ(json["cloneNs"]["median"], 2'000'000);
  EXPECT_TRUE(json["uniqueBytes"].is_null());
}

}  // namespace
}  // namespace mayfly::cli
