// mayfly pool replay: its options, its tables, its errors.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/pool_replay.h"

namespace mayfly::cli {
namespace {

using Words = std::vector<std::string>;

ReplayOptions parsed(const Words& words) {
  auto it = parseReplay(words);
  if (auto* text = std::get_if<ReplayText>(&it)) {
    ADD_FAILURE() << text->text;
    return {};
  }
  return std::get<ReplayOptions>(it);
}

std::string refused(const Words& words) {
  auto it = parseReplay(words);
  auto* text = std::get_if<ReplayText>(&it);
  if (text == nullptr) return "taken";
  EXPECT_EQ(text->code, 2);
  return text->text;
}

// Continuation bytes of a character count for nothing.
size_t widest(const std::string& text) {
  size_t most = 0, width = 0;
  for (char c : text) {
    if (c == '\n')
      width = 0;
    else if ((c & 0xc0) != 0x80)
      most = std::max(most, ++width);
  }
  return most;
}

TEST(PoolReplay, WordsBecomeOptions) {
  ReplayOptions o =
      parsed({"--arrivals", "bursty",     "--burst", "50",        "--every", "2.5s",    "--make",
              "8ms",        "--make-box", "500us",   "--makers",  "2",       "--empty", "0.05",
              "--making",   "3",          "--claim", "1ms",       "--end",   "5ms",     "--memory",
              "64MiB",      "--fixed",    "3",       "--fixed=9", "--ewma",  "250ms",   "--warm-up",
              "1m",         "--seed",     "7",       "--time",    "2h",      "--json"});
  ASSERT_EQ(o.shapes.size(), 1u);
  EXPECT_EQ(o.shapes[0].kind, pool::TraceShape::Kind::bursty);
  EXPECT_EQ(o.shapes[0].batch, 50);
  EXPECT_EQ(o.shapes[0].every_s, 2.5);
  EXPECT_EQ(o.shapes[0].time_s, 7200);
  EXPECT_EQ(o.shapes[0].seed, 7u);
  EXPECT_EQ(o.compare.sim.each.box_make_ns, 500'000u);
  EXPECT_EQ(o.compare.sim.each.clone_make_ns, 7'500'000u);
  EXPECT_EQ(o.compare.sim.makers, 2u);
  EXPECT_EQ(o.compare.sim.making_max, 3u);
  EXPECT_EQ(o.compare.sim.claim_ns, 1'000'000u);
  EXPECT_EQ(o.compare.sim.end_ns, 5'000'000u);
  EXPECT_EQ(o.compare.sim.count_from_ns, 60'000'000'000u);
  EXPECT_EQ(o.compare.demand.empty_max, 0.05);
  EXPECT_EQ(o.compare.memory_bytes_max, 64u << 20);
  EXPECT_EQ(o.compare.fixed, (std::vector<uint32_t>{3, 9}));
  EXPECT_EQ(o.compare.cover_s, (std::vector<double>{0.25}));
  EXPECT_TRUE(o.json);
  EXPECT_EQ(parsed({}).shapes.size(), 3u);
  EXPECT_EQ(parsed({"a.csv", "--run", "2s"}).file, "a.csv");
}

TEST(PoolReplay, WrongUseNamesTheOption) {
  const std::pair<Words, const char*> cases[] = {
      {{"--rate", "x"}, "--rate: 'x' is not a number"},
      {{"--rate", "nan"}, "--rate"},
      {{"--time", "5"}, "--time: '5' is not a time"},
      {{"--time", "1000h"}, "--time: 3.6e+06 is not from"},
      {{"--makers", "0"}, "--makers: 0 is not from 1"},
      {{"--max", "5000"}, "--max: 5000 is not from"},
      {{"--clone-size", "2Mb"}, "--clone-size"},
      {{"--make", "1ms"}, "--make-box: is more than --make"},
      {{"--arrivals", "weird"}, "'weird' is not steady"},
      {{"--arrivals", "steady", "a.csv"}, "exclude each other"},
      {{"a.csv", "--rate", "3"}, "not for a FILE"},
      {{"a.csv", "b.csv"}, "b.csv"},
      {{"--what"}, "--what"},
      {{"--fixed"}, "--fixed"},
      {{"\x1b[31m", "--rate", "\x1b"}, "\\x1b"},
  };
  for (const auto& [words, says] : cases)
    EXPECT_NE(refused(words).find(says), std::string::npos) << refused(words);
}

TEST(PoolReplay, HelpFitsATerminalAndNamesEveryOption) {
  auto it = parseReplay({"--help"});
  auto* text = std::get_if<ReplayText>(&it);
  ASSERT_NE(text, nullptr);
  EXPECT_EQ(text->code, 0);
  EXPECT_LE(widest(text->text), 80u);
  for (const char* flag : {"--arrivals", "--burst", "--empty", "--ewma", "--json", "seconds[,"})
    EXPECT_NE(text->text.find(flag), std::string::npos) << flag;
}

TEST(PoolReplay, TablesFitATerminalAndAreTheSameEachTime) {
  ReplayOptions o = parsed({"--time", "90s", "--fixed", "4096", "--ewma", "100s", "--make", "40ms",
                            "--rate", "90", "--burst", "300"});
  auto text = replay(o);
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_LE(widest(*text), 80u);
  EXPECT_EQ(std::count(text->begin(), text->end(), '\n'), 4 * (2 + 6) + 3);
  for (const char* word :
       {"ours", "same MB*s", "same hits", "EWMA 100 s", "fixed 4096", "together"})
    EXPECT_NE(text->find(word), std::string::npos) << word;
  EXPECT_EQ(*replay(o), *text);
}

class File {
 public:
  explicit File(const std::string& text) {
    close(::mkstemp(path_));
    std::ofstream(path_) << text;
  }
  ~File() { ::unlink(path_); }
  std::string path() const { return path_; }

 private:
  char path_[32] = "/tmp/mayfly-replay-XXXXXX";
};

TEST(PoolReplay, FileIsReplayedByTemplate) {
  std::string csv = "seconds,template\n";
  for (int i = 0; i < 300; ++i) csv += std::to_string(i) + (i % 3 == 0 ? ",a\n" : ",b,0.5\n");
  File file(csv);
  auto text = replay(parsed({"--json", file.path()}));
  ASSERT_TRUE(text) << text.error().message;
  auto json = nlohmann::json::parse(*text);
  auto& ours = json["tables"][0]["policies"][0];
  EXPECT_EQ(json["tables"][0]["arrivals"], 300);
  EXPECT_EQ(ours["policy"], "ours");
  EXPECT_EQ(ours["templates"]["a"]["arrivals"], 100);
  EXPECT_EQ(ours["templates"]["b"]["arrivals"], 200);
  EXPECT_EQ(ours["templates"]["b"]["hits"], 199);  // all but the first
  EXPECT_EQ(ours["hitRate"].get<double>(), 298.0 / 300);
}

TEST(PoolReplay, FaultyFileIsAnErrorWithNameAndLine) {
  File file("1\n0\n");
  auto text = replay(parsed({file.path()}));
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().code, base::Code::invalidArgument);
  EXPECT_EQ(text.error().message, file.path() + ":2: 0 s is before the line above it");
  auto missing = replay(parsed({"/nonexistent/x.csv"}));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().sys, ENOENT);
}

}  // namespace
}  // namespace mayfly::cli
