// Streams of bytes: secrets that are scrubbed from answers, names in TLS greetings.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "broker/scrub.h"
#include "broker/sni.h"

namespace mayfly::broker {
namespace {

using ::testing::HasSubstr;

const std::string kSecret = "s3cr/t+K\"y <&'\\ 77=";

std::shared_ptr<const ScrubPatterns> patternsOf(const std::vector<std::string_view>& secrets) {
  return std::make_shared<const ScrubPatterns>(secrets);
}

// In pieces of `size` bytes.
std::string scrubbedIn(const std::shared_ptr<const ScrubPatterns>& patterns,
                       const std::string& text, size_t size) {
  Scrubber scrubber(patterns);
  std::string out;
  for (size_t at = 0; at < text.size(); at += size) {
    out += scrubber.write(std::string_view(text).substr(at, size));
    EXPECT_LT(scrubber.heldBytes(), patterns->longest() + 1);
  }
  return out + scrubber.finish();
}

// Independent of the scrubber's own: by the book, a byte at a time.
std::string base64(const std::string& text, const char* last_two = "+/") {
  const std::string letters =
      std::string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") + last_two;
  std::string out;
  for (size_t i = 0; i < text.size(); i += 3) {
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k)
      group = group << 8 | (i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k)
      out += i + k > text.size() ? '=' : letters[group >> (18 - 6 * k) & 63];
  }
  return out;
}
std::string stars(const std::string& text) { return std::string(text.size(), '*'); }

TEST(Scrub, EachFormOfASecretIsReplacedByAsManyStars) {
  const auto patterns = patternsOf({kSecret});
  const std::string forms[] = {kSecret,
                               "s3cr%2Ft%2BK%22y%20%3C%26%27%5C%2077%3D",
                               "s3cr%2ft%2bK%22y%20%3c%26%27%5c%2077%3d",
                               "s3cr%2Ft%2BK%22y+%3C%26%27%5C+77%3D",
                               "s3cr%2Ft%2BK%22y%20%3C%26'%5C%2077%3D",
                               "s3cr/t+K%22y%20%3C&'%5C%2077=",
                               "s3cr/t+K\\\"y <&'\\\\ 77=",
                               "s3cr\\/t+K\\\"y <&'\\\\ 77=",
                               "s3cr/t+K\\\"y \\u003c\\u0026\\u0027\\\\ 77=",
                               "s3cr/t+K&quot;y &lt;&amp;&#39;\\ 77=",
                               "s3cr/t+K&quot;y &lt;&amp;&#x27;\\ 77=",
                               "733363722f742b4b2279203c26275c2037373d",
                               "733363722F742B4B2279203C26275C2037373D"};
  for (const std::string& form : forms)
    for (size_t size : {size_t{1}, size_t{2}, size_t{3}, size_t{7}, size_t{1'000}})
      EXPECT_EQ(scrubbedIn(patterns, "before " + form + " after", size),
                "before " + stars(form) + " after")
          << size;
}

TEST(Scrub, Base64IsFoundAtEachAlignment) {
  const auto patterns = patternsOf({kSecret});
  for (const char* last_two : {"+/", "-_"})
    for (const std::string before : {"", "u", "us", "use", "user:", "a longer user:"})
      for (const std::string after : {"", "x", "xy", "xyz"}) {
        const std::string whole = base64(before + kSecret + after, last_two);
        const std::string out = scrubbed(patterns, "Basic " + whole + " end");
        ASSERT_EQ(out.size(), whole.size() + 10);
        EXPECT_TRUE(out.starts_with("Basic ") && out.ends_with(" end")) << out;
        // At most one letter at each end also depends on the neighbours.
        const size_t count = static_cast<size_t>(std::count(out.begin(), out.end(), '*'));
        EXPECT_GE(count + 2, kSecret.size() * 4 / 3) << out;
      }
}

TEST(Scrub, RandomStreamsNeverShowASecret) {
  std::mt19937 random(7);
  const std::string second = "ababababac";
  const auto patterns = patternsOf({kSecret, second, "abac-abac-abad"});
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (int i = 0; i < 30; ++i) {
      const std::string pieces[] = {kSecret, second, "abac-abac-abad", "ab", "s3cr/t+",
                                    "abac-", "x"};
      const std::string& piece = pieces[random() % 7];
      text += random() % 3 == 0 ? piece.substr(0, random() % piece.size()) : piece;
    }
    std::string want = text;  // plainly
    for (const std::string& secret : {kSecret, second, std::string("abac-abac-abad")})
      for (size_t at = text.find(secret); at != std::string::npos; at = text.find(secret, at + 1))
        std::fill_n(want.begin() + static_cast<ptrdiff_t>(at), secret.size(), '*');
    const std::string got = scrubbedIn(patterns, text + "\n", 1 + random() % 9);
    EXPECT_EQ(got, want + "\n");
    for (const std::string& one : {text, text.substr(0, random() % 30)})  // and in one go
      EXPECT_EQ(scrubbed(patterns, one), scrubbedIn(patterns, one, one.size() + 1));
  }
}

TEST(Scrub, OnlyWhatMayBeginASecretIsHeldBack) {
  Scrubber scrubber(patternsOf({"secret-token"}));
  EXPECT_EQ(scrubber.write("data: hello\n\n"), "data: hello\n\n") << "a token flows at once";
  EXPECT_EQ(scrubber.write("x secret-"), "x ");
  EXPECT_EQ(scrubber.write("s"), "secret-") << "it was none, but its end may begin one";
  EXPECT_EQ(scrubber.write("ecret-token"), "************") << "nothing is held after a whole one";
  EXPECT_EQ(scrubber.found(), 1u);
  EXPECT_EQ(scrubber.finish(), "");
}

TEST(Scrub, ASecretThatTheStreamsEndCutsIsReplacedFromItsHalfOn) {
  const auto patterns = patternsOf({"0123456789abcdefghij"});
  EXPECT_EQ(scrubbed(patterns, "x 0123456789abcdefghi"), "x " + std::string(19, '*'));
  EXPECT_EQ(scrubbed(patterns, "x 0123456789"), "x **********");
  EXPECT_EQ(scrubbed(patterns, "x 01234"), "x 01234");
}

TEST(Scrub, ShortSecretsAndNoSecretsChangeNothing) {
  EXPECT_TRUE(patternsOf({"short"})->empty());
  EXPECT_EQ(scrubbed(patternsOf({"short"}), "short"), "short");
  EXPECT_EQ(scrubbed(patternsOf({}), "text"), "text");
  EXPECT_EQ(scrubbed(nullptr, "text"), "text");
}

TEST(Scrub, ALongSecretIsFoundByItsBeginning) {
  const std::string secret(60'000, 'k');
  const std::string out = scrubbed(patternsOf({secret}), "x" + secret + "x");
  EXPECT_EQ(out.size(), secret.size() + 2);
  EXPECT_EQ(out.find('k'), std::string::npos);
}

// --- TLS greetings ---

std::string number(size_t value, size_t bytes) {
  std::string out;
  while (bytes-- > 0) out += static_cast<char>(value >> 8 * bytes);
  return out;
}
std::string field(const std::string& body, size_t length_bytes) {
  return number(body.size(), length_bytes) + body;
}
std::string extension(size_t type, const std::string& body) {
  return number(type, 2) + field(body, 2);
}
std::string serverName(const std::string& name) {
  return extension(0, field(number(0, 1) + field(name, 2), 2));
}
std::string handshake(const std::string& extensions) {
  const std::string body = number(0x303, 2) + std::string(32, 'r') + field("session", 1) +
                           field(number(0x1301, 2), 2) + field(number(0, 1), 1) +
                           field(extensions, 2);
  return number(1, 1) + field(body, 3);
}
std::string record(const std::string& body) {
  return number(22, 1) + number(0x301, 2) + field(body, 2);
}
std::string hello(const std::string& extensions) { return record(handshake(extensions)); }

std::string nameIn(const std::string& bytes, size_t piece = 1'000'000) {
  HelloReader reader;
  for (size_t at = 0; at < bytes.size(); at += piece)
    reader.feed(std::string_view(bytes).substr(at, piece));
  if (reader.state() == HelloReader::State::more) return "more";
  if (reader.state() == HelloReader::State::refused) return reader.fault();
  return reader.name() + (reader.encrypted() ? " (encrypted)" : "");
}

TEST(Hello, ItsNameIsReadAsItsBytesArrive) {
  const std::string bytes =
      hello(extension(10, "ab") + serverName("GitHub.com") + extension(16, "h2"));
  for (size_t piece : {size_t{1}, size_t{2}, size_t{5}, size_t{64}, bytes.size()})
    EXPECT_EQ(nameIn(bytes, piece), "github.com") << piece;
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_EQ(nameIn(bytes.substr(0, size)), "more") << size;
  EXPECT_EQ(nameIn(bytes + "early data"), "github.com");
}

TEST(Hello, ItMayBeSplitOverRecords) {
  const std::string whole = handshake(serverName("github.com"));
  std::string bytes;
  for (size_t at = 0; at < whole.size(); at += 20) bytes += record(whole.substr(at, 20));
  EXPECT_EQ(nameIn(bytes), "github.com");
  EXPECT_EQ(nameIn(bytes, 3), "github.com");
}

TEST(Hello, AnEncryptedGreetingIsTold) {
  EXPECT_EQ(nameIn(hello(serverName("a.org") + extension(0xfe0d, "x"))), "a.org (encrypted)");
}

TEST(Hello, EachMistakeIsRefused) {
  const std::string name = serverName("a.org");
  std::string tiny_records;
  for (char c : handshake(name + extension(21, std::string(100, '\0'))))
    tiny_records += record(std::string(1, c));
  const std::pair<std::string, const char*> all[] = {
      {"GET / HTTP/1.1\r\n", "does not begin with a TLS greeting"},
      {"SSH-2.0-x\r\n", "does not begin with a TLS greeting"},
      {number(23, 1) + number(0x303, 2) + field("x", 2), "does not begin"},
      {number(22, 1) + number(0x203, 2), "does not begin"},
      {record(number(2, 1) + field("x", 3)), "does not begin"},
      {record(""), "of a wrong size"},
      {number(22, 1) + number(0x301, 2) + number(16'385, 2), "of a wrong size"},
      {tiny_records, "or too many"},
      {record(number(1, 1) + number(kHelloBytesMax + 1, 3)), "too large"},
      {hello(""), "names no host"},
      {hello(extension(10, "ab")), "names no host"},
      {hello(name + name), "cannot be read"},
      {hello(name + "x"), "cannot be read"},
      {hello(extension(0, "")), "exactly one host"},
      {hello(extension(0, field("", 2))), "exactly one host"},
      {hello(extension(0, field(number(1, 1) + field("a.org", 2), 2))), "exactly one host"},
      {hello(extension(
           0, field(number(0, 1) + field("a.org", 2) + number(0, 1) + field("b.org", 2), 2))),
       "exactly one host"},
      {hello(serverName("")), "no host's name"},
      {hello(serverName("127.0.0.1")), "no host's name"},
      {hello(serverName("a.org.")), "no host's name"},
      {hello(serverName(std::string("a\0.org", 6))), "no host's name"},
      {hello(serverName("a b")), "no host's name"},
      {hello(serverName(std::string(300, 'a'))), "no host's name"},
      {record(number(1, 1) + field("short", 3)), "cannot be read"},
  };
  for (const auto& [bytes, fault] : all) {
    EXPECT_THAT(nameIn(bytes), HasSubstr(fault));
    EXPECT_THAT(nameIn(bytes, 1), HasSubstr(fault));
  }
}

TEST(Hello, AfterARefusalNothingIsRead) {
  HelloReader reader;
  EXPECT_EQ(reader.feed("GET /"), HelloReader::State::refused);
  EXPECT_EQ(reader.feed(hello(serverName("a.org"))), HelloReader::State::refused);
  EXPECT_EQ(reader.name(), "");
}

}  // namespace
}  // namespace mayfly::broker
