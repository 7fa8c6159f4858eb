// mayfly broker log: the audit file's lines, over its rotations, as a table and as they are.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "cli/broker.h"
#include "cli/broker_log.h"
#include "config/daemon.h"

namespace mayfly::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string lineOf(uint64_t task, const std::string& outcome = "allowed",
                   const std::string& tenant = "red", const std::string& action = "api",
                   const std::string& target = "GET api.test/v1/x") {
  std::string rule = outcome == "allowed" ? "" : R"("rule":"http.api.paths",)";
  return fmt::format(
      R"({{"time":"2026-11-29T18:00:00.123Z","user":1000,"tenant":"{}","task":{},"epoch":1,)"
      R"("kind":"http","action":"{}","target":"{}","outcome":"{}",{}"status":200,)"
      R"("request_bytes":0,"answer_bytes":5,"duration_us":1500}})",
      tenant, task, action, target, outcome, rule);
}

class LogFile : public ::testing::Test {
 protected:
  LogFile() {
    std::string name = ::testing::TempDir() + "cli-log-XXXXXX";
    folder_ = ::mkdtemp(name.data());
    path_ = folder_ + "/audit.log";
  }
  ~LogFile() override { fs::remove_all(folder_); }

  void append(const std::string& text, const std::string& to = {}) {
    std::ofstream(to.empty() ? path_ : to, std::ios::app) << text;
  }
  // As the supervisor rotates: upwards, from the last on.
  void rotate() {
    for (int n = 8; n > 0; --n)
      if (const std::string from = n == 1 ? path_ : path_ + "." + std::to_string(n - 1);
          fs::exists(from))
        fs::rename(from, path_ + "." + std::to_string(n));
    append("");
  }
  static std::vector<std::string> linesOf(AuditTail& tail) {
    std::vector<std::string> out;
    for (;;) {
      auto line = tail.next();
      if (!line) ADD_FAILURE() << line.error().message;
      if (!line || !*line) return out;
      out.push_back(**line);
    }
  }
  AuditTail tail() {
    auto opened = AuditTail::open(path_);
    if (!opened) ADD_FAILURE() << opened.error().message;
    return std::move(*opened);
  }
  // What the verb prints for these words, and its complaints.
  std::string printed(std::vector<std::string> words) {
    words.insert(words.begin(), "log");
    auto parsed = parseBroker(words);
    if (auto* text = std::get_if<BrokerText>(&parsed)) return text->text;
    const LogOptions& options = std::get<BrokerArgs>(parsed).log;
    AuditTail all = tail();
    LogPrinter printer(options);
    std::string out = printer.header();
    auto taken = printer.take(all, [&](std::string_view text) {
      out += text;
      return true;
    });
    EXPECT_TRUE(taken && *taken);
    all.end();
    complaints_ = printer.takeComplaints(all);
    return out;
  }

  std::string folder_, path_, complaints_;
};

// --- the file ------------------------------------------------------------------------

TEST_F(LogFile, LinesComeOnceEachAndPartsWaitForTheirEnd) {
  append("one\ntw");
  AuditTail t = tail();
  EXPECT_THAT(linesOf(t), ElementsAre("one"));
  EXPECT_EQ(t.place(), "audit.log:1");
  append("o\n\nthree\n");
  EXPECT_THAT(linesOf(t), ElementsAre("two", "three"));
  EXPECT_EQ(t.place(), "audit.log:4");
  EXPECT_THAT(linesOf(t), IsEmpty());
  t.end();
  EXPECT_THAT(t.takeNotes(), IsEmpty());
  append("half");
  EXPECT_THAT(linesOf(t), IsEmpty());
  t.end();
  EXPECT_THAT(t.takeNotes(), ElementsAre("audit.log:5: a line without its end"));
}

TEST_F(LogFile, RotatedFilesComeFirstAndRotationLosesNothing) {
  append("1\n");
  rotate();
  append("2\n");
  rotate();
  append("3\n");
  AuditTail t = tail();
  EXPECT_THAT(linesOf(t), ElementsAre("1", "2", "3"));
  rotate();
  append("late\n", path_ + ".1");  // the vault has not got the new file yet
  EXPECT_THAT(linesOf(t), ElementsAre("late"));
  append("4\n", path_ + ".1");
  append("5\n");
  EXPECT_THAT(linesOf(t), ElementsAre("4", "5"));
  // Three rotations between two looks.
  for (const char* each : {"6\n", "7\n", "8\n"}) {
    append(each);
    rotate();
  }
  append("9\n");
  EXPECT_THAT(linesOf(t), ElementsAre("6", "7", "8", "9"));
  EXPECT_THAT(t.takeNotes(), IsEmpty());
}

TEST_F(LogFile, AFileThatWasCutReplacedOrRemovedIsReadAnew) {
  append("one\ntwo\n");
  AuditTail t = tail();
  EXPECT_THAT(linesOf(t), ElementsAre("one", "two"));
  fs::resize_file(path_, 0);
  append("3\n");
  EXPECT_THAT(linesOf(t), ElementsAre("3"));
  EXPECT_THAT(t.takeNotes(), ElementsAre("audit.log was cut to 2 bytes: read from its beginning"));

  fs::remove(path_);
  EXPECT_THAT(linesOf(t), IsEmpty());
  append("4\n");
  EXPECT_THAT(linesOf(t), ElementsAre("4"));
  EXPECT_THAT(t.takeNotes(), ElementsAre(HasSubstr("audit.log is gone")));

  append("5\n", folder_ + "/other");
  fs::rename(folder_ + "/other", path_);
  EXPECT_THAT(linesOf(t), ElementsAre("5"));
  EXPECT_THAT(t.takeNotes(), ElementsAre(HasSubstr("audit.log is gone")));
}

TEST_F(LogFile, ALineThatIsTooLongIsSkippedAndHeldInBoundedMemory) {
  append(std::string(AuditTail::kLineBytesMax, 'x') + "\n" +
         std::string(AuditTail::kLineBytesMax + 1, 'y') + "\n" + std::string(1u << 20, 'z') +
         "\nlast\n");
  AuditTail t = tail();
  EXPECT_THAT(linesOf(t), ElementsAre(std::string(AuditTail::kLineBytesMax, 'x'), "last"));
  EXPECT_EQ(t.place(), "audit.log:4");
  EXPECT_THAT(t.takeNotes(), ElementsAre("audit.log:2: a line of more than 65536 bytes",
                                         "audit.log:3: a line of more than 65536 bytes"));
}

TEST_F(LogFile, WhatIsNoAuditFileIsAnError) {
  auto none = AuditTail::open(path_);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().sys, ENOENT);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  auto pipe = AuditTail::open(path_);  // and does not wait for its writer
  ASSERT_FALSE(pipe);
  EXPECT_THAT(pipe.error().message, HasSubstr("is no regular file"));
}

// --- its lines -----------------------------------------------------------------------

TEST_F(LogFile, TheTableHasARowForEachLine) {
  append(lineOf(7) + "\n" + lineOf(8, "refused", "") + "\n");
  const std::string out = printed({});
  EXPECT_THAT(out, HasSubstr("TIME "));
  EXPECT_THAT(out, HasSubstr("2026-11-29T18:00:00.123Z  7 "));
  EXPECT_THAT(out, HasSubstr("red         http.api              allowed   200         0 B         "
                             "5 B    1.50 ms  GET api.test/v1/x\n"));
  EXPECT_THAT(out, HasSubstr("-           http.api              refused "));
  EXPECT_THAT(out, HasSubstr("GET api.test/v1/x  [http.api.paths]\n"));
  EXPECT_EQ(complaints_, "");
}

TEST_F(LogFile, EachFilterKeepsItsOwn) {
  append(lineOf(7) + "\n" + lineOf(8, "refused", "blue") + "\n" + lineOf(9, "failed", "", "b") +
         "\n");
  const auto tasks = [&](std::vector<std::string> words) {
    words.push_back("--json");
    std::string found;
    std::istringstream out(printed(std::move(words)));
    for (std::string line; std::getline(out, line);) {
      const size_t at = line.find("\"task\":");
      found += line.substr(at + 7, 1);
    }
    return found;
  };
  EXPECT_EQ(tasks({}), "789");
  EXPECT_EQ(tasks({"--task", "8"}), "8");
  EXPECT_EQ(tasks({"--tenant", "blue"}), "8");
  EXPECT_EQ(tasks({"--tenant", ""}), "9");
  EXPECT_EQ(tasks({"--action", "b"}), "9");
  EXPECT_EQ(tasks({"--user", "1000"}), "789");
  EXPECT_EQ(tasks({"--user", "1"}), "");
  EXPECT_EQ(tasks({"--refused"}), "8");
  EXPECT_EQ(tasks({"--outcome", "refused", "--outcome", "failed"}), "89");
  EXPECT_EQ(tasks({"--action", "api", "--outcome", "allowed"}), "7");
  EXPECT_EQ(tasks({"--trace", "4bf92f"}), "");
  EXPECT_EQ(tasks({"-n", "2"}), "89");
  EXPECT_EQ(tasks({"-n", "0"}), "");
  EXPECT_EQ(tasks({"-n", "1", "--action", "api"}), "8");
  for (int i = 0; i < 20; ++i) append(lineOf(5) + "\n");
  EXPECT_EQ(tasks({"-f"}), "5555555555");
  EXPECT_EQ(tasks({"-f", "-n", "21"}).size(), 21u);
  std::string traced = lineOf(6);
  append(traced.insert(1, R"("trace":"00-4bf92f-1-01",)") + "\n");
  EXPECT_EQ(tasks({"--trace", "4bf92f"}), "6");
  EXPECT_EQ(tasks({"--trace", "4bf92e"}), "");
}

TEST_F(LogFile, JsonIsTheLineAsItIs) {
  append(lineOf(7) + "\n");
  EXPECT_EQ(printed({"--json"}), lineOf(7) + "\n");
}

TEST_F(LogFile, DamagedLinesAreNamedAndSkipped) {
  append("nonsense\n" + lineOf(1) + "\n[1]\n{}\n" + lineOf(2).substr(0, 40) + "\n");
  std::string huge = lineOf(3);
  huge.replace(huge.find("1000"), 4, "5000000000");
  append(huge + "\n" + std::string(5'000, '[') + "\n" + lineOf(4) + "\n");
  const std::string out = printed({"--json"});
  EXPECT_EQ(out, lineOf(1) + "\n" + lineOf(4) + "\n");
  EXPECT_EQ(complaints_,
            "mayfly: audit.log:1: no JSON object, ignoring\n"
            "mayfly: audit.log:3: no JSON object, ignoring\n"
            "mayfly: audit.log:4: no good 'time', ignoring\n"
            "mayfly: audit.log:5: no JSON object, ignoring\n"
            "mayfly: audit.log:6: no good 'user', ignoring\n"
            "mayfly: audit.log:7: no JSON object, ignoring\n");
  for (int i = 0; i < 50; ++i) append("x\n");
  printed({});
  EXPECT_THAT(complaints_, HasSubstr("and 36 more like these\n"));
}

TEST_F(LogFile, HostileNamesCannotSteerATerminal) {
  append(lineOf(7, "allowed", "\\u001b[2Jred", "a\\u0007", "GET x/\\u009b31m\\u202e\\n") + "\n");
  const std::string out = printed({});
  EXPECT_THAT(out, HasSubstr("\\x1b[2Jred"));
  EXPECT_THAT(out, HasSubstr("http.a\\x07"));
  for (const char* bad : {"\x1b", "\x07", "\xc2\x9b", "\xe2\x80\xae"})
    EXPECT_THAT(out, Not(HasSubstr(bad)));
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 2);  // the header and one row
  append("\x1b[2J\n");
  printed({});
  EXPECT_THAT(complaints_, Not(HasSubstr("\x1b")));
}

TEST_F(LogFile, AReaderThatIsGoneEndsIt) {
  std::string text;
  for (int i = 0; i < 2'000; ++i) text += lineOf(7) + "\n";
  append(text);
  AuditTail t = tail();
  const LogOptions options;
  LogPrinter printer(options);
  int calls = 0;
  const auto taken = printer.take(t, [&](std::string_view) { return ++calls < 2; });
  EXPECT_TRUE(taken && !*taken);
  EXPECT_EQ(calls, 2);  // pieces, not the whole
}

// --- where it is ---------------------------------------------------------------------

TEST_F(LogFile, TheFileIsThatOfTheNamedDaemon) {
  ::unsetenv("MAYFLY_STATE_DIR");
  const auto found = [](const LogOptions& options) {
    auto path = auditFileOf(options);
    return path ? *path : path.error().message + "|" + path.error().advice;
  };
  EXPECT_EQ(found({}), "/var/lib/mayfly/instances/default/broker/audit.log");
  LogOptions options;
  options.instance = "two";
  options.state_dir = "/srv/m";
  EXPECT_EQ(found(options), "/srv/m/instances/two/broker/audit.log");
  const std::string settings = folder_ + "/mayflyd.toml";
  options = {};
  options.config = settings;
  EXPECT_THAT(found(options), HasSubstr("No such file"));
  append("instance = 'three'\nstate_dir = '/srv/s'\n", settings);
  EXPECT_THAT(found(options), HasSubstr("sets no broker_policy: this daemon has no broker"));
  append("broker_policy = '/etc/mayfly/policy.toml'\n", settings);
  EXPECT_EQ(found(options), "/srv/s/instances/three/broker/audit.log");
  options.instance = "../x";
  EXPECT_THAT(found(options), HasSubstr("'../x' is not an instance's name"));
  options.file = "/x/y";
  EXPECT_EQ(found(options), "/x/y");
  ::setenv("MAYFLY_STATE_DIR", "/env", 1);
  EXPECT_EQ(found({}), "/env/instances/default/broker/audit.log");
  ::unsetenv("MAYFLY_STATE_DIR");
}

TEST(LogWords, AWrongUseIsTold) {
  const auto said = [](std::vector<std::string> words) {
    words.insert(words.begin(), "log");
    auto parsed = parseBroker(words);
    auto* text = std::get_if<BrokerText>(&parsed);
    return text == nullptr ? "" : std::to_string(text->code) + ": " + text->text;
  };
  EXPECT_THAT(said({"--outcome", "refusd"}), HasSubstr("2: mayfly: --outcome"));
  EXPECT_THAT(said({"--task", "x"}), HasSubstr("2: mayfly: "));
  EXPECT_THAT(said({"-n", "-1"}), HasSubstr("2: mayfly: "));
  EXPECT_THAT(said({"--folow"}), HasSubstr("the nearest is '--follow'"));
  EXPECT_THAT(said({"--help"}), HasSubstr("0: Show the broker's decisions"));
  EXPECT_THAT(said({"--help"}), HasSubstr("mayfly broker log"));
}

}  // namespace
}  // namespace mayfly::cli
