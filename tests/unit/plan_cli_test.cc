// mayfly plan and mayfly trace record: options, files, exit codes.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <nlohmann/json.hpp>

#include "cli/plan.h"

namespace mayfly::cli {
namespace {

using Words = std::vector<std::string>;

PlanOptions planned(const Words& words) {
  auto it = parsePlan(words, "/s");
  if (auto* text = std::get_if<PlanText>(&it)) {
    ADD_FAILURE() << text->text;
    return {};
  }
  return std::get<PlanOptions>(it);
}

std::string refusedPlan(const Words& words) {
  auto it = parsePlan(words, "/s");
  auto* text = std::get_if<PlanText>(&it);
  if (text == nullptr) return "taken";
  EXPECT_EQ(text->code, 2);
  return text->text;
}

TEST(PlanVerb, WordsBecomeOptions) {
  const PlanOptions o =
      planned({"s.toml", "--host", "h", "--trace", "t", "--config", "c", "--seed", "4", "--svg",
               "x.svg", "--settings", "o", "--arrivals", "a", "--json"});
  EXPECT_EQ(o.scenario, "s.toml");
  EXPECT_EQ(o.host, "h");
  EXPECT_EQ(o.trace, "t");
  EXPECT_EQ(o.settings, "c");
  EXPECT_EQ(o.seed, 4u);
  EXPECT_EQ(o.svg, "x.svg");
  EXPECT_EQ(o.settings_out, "o");
  EXPECT_EQ(o.arrivals_out, "a");
  EXPECT_TRUE(o.json);
  auto it = parsePlan({"calibrate", "--template", "a", "--template", "b", "--code", "a=x=y",
                       "--seconds", "1", "--tasks", "9", "-q"},
                      "/s");
  const auto* c = std::get_if<CalibrateOptions>(&it);
  ASSERT_NE(c, nullptr);
  EXPECT_EQ(c->socket, "/s");
  EXPECT_EQ(c->templates, (Words{"a", "b"}));
  EXPECT_EQ(c->code, (std::vector<std::pair<std::string, std::string>>{{"a", "x=y"}}));
  EXPECT_EQ(c->tasks, 9u);
  EXPECT_TRUE(c->quiet);
}

TEST(PlanVerb, WrongUseNamesTheOption) {
  const std::pair<Words, const char*> cases[] = {
      {{"--what"}, "`mayfly plan` has no option '--what'"},
      {{"a", "b"}, "takes no 'b'"},
      {{"--seed", "x"}, "--seed"},
      {{"calibrate", "--tasks", "1"}, "--tasks"},
      {{"calibrate", "--code", "x"}, "'x' is not NAME=CODE"},
      {{"calibrate", "--hosts"}, "no option '--hosts'"},
  };
  for (const auto& [words, says] : cases)
    EXPECT_NE(refusedPlan(words).find(says), std::string::npos) << refusedPlan(words);
  auto it = parseTraceVerb({"play"});
  ASSERT_NE(std::get_if<PlanText>(&it), nullptr);
  EXPECT_NE(std::get<PlanText>(it).text.find("no verb 'play'; there is `record`"),
            std::string::npos);
  it = parseTraceVerb({"record", "a", "b"});
  EXPECT_EQ(std::get<PlanText>(it).code, 2);
}

TEST(PlanVerb, HelpFitsATerminal) {
  for (const Words& words : {Words{"--help"}, Words{"calibrate", "--help"}}) {
    auto it = parsePlan(words, "/s");
    const auto* text = std::get_if<PlanText>(&it);
    ASSERT_NE(text, nullptr);
    EXPECT_EQ(text->code, 0);
    std::istringstream lines(text->text);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 80u) << line;
  }
}

// --- calibrate ----------------------------------------------------------------------------

TemplateInfo served(const char* name, const char* state = "ready") {
  TemplateInfo t;
  t.name = name;
  t.state = state;
  t.state_text = "why";
  return t;
}

TEST(CalibrateVerb, ATemplateWithoutAKnownProgramIsLeftOutUnlessItIsNamed) {
  const std::vector<TemplateInfo> all = {served("python"), served("ruby"), served("node"),
                                         served("perl", "failed")};
  const auto namesOf = [](const Chosen& chosen) {
    Words names;
    for (const auto& [info, code] : chosen.templates) {
      EXPECT_FALSE(code.empty()) << info.name;
      names.push_back(info.name);
    }
    return names;
  };
  CalibrateOptions o;
  auto chosen = chooseTemplates(o, all);
  ASSERT_TRUE(chosen) << chosen.error().message;
  EXPECT_EQ(namesOf(*chosen), (Words{"python", "node"}));
  EXPECT_EQ(chosen->remarks, Words{"'ruby' is not measured: no program for it is known. Give one "
                                   "that prints a line: --code 'ruby=CODE'."});
  o.code = {{"ruby", "puts"}};
  chosen = chooseTemplates(o, all);
  ASSERT_TRUE(chosen) << chosen.error().message;
  EXPECT_EQ(namesOf(*chosen), (Words{"python", "ruby", "node"}));
  EXPECT_EQ(chosen->templates[1].second, "puts");
  EXPECT_TRUE(chosen->remarks.empty());
}

TEST(CalibrateVerb, WhatCannotBeMeasuredIsNamed) {
  const std::vector<TemplateInfo> all = {served("ruby"), served("perl", "failed")};
  const auto refused = [&](Words templates, std::vector<std::pair<std::string, std::string>> code,
                           const std::vector<TemplateInfo>& served) {
    CalibrateOptions o;
    o.templates = std::move(templates);
    o.code = std::move(code);
    const auto chosen = chooseTemplates(o, served);
    return chosen ? "taken" : chosen.error().message;
  };
  EXPECT_EQ(refused({"ruby"}, {}, all), "no program for template 'ruby' is known");
  EXPECT_EQ(refused({}, {}, all).substr(0, 22), "'ruby' is not measured");
  EXPECT_EQ(refused({"perl"}, {}, all), "template 'perl' is failed: why");
  EXPECT_EQ(refused({"lua"}, {}, all), "there is no template 'lua'");
  EXPECT_EQ(refused({}, {{"lua", "print()"}}, all), "there is no template 'lua'");
  EXPECT_EQ(refused({}, {}, {}), "the daemon has no template that is ready");
}

class Folder {
 public:
  Folder() { EXPECT_NE(::mkdtemp(path_), nullptr); }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(at(name)) << text;
    return at(name);
  }
  std::string read(const std::string& name) const {
    std::stringstream text;
    text << std::ifstream(at(name)).rdbuf();
    return text.str();
  }
  std::string at(const std::string& name) const { return std::string(path_) + "/" + name; }

 private:
  char path_[32] = "/tmp/mayfly-plan-XXXXXX";
};

constexpr const char* kHost =
    "[host]\nprocessors = 4\nmemory = \"16GiB\"\nopen_files = 20000\nprocesses = 32768\n"
    "user_namespaces = 30000\nptys = 100\n[templates.python]\n";

TEST(PlanVerb, ScenarioNamesItsFilesBesideItself) {
  const Folder folder;
  folder.write("host.toml", kHost);
  folder.write("mayflyd.toml", "parked_max = 7\n");
  const std::string scenario = folder.write(
      "s.toml",
      "host = \"host.toml\"\nsettings = \"mayflyd.toml\"\ntime = \"60s\"\nwarm_up = \"5s\"\n"
      "[[load]]\nrate = 10\nrun = \"20ms\"\n");
  PlanOptions o = planned({scenario, "--json", "--svg", folder.at("p.svg"), "--settings",
                           folder.at("m.toml"), "--arrivals", folder.at("a.csv")});
  auto done = plan(o);
  ASSERT_TRUE(done) << done.error().message;
  const auto json = nlohmann::json::parse(done->text);
  EXPECT_TRUE(done->met);
  EXPECT_EQ(json["hosts"], 1);
  for (const auto& r : json["resources"]) {
    if (r["name"].get<std::string>().find("parked_max") != std::string::npos) {
      EXPECT_EQ(r["of"], 7);
    }
  }
  EXPECT_NE(folder.read("p.svg").find("<svg"), std::string::npos);
  EXPECT_EQ(folder.read("m.toml"), json["settings"].get<std::string>());
  // The trace that it wrote is the load that it planned for.
  PlanOptions again = planned({scenario, "--json", "--trace", folder.at("a.csv")});
  auto twice = plan(again);
  ASSERT_TRUE(twice) << twice.error().message;
  EXPECT_EQ(nlohmann::json::parse(twice->text)["tasks"], json["tasks"]);
}

TEST(PlanVerb, WhatIsMissingIsNamed) {
  const Folder folder;
  const std::string host = folder.write("host.toml", kHost);
  const auto fails = [](const Words& words) {
    auto done = plan(planned(words));
    EXPECT_FALSE(done);
    return done ? "" : done.error().message;
  };
  EXPECT_EQ(fails({}), "no host is described");
  EXPECT_EQ(fails({"--host", host}), "no load is described");
  EXPECT_NE(fails({"--host", "/nonexistent", "--trace", "x"}).find("/nonexistent"),
            std::string::npos);
  const std::string trace = folder.write("x.csv", "1,python\n0,python\n");
  EXPECT_EQ(fails({"--host", host, "--trace", trace}),
            trace + ":2: 0 s is before the line above it");
  const std::string config = folder.write("c.toml", "parked = 1\n");
  EXPECT_EQ(
      fails({"--host", host, "--trace", trace, "--config", config}).substr(0, config.size() + 3),
      config + ":1:");
}

TEST(TraceVerb, LogBecomesATrace) {
  const Folder folder;
  std::string log = "noise\n" + std::string(100'000, 'x') + " task id=1\n";
  for (int i = 0; i < 3; ++i)
    log += "2026-03-01T00:00:0" + std::to_string(i) +
           ".000 info task id=1 template=python mechanism=fork user=uid:0 verdict=failed "
           "run_ms=5.000 whole_ms=9.000 cpu_ms=4.000 memory_peak=1000\n";
  log += "2026-03-01T00:00:09.000 info task id=1 template=pyth";  // the daemon writes it just now
  RecordOptions o;
  o.log = folder.write("log", log);
  o.out = folder.at("x.csv");
  o.quiet = true;
  const base::Status done = record(o);
  ASSERT_TRUE(done) << done.error().message;
  const std::string text = folder.read("x.csv");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4);
  EXPECT_NE(text.find("\n2.000000,python,0.005000,0.004000,1000,u1,\n"), std::string::npos) << text;
  const auto toldOf = [&](const std::string& text) {
    o.log = folder.write("log", text);
    testing::internal::CaptureStderr();
    EXPECT_TRUE(record(o));
    return testing::internal::GetCapturedStderr();
  };
  const std::string dropped = log + "ed\nSuppressed 12 messages from mayfly.service\n";
  EXPECT_EQ(toldOf(dropped), "") << "quiet";
  o.quiet = false;
  EXPECT_EQ(toldOf(log).find("dropped"), std::string::npos);
  EXPECT_NE(toldOf(dropped).find("the journal dropped 12 lines, so the trace lacks tasks: set "
                                 "a larger LogRateLimitBurst="),
            std::string::npos);
  o.log = folder.write("empty", "");
  EXPECT_FALSE(record(o));
}

}  // namespace
}  // namespace mayfly::cli
