// mayfly top: a message as a screen, keys as the state's changes, an address, a stream of events.
// The made-up message is that of dashboard_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <locale.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/http_feed.h"
#include "cli/top.h"
#include "cli/top_view.h"

namespace mayfly::cli {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

json madeUp() {
  std::ifstream in(std::string(MAYFLY_SOURCE_DIR) + "/tests/unit/dashboard_message.json");
  return json::parse(in);
}
std::vector<std::string> linesOf(const Grid& grid, Grid::Colors colors = Grid::Colors::none) {
  std::vector<std::string> out;
  for (size_t row = 0; row < grid.rows(); ++row) out.push_back(grid.text(row, colors));
  return out;
}
std::string textOf(const Grid& grid) {
  std::string out;
  for (const std::string& line : linesOf(grid)) out += line + "\n";
  return out;
}
// The first word of each row of the section's table.
std::vector<std::string> rowNames(const TopState& state, const json& message) {
  std::vector<std::string> out;
  const auto lines = linesOf(screenOf(message, state, 160, 40));
  for (size_t i = 6; i + 1 < lines.size() && !lines[i].empty(); ++i)
    out.push_back(lines[i].substr(0, lines[i].find(' ')));
  return out;
}

class Top : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_NE(::setlocale(LC_CTYPE, "C.UTF-8"), nullptr); }
};

TEST_F(Top, TheScreenIsExactlyThis) {
  EXPECT_EQ(textOf(screenOf(madeUp(), {}, 80, 12)),
            R"(mayfly default ready  up 60 min  cpu 12.5 %  memory 41 MiB  at 00:53:20 UTC
running 3  queued 1 (12 ms)  ended 12/s  boxes 16  refused 9  quarantined 1
start p50/p99 5.97 ms/24.9 ms  whole 29.5 ms/90.1 ms  misses 16.7 %  lag 329 us
committed  cpu 95 %  memory 37.5 %  boxes 25 %  queue 0.098 %
receipts 1199  incomplete 1  broker up  allowed 310  refused 4  failed 1  sessi~
TEMPLATE              STATE        PARKED  MAKING  RUNNING  WAITING  DYING  QUAR
python                ready           6/8       2        3        1      2     0
r-data                unhealthy       0/0       0        0        0      0     1



1 pools 2 phases 3 tenants 4 host 5 verdicts 6 slow ? keys q quit
)");
}

TEST_F(Top, AWiderScreenShowsForecastBesideWhatIs) {
  const auto lines = linesOf(screenOf(madeUp(), {}, 160, 12));
  EXPECT_THAT(lines[5], HasSubstr("ARRIVALS      P99  FORECAST   MISSES  PREDICTED"));
  EXPECT_THAT(lines[6], HasSubstr("13/s  24.9 ms    12.5/s   16.7 %     0.99 %"));
}

TEST_F(Top, NoLineIsWiderOrLowerThanTheTerminal) {
  for (uint32_t columns : {1u, 39u, 40u, 57u, 80u, 200u})
    for (uint32_t rows : {1u, 7u, 8u, 9u, 24u, 60u})
      for (size_t section = 0; section < kSections; ++section) {
        TopState state;
        state.section = static_cast<Section>(section);
        const Grid grid = screenOf(madeUp(), state, columns, rows);
        EXPECT_LE(grid.rows(), rows);
        for (const std::string& line : linesOf(grid)) EXPECT_LE(line.size(), columns) << line;
      }
}

TEST_F(Top, OncePrintsEverySection) {
  const std::string text = textOf(pageOf(madeUp(), {}, 120));
  for (const char* each : {"Pools", "Phases, last minute", "Tenants, times of all their tasks",
                           "Host", "Verdicts", "Refusals", "Slow tasks", "red (uid:1000)",
                           "all others", "wall time", "unknown template", "8231"})
    EXPECT_THAT(text, HasSubstr(each));
}

TEST_F(Top, WordsSayWhatColoursSay) {
  const Grid grid = screenOf(madeUp(), {}, 100, 12);
  const std::string plain = grid.text(7, Grid::Colors::none);
  EXPECT_THAT(plain, HasSubstr("unhealthy"));
  EXPECT_THAT(grid.text(7, Grid::Colors::few), HasSubstr("\x1b[0;1;31munhealthy\x1b[0m"));
  EXPECT_THAT(plain, Not(HasSubstr("\x1b")));
}

TEST_F(Top, HostileNamesCannotReachTheTerminal) {
  json message = madeUp();
  const std::string name = "a\x1b[2J\x9b\x07\r\nb\xe2\x80\xae\xc2\x9bz\xff";
  message["templates"][0]["name"] = name;
  message["tenants"][0]["tenant"] = name;
  message["daemon"]["instance"] = name;
  message["headroom"][0]["what"] = name;
  message["slow"][0]["template"] = name;
  for (size_t section = 0; section < kSections; ++section) {
    TopState state;
    state.section = static_cast<Section>(section);
    state.link = "waiting: \x1b]0;x\x07";
    for (const std::string& line : linesOf(screenOf(message, state, 120, 24)))
      for (char c : line) ASSERT_TRUE(c >= 0x20 && c < 0x7f) << line;
  }
}

TEST_F(Top, AMessageOfOtherTypesIsShownAsDashes) {
  for (const char* text :
       {R"({"format":1})", R"({"format":1,"daemon":3,"tasks":[],"lastMinute":{"parts":{}}})",
        R"({"format":1,"templates":[null,1,"x",[],{"name":{},"parked":"many","start":[]}],
            "headroom":[{"budget":0}],"broker":{"configured":true,"decisions":7}})"}) {
    const json message = json::parse(text);
    for (size_t section = 0; section < kSections; ++section) {
      TopState state;
      state.section = static_cast<Section>(section);
      EXPECT_EQ(screenOf(message, state, 100, 24).rows(), 24u);
    }
    EXPECT_THAT(textOf(pageOf(message, {}, 100)), HasSubstr("running -"));
  }
}

TEST_F(Top, WideAndJoiningCharactersKeepTheirColumns) {
  Grid grid(10);
  grid.put(0, "\xe6\x97\xa5\xe6\x9c\xac", Style::plain, 3);  // two characters of two cells each
  grid.put(4, "e\xcc\x81x");
  EXPECT_EQ(grid.text(0, Grid::Colors::none), "\xe6\x97\xa5~ e\xcc\x81x");
}

TEST_F(Top, SortsByTheChosenColumnBothWays) {
  json message = madeUp();
  message["templates"].push_back(message["templates"][0]);
  message["templates"][2]["name"] = "a";
  message["templates"][2]["running"] = 9;
  TopState state;
  EXPECT_THAT(rowNames(state, message), ElementsAre("python", "r-data", "a"));
  state.sort = "running";
  EXPECT_THAT(rowNames(state, message), ElementsAre("a", "python", "r-data"));
  press(state, Key::turn, 3);
  EXPECT_THAT(rowNames(state, message), ElementsAre("r-data", "python", "a"));
  state.sort = "template";
  state.turned = false;
  EXPECT_THAT(rowNames(state, message), ElementsAre("a", "python", "r-data"));
  state.skipped = 2;
  EXPECT_THAT(rowNames(state, message), ElementsAre("r-data"));
}

TEST_F(Top, TheSortedColumnIsMarked) {
  TopState state;
  state.sort = "running";
  EXPECT_THAT(linesOf(screenOf(madeUp(), state, 80, 12))[5], HasSubstr(" RUNNINGv"));
}

std::vector<Key> keysOf(std::string bytes, std::string* rest = nullptr) {
  std::vector<Key> out;
  while (const auto key = takeKey(bytes)) out.push_back(*key);
  if (rest != nullptr) *rest = bytes;
  return out;
}

TEST_F(Top, KeysAreCutFromTheBytesOfATerminal) {
  EXPECT_THAT(keysOf("j\x1b[A\x1bOB>q"),
              ElementsAre(Key::down, Key::up, Key::down, Key::sortNext, Key::quit));
  EXPECT_THAT(keysOf("\x1b[6~2\t\x1b[Z"),
              ElementsAre(Key::pageDown, Key::section2, Key::next, Key::previous));
  EXPECT_THAT(keysOf("\x1b[1;5Cx"), ElementsAre(Key::none, Key::none));  // keys of no meaning
  std::string rest;
  EXPECT_THAT(keysOf("\x1b[", &rest), IsEmpty());
  EXPECT_EQ(rest, "\x1b[");  // the other half is still to come
  EXPECT_LE(keysOf("\x1b[" + std::string(1'000, '1')).size(), 1'000u);
}

TEST_F(Top, KeysMoveWithinBounds) {
  TopState state;
  for (int i = 0; i < 30; ++i) press(state, Key::down, 5);
  EXPECT_EQ(state.skipped, 4u);
  press(state, Key::pageUp, 5);
  EXPECT_EQ(state.skipped, 0u);
  press(state, Key::section4, 5);
  EXPECT_EQ(state.section, Section::host);
  press(state, Key::next, 5);
  EXPECT_EQ(state.section, Section::verdicts);
  for (int i = 0; i < 2; ++i) press(state, Key::previous, 5);
  EXPECT_EQ(state.section, Section::tenants);
  press(state, Key::sortPrevious, 5);
  EXPECT_EQ(state.sort, "whole99");
  press(state, Key::sortNext, 5);
  EXPECT_EQ(state.sort, "tenant");
  EXPECT_EQ(press(state, Key::quit, 5), Act::quit);
  EXPECT_EQ(press(state, Key::none, 5), Act::nothing);
  press(state, Key::help, 5);
  EXPECT_TRUE(state.help);
  press(state, Key::down, 5);  // any key leaves the help
  EXPECT_FALSE(state.help);
}

// --- messages, addresses, options -------------------------------------------------------------

std::vector<std::string> eventsOf(const std::vector<std::string>& pieces) {
  std::vector<std::string> out;
  EventReader reader([&](std::string_view data) { out.emplace_back(data); });
  for (const std::string& piece : pieces) EXPECT_TRUE(reader.feed(piece));
  return out;
}

TEST(TopStream, EventsAreCutWhereverTheBytesAreCut) {
  const std::string all =
      ": hello\n\nevent: state\nid: 1\ndata: {\"a\":1}\n\ndata:b\r\ndata:c\r\n\r\n";
  EXPECT_THAT(eventsOf({all}), ElementsAre("{\"a\":1}", "b\nc"));
  for (size_t cut = 0; cut < all.size(); ++cut)
    EXPECT_THAT(eventsOf({all.substr(0, cut), all.substr(cut)}), ElementsAre("{\"a\":1}", "b\nc"));
}

TEST(TopStream, AnEventThatNeverEndsIsRefused) {
  EventReader reader([](std::string_view) {});
  base::Status fed;
  for (int i = 0; i < 100 && fed; ++i) fed = reader.feed(std::string(1 << 16, 'x'));
  ASSERT_FALSE(fed);
  EXPECT_THAT(fed.error().message, HasSubstr("longer than 4194304 bytes"));
  EventReader lines([](std::string_view) {});
  fed = {};
  for (int i = 0; i < 100 && fed; ++i) fed = lines.feed("data:" + std::string(1 << 16, 'x') + "\n");
  EXPECT_FALSE(fed);
}

TEST(TopMessage, IsRefusedIfItIsNoneOrOfAnotherFormat) {
  EXPECT_TRUE(messageOf(R"({"format":1})"));
  for (const std::string& text : {std::string("[1]"), std::string("{"), std::string(),
                                  "{\"format\":1,\"a\":" + std::string(100'000, '[')})
    EXPECT_FALSE(messageOf(text)) << text.substr(0, 20);
  const auto other = messageOf(R"({"format":2})");
  ASSERT_FALSE(other);
  EXPECT_THAT(other.error().message, HasSubstr("format 2"));
}

TEST(TopAddress, IsHostAndPort) {
  for (const auto& [text, host, port] : {std::tuple{"127.0.0.1:9464", "127.0.0.1", "9464"},
                                         {"[::1]:80", "::1", "80"},
                                         {"http://host.example:1/", "host.example", "1"}}) {
    const auto address = parseHttpAddress(text);
    ASSERT_TRUE(address) << text;
    EXPECT_EQ(address->host, host);
    EXPECT_EQ(address->port, port);
  }
  EXPECT_EQ(parseHttpAddress("[::1]:80")->text(), "[::1]:80");
  for (const char* text : {"", "localhost", ":80", "::1:80", "host:0", "host:65536", "host:8x",
                           "https://host:443", "ho st:80", "host\r\nX: y:80", "[]:80"})
    EXPECT_FALSE(parseHttpAddress(text)) << text;
  EXPECT_THAT(parseHttpAddress("https://host:1").error().message, HasSubstr("TLS"));
}

TEST(TopAddress, OptionComesBeforeEnvironment) {
  TopOptions options;
  EXPECT_FALSE(addressOf(options, ""));
  EXPECT_EQ(addressOf(options, "127.0.0.1:1")->port, "1");
  options.address = "127.0.0.1:2";
  EXPECT_EQ(addressOf(options, "127.0.0.1:1")->port, "2");
  options.token_file = "/no/such/token";
  EXPECT_FALSE(addressOf(options, ""));
}

TEST(TopOptions, WrongUseIsNamed) {
  const auto said = [](const std::vector<std::string>& args) {
    const auto parsed = parseTop(args);
    const auto* it = std::get_if<SayAndExit>(&parsed);
    return it == nullptr ? std::string() : it->text;
  };
  EXPECT_EQ(said({"--once", "--sort", "running", "--section", "host", "127.0.0.1:1"}), "");
  EXPECT_THAT(said({"--sort", "speed"}), HasSubstr("no column 'speed'"));
  EXPECT_THAT(said({"--section", "pol"}), StartsWith("mayfly: "));
  EXPECT_THAT(said({"--help"}), HasSubstr("--token-file"));
}

}  // namespace
}  // namespace mayfly::cli
