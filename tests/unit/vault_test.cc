// The vault's parts that need no upstream: secrets, signatures, journal, sessions, credentials,
// rows, audit lines.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sodium.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <type_traits>

#include "base/call_filter.h"
#include "vault/audit.h"
#include "vault/book.h"
#include "vault/credential.h"
#include "vault/journal.h"
#include "vault/mint.h"
#include "vault/room.h"
#include "vault/rows.h"
#include "vault/secret.h"
#include "vault/sigv4.h"

namespace mayfly::vault {
namespace {

using base::Code;

class Sodium : public testing::Environment {
  void SetUp() override { ASSERT_GE(::sodium_init(), 0); }
};
const auto* const sodium = testing::AddGlobalTestEnvironment(new Sodium);

base::Fd memfdWith(std::string_view text) {
  auto fd = base::makeMemfd("secret");
  EXPECT_TRUE(fd);
  EXPECT_EQ(::write(fd->get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  ::lseek(fd->get(), 0, SEEK_SET);
  return std::move(*fd);
}

// --- secrets -----------------------------------------------------------------------

static_assert(!fmt::is_formattable<Secret>::value);
static_assert(!std::is_copy_constructible_v<Secret>);
static_assert(!std::is_convertible_v<Secret, std::string_view>);
static_assert(!std::is_convertible_v<Secret, std::string>);

TEST(Secret, TheBlockOfAnEarlierSecretIsWipedBeforeItsNextUse) {
  const char* block;
  {
    const Secret earlier = Secret::joined({std::string(500, 's')});
    block = earlier.reveal().data();
  }
  const Secret next = Secret::joined({"x"});
  ASSERT_EQ(next.reveal().data(), block);
  for (size_t i = 1; i < 2'048; ++i) ASSERT_EQ(block[i], '\0') << i;
}

TEST(Secret, OneFinalLineFeedIsNoPartOfIt) {
  for (auto [text, expected] : {std::pair{"abc", "abc"}, {"abc\n", "abc"}, {"abc\n\n", "abc\n"}}) {
    auto secret = Secret::readFrom(memfdWith(text).view(), 64);
    ASSERT_TRUE(secret);
    EXPECT_EQ(secret->reveal(), expected);
  }
}

TEST(Secret, EmptyAndTooLongOnesAreRefused) {
  EXPECT_FALSE(Secret::readFrom(memfdWith("").view(), 64));
  EXPECT_FALSE(Secret::readFrom(memfdWith("\n").view(), 64));
  EXPECT_TRUE(Secret::readFrom(memfdWith(std::string(64, 'x') + "\n").view(), 64));
  EXPECT_FALSE(Secret::readFrom(memfdWith(std::string(65, 'x')).view(), 64));
  EXPECT_FALSE(Secret::readFrom(memfdWith(std::string(5'000, 'x')).view(), 64));
}

TEST(Secret, APipeWhoseWriterLivesDoesNotHoldItUp) {
  auto pipe = base::makePipe();
  ASSERT_TRUE(pipe && base::setNonblocking(pipe->read.view()));
  ASSERT_EQ(::write(pipe->write.get(), "token\n", 6), 6);
  auto secret = Secret::readFrom(pipe->read.view(), 64);
  ASSERT_TRUE(secret);
  EXPECT_EQ(secret->reveal(), "token");
}

TEST(Secret, Base64IsThatOfBasicAuthentication) {
  EXPECT_EQ(Secret::base64("Aladdin:open sesame").reveal(), "QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
}

TEST(SecretStore, AnOldValueStaysWhenTheSourceFailsAndGoesWithThePolicy) {
  SecretStore store;
  auto missing = store.find("key");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Code::unavailable);
  EXPECT_GT(missing.error().retry_after_ms, 0u);
  store.set("key", std::make_shared<const Secret>(Secret::joined({"one"})));
  const uint64_t changes = store.changes();
  store.fail("key", "/etc/secret: Permission denied");
  ASSERT_TRUE(store.find("key"));
  EXPECT_EQ((*store.find("key"))->reveal(), "one");
  EXPECT_EQ(store.changes(), changes);
  store.keepOnly({"other"});
  EXPECT_FALSE(store.find("key"));
}

TEST(SecretStore, ABoxNeverSeesWhereASecretLies) {
  SecretStore store;
  store.fail("key", "open '/etc/mayfly/openai.key': Permission denied");
  EXPECT_EQ(store.find("key").error().message.find("/etc/"), std::string::npos);
}

// --- SigV4: Amazon's own test vectors (aws-sig-v4-test-suite), but for x-amz-content-sha256, which
// those do not sign; tests/broker checks whole requests against botocore. -------------------

TEST(SigV4, TheQueryIsSortedAndEncodedAnew) {
  EXPECT_EQ(canonicalQuery(""), "");
  EXPECT_EQ(canonicalQuery("b=2&a=1"), "a=1&b=2");
  EXPECT_EQ(canonicalQuery("a=2&a=1&A=0"), "A=0&a=1&a=2");
  EXPECT_EQ(canonicalQuery("prefix=a/b&delimiter"), "delimiter=&prefix=a%2Fb");
  EXPECT_EQ(canonicalQuery("q=a+b%2bc"), "q=a%20b%2Bc");
  EXPECT_EQ(canonicalQuery("x=%c3%a9"), "x=%C3%A9");
}

TEST(SigV4, EachPartOfARequestChangesTheSignature) {
  SigV4Request request{"GET",
                       "example.amazonaws.com",
                       "/",
                       "a=1",
                       {{"content-type", "text/plain"}},
                       "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                       "us-east-1",
                       "service",
                       "20150830T123600Z"};
  const SigV4Keys keys{"AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", ""};
  std::set<std::string> seen{sigV4(request, keys)};
  const auto differs = [&](auto change) {
    SigV4Request other = request;
    change(other);
    return seen.insert(sigV4(other, keys)).second;
  };
  EXPECT_TRUE(differs([](auto& r) { r.method = "PUT"; }));
  EXPECT_TRUE(differs([](auto& r) { r.host = "example.org"; }));
  EXPECT_TRUE(differs([](auto& r) { r.path = "/x"; }));
  EXPECT_TRUE(differs([](auto& r) { r.query = "a=2"; }));
  EXPECT_TRUE(differs([](auto& r) { r.headers[0].second = "text/html"; }));
  EXPECT_TRUE(differs([](auto& r) { r.payload_sha256 = kUnsignedPayload; }));
  EXPECT_TRUE(differs([](auto& r) { r.region = "eu-west-1"; }));
  EXPECT_TRUE(differs([](auto& r) { r.service = "s3"; }));
  EXPECT_TRUE(differs([](auto& r) { r.time = "20150830T123601Z"; }));
  EXPECT_FALSE(differs([](auto&) {}));
  const std::string text = sigV4(request, keys);
  EXPECT_EQ(text.find(keys.secret), std::string::npos);
  EXPECT_NE(text.find("Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request"),
            std::string::npos);
}

TEST(SigV4, TheEmptyBodysHashIsTheKnownOne) {
  EXPECT_EQ(sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

// --- credentials in requests ---------------------------------------------------------

broker::HttpCall callTo(const std::string& query = {}) {
  broker::HttpCall call;
  call.method = "GET";
  call.host = "api.example.com";
  call.path = "/v1/x";
  call.query = query;
  call.headers = {{"accept", "*/*"}, {"x-empty", ""}};
  return call;
}

std::vector<std::string> linesOf(const Rendered& rendered) {
  std::vector<std::string> lines;
  for (const MaybeSecret& each : rendered.headers) lines.emplace_back(reveal(each));
  return lines;
}

TEST(Credential, EachKindPutsItsSecretWhereItBelongs) {
  SecretStore store;
  store.set("key", std::make_shared<const Secret>(Secret::joined({"s3cr&t"})));
  config::Auth auth;
  auth.kind = config::Auth::Kind::header;
  auth.name = "authorization";
  auth.prefix = "Bearer ";
  auth.secret = "key";
  auto header = render(callTo(), &auth, store, {}, 0);
  ASSERT_TRUE(header);
  EXPECT_THAT(linesOf(*header), testing::Contains("authorization: Bearer s3cr&t"));
  EXPECT_THAT(linesOf(*header), testing::Contains("x-empty;"));
  EXPECT_EQ(reveal(header->url), "https://api.example.com/v1/x");
  for (const MaybeSecret& each : header->headers)
    EXPECT_EQ(std::holds_alternative<Secret>(each),
              reveal(each).find("s3cr&t") != std::string_view::npos);

  auth = {};
  auth.kind = config::Auth::Kind::query;
  auth.name = "key";
  auth.secret = "key";
  auto query = render(callTo("?a=1"), &auth, store, {}, 0);
  ASSERT_TRUE(query);
  EXPECT_EQ(reveal(query->url), "https://api.example.com/v1/x?a=1&key=s3cr%26t");

  auth = {};
  auth.kind = config::Auth::Kind::basic;
  auth.user = "me";
  auth.secret = "key";
  auto basic = render(callTo(), &auth, store, {}, 0);
  ASSERT_TRUE(basic);
  EXPECT_THAT(linesOf(*basic), testing::Contains("authorization: Basic bWU6czNjciZ0"));
  EXPECT_EQ(basic->forms.size(), 1u);
}

TEST(Credential, ASecretThatWouldBeginAnotherHeaderIsNotSent) {
  SecretStore store;
  store.set("key", std::make_shared<const Secret>(Secret::joined({"a\r\nX-Other: b"})));
  config::Auth auth;
  auth.kind = config::Auth::Kind::header;
  auth.name = "authorization";
  auth.secret = "key";
  auto rendered = render(callTo(), &auth, store, {}, 0);
  ASSERT_FALSE(rendered);
  EXPECT_EQ(rendered.error().message.find("X-Other"), std::string::npos);
}

// --- the journal -------------------------------------------------------------------

class JournalTest : public testing::Test {
 protected:
  JournalTest() : path_(testing::TempDir() + "journal-" + std::to_string(::getpid()) + ".db") {
    remove();
  }
  ~JournalTest() override { remove(); }
  Journal open() {
    auto journal = Journal::open(path_);
    if (!journal) throw std::runtime_error(journal.error().message);
    return std::move(*journal);
  }
  void remove() {
    for (const char* end : {"", "-wal", "-shm"}) std::filesystem::remove(path_ + end);
  }
  std::string path_;
};

TEST_F(JournalTest, ARepeatFindsTheOutcomeOfTheFirst) {
  Journal journal = open();
  EXPECT_EQ(journal.begin("k", 7, 1, "post", 1)->state, Recorded::State::begun);
  EXPECT_EQ(journal.begin("k", 7, 1, "post", 2)->state, Recorded::State::underWay);
  ASSERT_TRUE(journal.finish("k", {201, {{"location", "/x"}}, std::string("a\0b", 3), true}, 3));
  auto again = journal.begin("k", 7, 2, "post", 4);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->state, Recorded::State::done);
  EXPECT_EQ(again->epoch, 1u);
  EXPECT_EQ(again->outcome.status, 201);
  EXPECT_EQ(again->outcome.body, std::string("a\0b", 3));
  ASSERT_EQ(again->outcome.headers.size(), 1u);
  EXPECT_EQ(again->outcome.headers[0].second, "/x");
  EXPECT_EQ(*journal.count(7, "post"), 1u);
  EXPECT_EQ(*journal.count(7, "other"), 0u);
}

TEST_F(JournalTest, WhatWasUnderWayAtACrashIsUnknownForGood) {
  {
    Journal journal = open();
    ASSERT_TRUE(journal.begin("crashed", 1, 1, "post", 1));
    ASSERT_TRUE(journal.begin("done", 1, 1, "post", 1));
    ASSERT_TRUE(journal.finish("done", {200, {}, "x", true}, 2));
  }
  for (int i = 0; i < 2; ++i) {
    Journal journal = open();
    EXPECT_EQ(journal.begin("crashed", 1, 2, "post", 3)->state, Recorded::State::unknown);
    EXPECT_EQ(journal.begin("done", 1, 2, "post", 3)->state, Recorded::State::done);
  }
}

TEST_F(JournalTest, OnlyWhatWasNeverSentMayBeDoneAgain) {
  Journal journal = open();
  ASSERT_TRUE(journal.begin("a", 1, 1, "post", 1));
  ASSERT_TRUE(journal.forget("a"));
  EXPECT_EQ(journal.begin("a", 1, 1, "post", 2)->state, Recorded::State::begun);
  ASSERT_TRUE(journal.lose("a"));
  EXPECT_EQ(journal.begin("a", 1, 1, "post", 3)->state, Recorded::State::unknown);
  ASSERT_TRUE(journal.forget("a"));  // too late
  EXPECT_EQ(journal.begin("a", 1, 1, "post", 4)->state, Recorded::State::unknown);
}

TEST_F(JournalTest, AgeAndSizeAreBounded) {
  Journal journal = open();
  for (int i = 0; i < 100; ++i) {
    const std::string key = std::to_string(i);
    ASSERT_TRUE(journal.begin(key, 1, 1, "post", static_cast<uint64_t>(i)));
    ASSERT_TRUE(
        journal.finish(key, {200, {}, std::string(1'000, 'x'), true}, static_cast<uint64_t>(i)));
  }
  ASSERT_TRUE(journal.begin("under way", 1, 1, "post", 0));
  ASSERT_TRUE(journal.expire(50, 1u << 30));
  EXPECT_EQ(*journal.count(1, "post"), 51u);
  // Answers go, records stay: nothing may be done twice because another task has written much.
  ASSERT_TRUE(journal.expire(0, 30'000));
  EXPECT_EQ(*journal.count(1, "post"), 51u);
  EXPECT_EQ(journal.begin("50", 1, 1, "post", 0)->state, Recorded::State::done);
  EXPECT_FALSE(journal.begin("50", 1, 1, "post", 0)->outcome.body_kept);
  EXPECT_EQ(journal.begin("50", 1, 1, "post", 0)->outcome.status, 200);
  EXPECT_EQ(journal.begin("under way", 1, 1, "post", 0)->state, Recorded::State::underWay);
  ASSERT_TRUE(journal.begin("new", 1, 1, "post", 100));
  ASSERT_TRUE(journal.expire(0, 10'000));
  EXPECT_FALSE(journal.begin("newer", 1, 1, "post", 101)) << "records alone are beyond the bound";
  EXPECT_EQ(journal.begin("99", 1, 1, "post", 0)->state, Recorded::State::done);
  ASSERT_TRUE(journal.expire(90, 10'000));
  EXPECT_TRUE(journal.begin("newer", 1, 1, "post", 101));
}

TEST_F(JournalTest, AnswersAreBoundedBetweenTwoLooks) {
  Journal journal = open();
  ASSERT_TRUE(journal.expire(0, 100'000));
  for (int i = 0; i < 100; ++i) {
    const std::string key = std::to_string(i);
    ASSERT_TRUE(journal.begin(key, 1, 1, "post", static_cast<uint64_t>(i)));
    ASSERT_TRUE(
        journal.finish(key, {200, {}, std::string(10'000, 'x'), true}, static_cast<uint64_t>(i)));
  }
  int kept = 0;
  for (int i = 0; i < 100; ++i)
    kept += journal.begin(std::to_string(i), 1, 1, "post", 0)->outcome.body_kept ? 1 : 0;
  EXPECT_LE(kept, 11);
}

// --- sessions ------------------------------------------------------------------------

std::shared_ptr<const config::Policy> policyOf(const std::string& more = {}) {
  auto policy = config::parsePolicy(R"(
[secrets.token]
file = "/etc/token"
[http.api]
tenants = ["*"]
users = ["*"]
upstream = "https://api.example.com/v1"
paths = ["/**"]
[http.api.auth]
kind = "header"
header = "Authorization"
prefix = "Bearer "
secret = "token"
)" + more,
                                    "policy.toml");
  EXPECT_TRUE(policy) << policy.error().message;
  return policy ? std::make_shared<const config::Policy>(std::move(*policy)) : nullptr;
}

TEST(Book, CallsAreAllowedBetweenActivationAndTheEnd) {
  Book book(100);
  EXPECT_FALSE(book.open({{1'000, ""}, 0, 1, {{"api", ""}}, {}}));  // no policy yet
  book.setPolicy(policyOf());
  auto opened = book.open({{1'000, ""}, 0, 1, {{"api", ""}}, {}});
  ASSERT_TRUE(opened) << opened.error().message;
  const uint64_t number = (*opened)->number;
  EXPECT_FALSE(book.active(number, 1));
  ASSERT_TRUE(book.activate(number, 7, 1'000));
  EXPECT_FALSE(book.activate(number, 7, 9'000));  // once
  EXPECT_TRUE(book.active(number, 999));
  EXPECT_FALSE(book.active(number, 1'000));
  EXPECT_EQ(book.expire(1'000), std::vector<uint64_t>{number});
  book.revoke(number, {});
  EXPECT_FALSE(book.active(number, 1));
  EXPECT_EQ(book.size(), 0u);
}

TEST(Book, AnUnknownActionOrAWideningIsTheSubmittersError) {
  Book book(1);
  book.setPolicy(policyOf());
  auto unknown = book.open({{1'000, ""}, 0, 1, {{"nothing", ""}}, {}});
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, Code::notFound);
  auto wider = book.open({{1'000, ""}, 0, 1, {{"api", "calls=1000000000"}}, {}});
  ASSERT_FALSE(wider);
  EXPECT_EQ(wider.error().code, Code::invalidArgument);
}

TEST(Book, AStaleEpochIsRefused) {
  Book book(1);
  book.setPolicy(policyOf());
  const auto open = [&](uint32_t epoch) {
    return (*book.open({{1'000, ""}, 7, epoch, {{"api", ""}}, {}}))->number;
  };
  const uint64_t first = open(1), second = open(2), late = open(1);
  ASSERT_TRUE(book.activate(first, 7, 1'000));
  ASSERT_TRUE(book.activate(second, 7, 1'000));
  auto stale = book.active(first, 1);
  ASSERT_FALSE(stale);
  EXPECT_EQ(stale.error().rule, "session.epoch");
  EXPECT_TRUE(book.active(second, 1));
  EXPECT_FALSE(book.activate(late, 7, 1'000));
  book.revoke(first, {});  // the end of the stale one is none of the newer one's
  EXPECT_TRUE(book.active(second, 1));
}

TEST(Book, ARevokedGrantIsGoneAndAnotherPolicyTakesItsOwn) {
  Book book(1);
  book.setPolicy(policyOf(R"(
[http.other]
tenants = ["*"]
users = ["*"]
upstream = "https://other.example.com"
paths = ["/**"]
)"));
  const uint64_t number =
      (*book.open({{1'000, ""}, 7, 1, {{"api", ""}, {"other", ""}}, {}}))->number;
  ASSERT_TRUE(book.activate(number, 7, 1'000));
  book.revoke(number, "api");
  EXPECT_EQ((*book.active(number, 1))->find("api"), nullptr);
  EXPECT_NE((*book.active(number, 1))->find("other"), nullptr);
  const auto gone = book.setPolicy(policyOf());
  ASSERT_EQ(gone.size(), 1u);  // and a revoked one does not come back
  EXPECT_EQ(gone[0].second, "other");
  EXPECT_TRUE((*book.active(number, 1))->grants.empty());
}

// --- minted credentials ----------------------------------------------------------------

TEST(Mint, ACredentialIsActiveWhileItsSessionAndTimeLast) {
  Mint mint;
  const MintedFor what{5, "deploy", "https://deploy.example", "read", 77, 0, 60, 1'000};
  auto credential = mint.make(what, 2, 10, 1);
  ASSERT_TRUE(credential);
  EXPECT_GE(credential->size(), Mint::kPrefix.size() + 43);
  ASSERT_TRUE(mint.find(*credential, 999));
  EXPECT_EQ(mint.find(*credential, 999)->task, 77u);
  EXPECT_FALSE(mint.find(*credential, 1'000));
  EXPECT_FALSE(mint.find(*credential + "x", 1));
  EXPECT_FALSE(mint.find("", 1));
  EXPECT_FALSE(mint.find(std::string(100'000, 'x'), 1));
  mint.revoke(6, {});
  EXPECT_TRUE(mint.find(*credential, 1));
  mint.revoke(5, "other");
  EXPECT_TRUE(mint.find(*credential, 1));
  mint.revoke(5, {});
  EXPECT_FALSE(mint.find(*credential, 1));
}

TEST(Mint, NumbersAreBoundedAndCredentialsDiffer) {
  Mint mint;
  std::set<std::string> all;
  for (uint64_t session = 1; session <= 3; ++session)
    for (int i = 0; i < 2; ++i)
      all.insert(mint.make({session, "a", "", "", 1, 0, 9, 1'000}, 2, 6, 1).value());
  EXPECT_EQ(all.size(), 6u);
  EXPECT_EQ(mint.make({1, "a", "", "", 1, 0, 9, 1'000}, 2, 100, 1).error().code,
            Code::resourceExhausted);
  EXPECT_EQ(mint.make({9, "a", "", "", 1, 0, 9, 1'000}, 2, 6, 1).error().code,
            Code::resourceExhausted);
  EXPECT_TRUE(mint.make({9, "a", "", "", 1, 0, 9, 3'000}, 2, 6, 1'000));  // the others are over
}

// --- rows --------------------------------------------------------------------------------

TEST(Rows, TypesAreKeptInJson) {
  RowWriter rows(RowFormat::json);
  ASSERT_TRUE(rows.begin({{"b", 16},
                          {"i", 20},
                          {"n", 1700},
                          {"f", 701},
                          {"t", 25},
                          {"j", 3802},
                          {"a", 1016},
                          {"s", 1009},
                          {"z", 25}}));
  rows.row({"t", "9007199254740993", "1.10", "NaN", "a\"\n", R"({"x": [1, null]})", "{1,NULL,-3}",
            R"({"a \"b\"",NULL,c,"{}"})", std::nullopt});
  rows.end();
  EXPECT_EQ(rows.take(),
            "[{\"b\":true,\"i\":9007199254740993,\"n\":1.10,\"f\":\"NaN\",\"t\":\"a\\\"\\n\","
            "\"j\":{\"x\": [1, null]},\"a\":[1,null,-3],\"s\":[\"a \\\"b\\\"\",null,\"c\",\"{}\"],"
            "\"z\":null}]\n");
}

TEST(Rows, AnArrayThatIsNoneStaysAText) {
  EXPECT_EQ(jsonOf(1016, "{1,2"), "\"{1,2\"");
  EXPECT_EQ(jsonOf(1016, "{1,2}x"), "\"{1,2}x\"");
  EXPECT_EQ(jsonOf(1016, "{}"), "[]");
  EXPECT_EQ(jsonOf(1016, "[2:3]={7,8}"), "[7,8]");
  EXPECT_EQ(jsonOf(1007, "{{1,2},{3,4}}"), "[[1,2],[3,4]]");
  EXPECT_EQ(jsonOf(1016, std::string(100'000, '{')).size(), 100'002u);  // no deep recursion
}

TEST(Rows, CsvTellsNullFromEmpty) {
  RowWriter rows(RowFormat::csv);
  ASSERT_TRUE(rows.begin({{"a", 25}, {"b,c", 25}, {"a", 25}}));
  rows.row({std::nullopt, "", "x\"y\r\n"});
  rows.end();
  EXPECT_EQ(rows.take(), "a,\"b,c\",a\r\n,\"\",\"x\"\"y\r\n\"\r\n");
}

TEST(Rows, TwoColumnsOfOneNameHaveNoPlaceInJson) {
  EXPECT_FALSE(RowWriter(RowFormat::json).begin({{"a", 25}, {"a", 25}}));
}

// --- the audit -----------------------------------------------------------------------------

TEST(Audit, ALineIsOneLineWhateverABoxWrites) {
  AuditLine line;
  line.time_ms = 1'790'000'000'123;
  line.kind = "http";
  line.action = "api";
  line.target = "GET /\r\n{\"forged\":1}\x1b[31m\xff";
  line.outcome = "refused";
  line.rule = "http.api.paths";
  const std::string text = textOf(line);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  EXPECT_TRUE(text.ends_with("}\n"));
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_NE(text.find("\"time\":\"2026-09-21T14:13:20.123Z\""), std::string::npos) << text;
}

TEST(Audit, ALineIsJsonWhateverItsTexts) {
  AuditLine line;
  line.tenant = "a \"tenant\" of \\ and \xc3\xa9";
  line.outcome = "allowed";
  line.status = 200;
  line.task = UINT64_MAX;
  line.refused_before = 3;
  const auto json = nlohmann::json::parse(textOf(line));
  EXPECT_EQ(json["tenant"], line.tenant);
  EXPECT_EQ(json["task"], UINT64_MAX);
  EXPECT_EQ(json["status"], 200);
  EXPECT_EQ(json["refused_before"], 3);
  EXPECT_FALSE(json.contains("rule"));
}

TEST(Audit, OfATurnsLinesThoseThatTheFileDidNotTakeAreOwed) {
  auto pipe = base::makePipe();
  ASSERT_TRUE(pipe && base::setNonblocking(pipe->write.view()));
  const std::string filler(1u << 20, 'x');
  while (::write(pipe->write.get(), filler.data(), 4'096) > 0) {
  }
  std::string sink(1u << 20, 0);
  ASSERT_EQ(::read(pipe->read.get(), sink.data(), 4'096), 4'096);  // room for some of them
  Audit audit(std::move(pipe->write), [] {});
  for (uint64_t i = 1; i <= 60; ++i) {
    AuditLine line;
    line.task = 1'000 + i;
    audit.write(line);
  }
  audit.flush();
  EXPECT_FALSE(audit.ready());
  std::string got;
  for (int i = 0; i < 5; ++i) {
    const ssize_t n = ::read(pipe->read.get(), sink.data(), sink.size());
    if (n > 0) got.append(sink, 0, static_cast<size_t>(n));
    if (audit.ready()) break;
  }
  const ssize_t n = ::read(pipe->read.get(), sink.data(), sink.size());
  if (n > 0) got.append(sink, 0, static_cast<size_t>(n));
  std::istringstream lines(got.substr(got.find('{')));
  std::set<uint64_t> tasks;
  for (std::string each; std::getline(lines, each);)
    if (nlohmann::json::accept(each))
      tasks.insert(nlohmann::json::parse(each)["task"].get<uint64_t>());
  EXPECT_EQ(tasks.size(), 60u) << "a line that was cut comes again";
}

TEST(Audit, CountsDecisionsByKindWithThoseThatHaveNoLineOfTheirOwn) {
  auto pipe = base::makePipe();
  Audit audit(std::move(pipe->write), [] {});
  const auto line = [&](const char* kind, const char* outcome, uint64_t before = 0) {
    AuditLine one;
    one.kind = kind;
    one.outcome = outcome;
    one.duration_us = 60;
    one.refused_before = before;
    audit.write(one);
  };
  line("http", "allowed"), line("http", "replayed"), line("http", "failed");
  line("sql", "refused", 5), line("tool", "revoked");
  line("session", "refused", 7), line("unheard", "allowed");
  const base::BrokerCounts& counts = audit.counts();
  const auto of = [&](size_t i) {
    const auto& kind = counts.kinds[i];
    return std::vector<uint64_t>{kind.allowed, kind.refused, kind.failed};
  };
  EXPECT_EQ(of(0), (std::vector<uint64_t>{2, 0, 1}));
  EXPECT_EQ(of(1), (std::vector<uint64_t>{0, 6, 0}));
  EXPECT_EQ(of(3), (std::vector<uint64_t>{0, 1, 0}));
  EXPECT_EQ(of(6), (std::vector<uint64_t>{0, 7, 0})) << "a session's own line is no call";
  EXPECT_EQ(counts.kinds[0].took.count(), 3u);
  EXPECT_EQ(counts.kinds[0].took.sum_ns, 180'000u);
  EXPECT_EQ(counts.kinds[1].took.count(), 1u);
  EXPECT_EQ(counts.kinds[6].took.count(), 0u);
}

TEST(Audit, WhileNoLineCanBeWrittenNothingIsAllowed) {
  auto pipe = base::makePipe();
  ASSERT_TRUE(pipe && base::setNonblocking(pipe->write.view()));
  const std::string filler(1u << 20, 'x');
  while (::write(pipe->write.get(), filler.data(), 4'096) > 0) {
  }
  const int read_end = pipe->read.get();
  int asked = 0;
  Audit audit(std::move(pipe->write), [&] { ++asked; });
  EXPECT_TRUE(audit.ready());
  for (int i = 1; i <= 3; ++i) {
    AuditLine line;
    line.task = static_cast<uint64_t>(i);
    audit.write(line);
  }
  EXPECT_EQ(asked, 1) << "one write for the lines of a turn";
  audit.flush();
  EXPECT_FALSE(audit.ready());
  std::string sink(1u << 20, 0);
  ASSERT_GT(::read(read_end, sink.data(), sink.size()), 0);
  EXPECT_TRUE(audit.ready());
  const ssize_t n = ::read(read_end, sink.data(), sink.size());
  ASSERT_GT(n, 0);
  const std::string later = sink.substr(0, static_cast<size_t>(n));
  for (const char* task : {"\"task\":1,", "\"task\":2,", "\"task\":3,"})
    EXPECT_NE(later.find(task), std::string::npos) << "each line that was owed comes: " << task;
}

TEST(Room, OnlySocketsOfTheInternetCanBeMade) {
  if (base::kSanitized) GTEST_SKIP() << "a build with a sanitizer has no list";
  auto log = base::makePipe();
  ASSERT_TRUE(log);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || !allowOnlyServing(log->write.view()))
      ::_exit(100);
    const auto error = [](int family, int type, int protocol) {
      return ::socket(family, type | SOCK_CLOEXEC, protocol) >= 0 ? 0 : errno;
    };
    constexpr int kRoute = 0, kUevent = 15;
    int wrong = 0;
    wrong |= error(AF_INET, SOCK_STREAM, 0) != 0 ? 1 : 0;
    wrong |= error(AF_NETLINK, SOCK_RAW, kRoute) != 0 ? 2 : 0;
    wrong |= error(AF_UNIX, SOCK_STREAM, 0) != EAFNOSUPPORT ? 4 : 0;
    wrong |= error(AF_NETLINK, SOCK_RAW, kUevent) != EPERM ? 8 : 0;
    for (int family : {AF_VSOCK, AF_ALG, AF_PACKET, AF_BLUETOOTH})
      wrong |= error(family, SOCK_STREAM, 0) != EPERM ? 16 : 0;
    ::_exit(wrong);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Room, EachCallOfTheListHasANumber) {
  // A slip of the pen would allow nothing; the test of the running vault finds a missing call.
  std::set<std::string_view> names;
  for (const walls::KnownCall& call : knownCalls()) EXPECT_TRUE(names.insert(call.name).second);
  for (const char* never :
       {"execve", "fork", "vfork", "ptrace", "process_vm_readv", "mount", "bpf"})
    EXPECT_FALSE(names.contains(never)) << never;
}

}  // namespace
}  // namespace mayfly::vault
