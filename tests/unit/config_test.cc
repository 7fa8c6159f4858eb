// Manifests and settings: what they accept, and how precisely they refuse.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "config/daemon.h"
#include "config/limits.h"
#include "config/manifest.h"
#include "config/units.h"

namespace mayfly::config {
namespace {

const std::string kSmall = R"(name = "tiny"
description = "a template for this test"
mechanism = "fork"
[image]
packages = ["python3", "bash", "python3"]
[zygote]
argv = ["/usr/bin/python3"]
)";

std::string errorOf(const std::string& text) {
  auto m = parseManifest(text, "m.toml");
  return m ? "(no error)" : m.error().message;
}
std::string with(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Units, ReadWhatPeopleWrite) {
  EXPECT_EQ(*parseBytes("512MiB"), 512ull << 20);
  EXPECT_EQ(*parseBytes("1.5GiB"), 3ull << 29);
  EXPECT_EQ(*parseBytes("10MB"), 10'000'000u);
  EXPECT_EQ(*parseBytes("65536"), 65'536u);
  EXPECT_EQ(*parseDurationMs("250ms"), 250u);
  EXPECT_EQ(*parseDurationMs("1.5m"), 90'000u);
  EXPECT_EQ(*parseCoresMilli("1.5"), 1'500u);
  EXPECT_EQ(*parseCoresMilli("0.1"), 100u);
}

TEST(Units, RefuseWhatIsNotExact) {
  for (const char* text : {"", "MiB", "-1", "1e9", "0.3B", "12 parsecs", "1..5", "1.", ".5",
                           "99999999999999999999999", "18446744073709551616"}) {
    EXPECT_FALSE(parseBytes(text)) << text;
  }
  for (const char* text : {"30", "30 seconds", "0.5ms", "s"})
    EXPECT_FALSE(parseDurationMs(text)) << text;
  for (const char* text : {"0.0001", "two", "9999999999"})
    EXPECT_FALSE(parseCoresMilli(text)) << text;
}

TEST(Units, WriteWhatTheyCanReadBack) {
  for (uint64_t bytes : {1ull, 1'023ull, 1'024ull, 1'536ull, 512ull << 20, 3ull << 40, ~0ull}) {
    EXPECT_EQ(*parseBytes(formatBytes(bytes)), bytes);
  }
  for (uint64_t ms : {1ull, 999ull, 1'000ull, 90'000ull, 3'600'000ull}) {
    EXPECT_EQ(*parseDurationMs(formatDurationMs(ms)), ms);
  }
  for (uint32_t milli : {10u, 100u, 1'000u, 1'500u, 2'125u}) {
    EXPECT_EQ(*parseCoresMilli(formatCoresMilli(milli)), milli);
  }
}

TEST(Limits, TableNamesEveryFieldOnce) {
  // A field that the table forgets would be a cap that no one checks.
  base::Limits limits{};
  uint64_t value = 1'000;
  for (const LimitField& field : limitFields()) field.set(limits, value++);
  value = 1'000;
  for (const LimitField& field : limitFields()) EXPECT_EQ(field.get(limits), value++) << field.key;
  size_t bytes = 0;
  for (const LimitField& field : limitFields()) {
    bytes += std::holds_alternative<uint32_t base::Limits::*>(field.member) ? 4 : 8;
  }
  EXPECT_GE(bytes + 8, sizeof(base::Limits)) << "base::Limits has a field that the table lacks";
}

TEST(Limits, DocsTableSaysWhatTheCodeAllows) {
  std::ifstream docs(MAYFLY_SOURCE_DIR "/docs/templates.md");
  std::vector<std::string> lines;
  for (std::string line; std::getline(docs, line);) lines.push_back(line);
  for (const LimitField& field : limitFields()) {
    const std::string start = "| `" + std::string(field.key) + "` | ";
    const std::string bounds = " | " + field.format(field.lowest) + " | " +
                               field.format(field.highest) + " | " + field.format(field.get({}));
    EXPECT_EQ(1, std::count_if(lines.begin(), lines.end(), [&](const std::string& line) {
                // After the default comes the row's end, or a word on what it counts.
                const size_t at = line.find(bounds);
                return line.starts_with(start) && at != std::string::npos &&
                       (line[at + bounds.size()] == ' ' || line[at + bounds.size()] == ',');
              }))
        << start << "..." << bounds;
  }
}
TEST(Limits, ZeroAndAboveTheMaximumAreRefusedByName) {
  base::Limits maximum;
  EXPECT_TRUE(checkLimits(maximum, maximum));
  for (const LimitField& field : limitFields()) {
    base::Limits zero = maximum;
    field.set(zero, 0);
    auto status = checkLimits(zero, maximum);
    ASSERT_FALSE(status) << field.key;
    EXPECT_NE(status.error().message.find(std::string(field.key)), std::string::npos);
    base::Limits above = maximum;
    field.set(above, field.get(maximum) + 1);
    EXPECT_FALSE(checkLimits(above, maximum)) << field.key;
  }
}

TEST(Manifest, SmallestOneTakesTheDefaults) {
  auto m = parseManifest(kSmall, "m.toml");
  ASSERT_TRUE(m) << m.error().message;
  EXPECT_EQ(m->name, "tiny");
  EXPECT_EQ(m->mechanism, Mechanism::fork);
  EXPECT_EQ(m->image.suite, "trixie");
  EXPECT_EQ(m->image.packages, (std::vector<std::string>{"bash", "python3"}));
  EXPECT_TRUE(m->loopback);
  EXPECT_EQ(m->defaults.memory_bytes, base::Limits{}.memory_bytes);
}

TEST(Manifest, MaximumFollowsTheDefaultWhereItSaysNothing) {
  auto m = parseManifest(
      kSmall + "[limits.default]\nmemory = \"1GiB\"\n[limits.maximum]\ncpu = 2.5\n", "m.toml");
  ASSERT_TRUE(m) << m.error().message;
  EXPECT_EQ(m->defaults.memory_bytes, 1ull << 30);
  EXPECT_EQ(m->maximum.memory_bytes, 1ull << 30);
  EXPECT_EQ(m->maximum.cpu_milli, 2'500u);
}

TEST(Manifest, ErrorsNameFileLineKeyAndWhatIsAllowed) {
  EXPECT_EQ(errorOf(with(kSmall, "packages", "pakages")),
            "m.toml:5: unknown key 'image.pakages'; allowed here: suite, packages, run, files");
  EXPECT_EQ(
      errorOf(with(kSmall, "\"fork\"", "\"restore\"")),
      "m.toml:3: 'mechanism' 'restore' is not available in this version; use \"fork\" or \"exec\"");
  EXPECT_EQ(errorOf(kSmall + "[limits.default]\nmemory = \"1KiB\"\n"),
            "m.toml:9: 'limits.default.memory' is 1KiB; allowed are 16MiB to 1TiB");
  EXPECT_EQ(errorOf(kSmall + "[limits.default]\ncpu = 2\n[limits.maximum]\ncpu = 1\n"),
            "m.toml:11: 'limits.maximum.cpu' is 1, below the default of 2");
  EXPECT_EQ(errorOf(kSmall + "[network]\nloopback = \"yes\"\n"),
            "m.toml:9: 'network.loopback' must be true or false");
  EXPECT_NE(errorOf("name = \n").find("m.toml:1: not valid TOML"), std::string::npos);
}

TEST(Manifest, HostileValuesAreRefused) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"\"tiny\"", "\"../etc\""},
      {"\"tiny\"", "\"Tiny\""},
      {"\"python3\"", "\"--include=x\""},
      {"\"python3\"", "\"a;rm\""},
      {"\"/usr/bin/python3\"", "\"python3\""},
      {"\"/usr/bin/python3\"", "\"/usr/../bin/python3\""},
      {"[zygote]", "[image.files]\n\"/usr/lib/x\" = \"../../etc/shadow\"\n[zygote]"},
      {"[zygote]", "[image.files]\n\"usr/lib/x\" = \"x\"\n[zygote]"},
      {"[zygote]", "[zygote]\npreload = [\"os; import x\"]"},
      {"[zygote]", "[zygote.env]\n\"A=B\" = \"x\"\n[zygote]"},
      {"\"/usr/bin/python3\"",
       "\"/usr/bin/python3\",\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\""},
      {"\"/usr/bin/python3\"", "\"/" + std::string(64, 'x') + "\""},
  };
  for (const auto& [from, to] : bad) EXPECT_NE(errorOf(with(kSmall, from, to)), "(no error)") << to;
}

TEST(Manifest, EveryShippedTemplateParses) {
  const std::vector<std::string> dirs = {MAYFLY_SOURCE_DIR "/templates"};
  const auto names = listTemplates(dirs);
  for (const char* name : {"perl", "python", "python-data", "shell"}) {
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
  }
  for (const std::string& name : names) {
    auto m = findManifest(dirs, name);
    EXPECT_TRUE(m) << (m ? "" : m.error().message);
  }
}

TEST(Manifest, FolderMustBearTheTemplatesName) {
  char folder[] = "/tmp/mayfly-config-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  std::ofstream(std::string(folder) + "/manifest.toml") << kSmall;
  auto m = loadManifest(folder);
  ASSERT_FALSE(m);
  EXPECT_NE(m.error().message.find("but the folder is"), std::string::npos) << m.error().message;
  std::filesystem::remove_all(folder);
  EXPECT_EQ(findManifest({folder}, "tiny").error().code, base::Code::notFound);
  EXPECT_EQ(findManifest({folder}, "../tiny").error().code, base::Code::invalidArgument);
}

TEST(Daemon, NeedsNoFile) {
  auto d = parseDaemon("", "d.toml");
  ASSERT_TRUE(d) << d.error().message;
  EXPECT_EQ(d->socketPath(), "/run/mayfly/default.sock");
  EXPECT_EQ(d->uid_base, 1'879'048'192u);
  EXPECT_TRUE(d->accept_lost_promises.empty());
}

TEST(Daemon, ReadsTheBoundsOfBlobs) {
  auto d = parseDaemon("blob_user_max = \"2MiB\"\nblob_store_max = \"1GiB\"\n"
                       "blob_ttl = \"1s\"\nupload_idle = \"500ms\"", "d.toml");
  ASSERT_TRUE(d) << d.error().message;
  EXPECT_EQ(d->blob_user_bytes_max, 2u << 20);
  EXPECT_EQ(d->blob_store_bytes_max, 1u << 30);
  EXPECT_EQ(d->blob_ttl_ms, 1'000u);
  EXPECT_EQ(d->upload_idle_ms, 500u);
}

TEST(Daemon, RefusesWhatItDoesNotKnow) {
  for (const char* text :
       {"instance = \"Up\"", "socket = \"relative\"", "quue_max = 1", "log_level = \"loud\"",
        "accept_lost_promises = [\"speed\"]", "uid_base = 1000", "uid_base = 4294967295",
        "templates = [\"a/b\"]", "queue_max = -1"}) {
    EXPECT_FALSE(parseDaemon(text, "d.toml")) << text;
  }
  EXPECT_TRUE(parseDaemon("accept_lost_promises = [\"landlock\"]\nqueue_max = 5", "d.toml"));
  const std::string deep = "run_dir = \"/" + std::string(120, 'r') + "\"";
  EXPECT_FALSE(parseDaemon(deep, "d.toml"));
}

TEST(Daemon, FindsTemplatesBesideABuildTreeFirst) {
  EXPECT_EQ(
      defaultTemplateDirs("/src/tree/build/bin"),
      (std::vector<std::string>{"/src/tree/templates", "/src/tree/build/share/mayfly/templates"}));
}

}  // namespace
}  // namespace mayfly::config
