// mayfly broker check and try, on a policy's file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdio.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "broker_policy_text.h"
#include "cli/broker.h"

namespace mayfly::cli {
namespace {

using ::testing::HasSubstr;

class BrokerVerb : public ::testing::Test {
 protected:
  BrokerVerb() { write(broker::kTestPolicy); }
  ~BrokerVerb() override { ::remove(path_.c_str()); }
  void write(const std::string& text) { std::ofstream(path_) << text; }
  // What the verb prints, or "exit: its error".
  std::string run(std::vector<std::string> words) {
    words.insert(words.begin() + 1, path_);
    auto parsed = parseBroker(words);
    if (auto* text = std::get_if<BrokerText>(&parsed))
      return std::to_string(text->code) + ": " + text->text;
    const auto& args = std::get<BrokerArgs>(parsed);
    auto text = args.verb == "check" ? brokerCheck(args) : brokerTry(args);
    return text ? *text : "1: " + text.error().message;
  }
  std::string path_ = ::testing::TempDir() + "cli-broker-test-" +
                      ::testing::UnitTest::GetInstance()->current_test_info()->name() + ".toml";
};

TEST_F(BrokerVerb, CheckSaysOkOrTheFirstMistake) {
  EXPECT_THAT(run({"check"}), HasSubstr("ok: 6 actions, 1 secrets, 1 databases\n"));
  EXPECT_EQ(nlohmann::json::parse(run({"check", "--json"}))["actions"], 6);
  write("[http.x]\nupstream = 'https://x.org'\npaths = ['/']\nplaintext = true\n");
  EXPECT_EQ(run({"check"}), "1: " + path_ + ":4: 'http.x.plaintext' is for an http:// upstream");
  write("[http.x]\nupstream = 'http://x.org'\npaths = ['/']\nplaintext = true\nscrub = false\n");
  const std::string out = run({"check"});
  EXPECT_THAT(out, HasSubstr("http.x.users is empty: only root may use it"));
  EXPECT_THAT(out, HasSubstr("http.x: sent in the clear"));
  EXPECT_THAT(out, HasSubstr("http.x: answers are not scrubbed"));
  ::remove(path_.c_str());
  EXPECT_THAT(run({"check"}), HasSubstr("No such file"));
}

TEST_F(BrokerVerb, TryShowsTheRequestWithoutTheSecret) {
  EXPECT_EQ(run({"try", "api", "/models/x?limit=2", "--header", "Accept: text/plain", "--header",
                 "Cookie: a"}),
            "GET https://api.example.org/v1/models/x?limit=2\naccept: text/plain\n"
            "accept-encoding: identity\nx-version: 7\nx-api-key: ****** (secret 'key')\n");
  EXPECT_THAT(run({"try", "api", "/chat/completions", "--method", "POST"}),
              HasSubstr("recorded in the journal"));
  EXPECT_EQ(run({"try", "api", "/admin"}),
            "1: refused by http.api.paths (403): the path '/admin' is not allowed");
  EXPECT_THAT(run({"try", "api:methods=HEAD", "/models/x"}), HasSubstr("http.api.methods (403)"));
  EXPECT_THAT(run({"try", "api:calls=100", "/models/x"}), HasSubstr("cannot be widened"));
  EXPECT_THAT(run({"try", "none"}), HasSubstr("no action 'none'"));
  EXPECT_THAT(run({"try", "maps", "/x", "--uid", "7", "--tenant", "red"}),
              HasSubstr("may not use"));
  EXPECT_THAT(run({"try", "maps", "/x", "--tenant", "red"}), HasSubstr("query key=******"));
}

TEST_F(BrokerVerb, TryKnowsEachKindOfAction) {
  const std::string sql =
      run({"try", "orders", "--param", "id=5", "--param", "state=open", "--tenant", "red"});
  EXPECT_THAT(sql, HasSubstr("$1 id = 5\n$2 tenant = red\n$3 rate = NULL\n"));
  EXPECT_THAT(sql, HasSubstr("in a read-only transaction"));
  EXPECT_THAT(run({"try", "orders", "--param", "id=500"}), HasSubstr("greater than 100"));
  EXPECT_THAT(run({"try", "orders", "--param", "id"}), HasSubstr("'id' is not NAME=VALUE"));
  EXPECT_THAT(run({"try", "upload:time=1m"}), HasSubstr("audience 'files'"));
  EXPECT_EQ(run({"try", "pypi", "http://pypi.org/simple/"}).substr(0, 29),
            "GET https://pypi.org/simple/\n");
  EXPECT_THAT(run({"try", "pypi", "evil.org/"}), HasSubstr("1: refused by egress (403)"));
  EXPECT_THAT(run({"try", "git", "github.com:443", "--method", "CONNECT"}),
              HasSubstr("a tunnel to github.com:443"));
  EXPECT_THAT(run({"try", "git", "github.com:22", "--method", "CONNECT"}), HasSubstr("refused by"));
}

TEST(BrokerWords, AWrongUseIsToldWithTheVerbs) {
  for (const std::vector<std::string>& words : {std::vector<std::string>{},
                                                {"nonsense"},
                                                {"check"},
                                                {"try", "file"},
                                                {"check", "file", "--what"}}) {
    auto parsed = parseBroker(words);
    auto* text = std::get_if<BrokerText>(&parsed);
    ASSERT_NE(text, nullptr);
    EXPECT_EQ(text->code, 2);
    EXPECT_THAT(text->text, HasSubstr("mayfly broker check POLICY"));
  }
  auto help = parseBroker({"--help"});
  EXPECT_EQ(std::get<BrokerText>(help).code, 0);
}

}  // namespace
}  // namespace mayfly::cli
