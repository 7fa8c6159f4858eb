#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/files.h"
#include "cli/options.h"
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
  auto l =
      runOf({"run",  "--memory",    "512M", "--cpus",   "1.5", "--wall-time", "30s", "--cpu-time",
             "1m",   "--pids",      "3",    "--files",  "4",   "--file-size", "5",   "--disk",
             "6KiB", "--inodes",    "7",    "--output", "8",   "--input",     "9",   "--out-size",
             "10",   "--out-files", "11",   "x"})
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
       }) {
    auto said = saidOf(words);
    EXPECT_EQ(said.code, kExitMayfly);
    EXPECT_NE(said.text.find(says), std::string::npos) << said.text;
  }
}
TEST(Words, OtherWrongUsesAre2) {
  EXPECT_EQ(saidOf({}).code, 2);
  EXPECT_EQ(saidOf({"fly"}).code, 2);
  EXPECT_EQ(saidOf({"kill"}).code, 2);
  EXPECT_EQ(saidOf({"kill", "x"}).code, 2);
}
TEST(Words, HelpFitsEightyColumnsAndNamesEveryFlag) {
  for (const Words& words :
       {Words{"--help"}, {"run", "--help"}, {"ps", "-h"}, {"doctor", "--help"}}) {
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
  EXPECT_TRUE(std::holds_alternative<DoctorOptions>(parseCommandLine({"doctor"}, "").verb));
}
TEST(Words, TheSocketIsNamedBeforeOrAfterTheVerb) {
  EXPECT_EQ(parseCommandLine({"--socket", "/a", "ps"}, "/d").socket, "/a");
  EXPECT_EQ(parseCommandLine({"ps", "--socket", "/a"}, "/d").socket, "/a");
  EXPECT_EQ(parseCommandLine({"run", "--socket", "/a", "x"}, "/d").socket, "/a");
  EXPECT_EQ(parseCommandLine({"run", "x", "--socket", "/a"}, "/d").socket, "/d");
  EXPECT_EQ(config::Daemon{}.socketPath(), kDefaultSocket);
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
