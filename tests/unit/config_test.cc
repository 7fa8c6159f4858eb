// Manifests and settings: what they accept, and how precisely they refuse.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "config/daemon.h"
#include "config/limits.h"
#include "config/manifest.h"
#include "config/packages.h"
#include "config/settings.h"
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
trial = "trial.py"
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
  EXPECT_EQ(*parseDurationMs("2H"), 7'200'000u);
  EXPECT_EQ(*parseDurationMs("30S"), 30'000u);
  EXPECT_EQ(*parseDurationMs("1.5m"), 90'000u);
  EXPECT_EQ(*parseCoresMilli("1.5"), 1'500u);
  EXPECT_EQ(*parseCoresMilli("0.1"), 100u);
}

TEST(Units, CapitalsDoNotMatterUnlessAUnitIsThenAmbiguous) {
  for (const char* text : {"64m", "64M", "64mib", "64MiB", "64MIB", "65536k", "64 m"})
    EXPECT_EQ(*parseBytes(text), 64ull << 20) << text;
  for (const char* text : {"64mb", "64MB", "64mB", "64000kb", "64000kB", "64000KB"})
    EXPECT_EQ(*parseBytes(text), 64'000'000u) << text;
  EXPECT_EQ(*parseBytes("1.5g"), 3ull << 29);
  EXPECT_EQ(*parseBytes("2t"), 2ull << 40);
  EXPECT_EQ(*parseBytes("2TB"), 2'000'000'000'000u);
  for (const char* text : {"64Mb", "1Gb", "9Kb", "1Tb", "64Mib"}) {
    auto refused = parseBytes(text);
    ASSERT_FALSE(refused) << text;
    EXPECT_NE(refused.error().message.find("bits"), std::string::npos) << refused.error().message;
    EXPECT_NE(refused.error().advice.find("512MiB"), std::string::npos) << refused.error().advice;
  }
  auto months = parseDurationMs("5M");
  ASSERT_FALSE(months);
  EXPECT_NE(months.error().message.find("ambiguous"), std::string::npos);
  EXPECT_EQ(*parseDurationMs("5m"), 300'000u);
}

TEST(Manifest, ModulesAreForTemplatesThatRunCode) {
  EXPECT_FALSE(parseManifest(kSmall, "m.toml")->runs_modules);
  auto base = parseManifest(kSmall + "[task]\nmodules = true\n", "m.toml");
  ASSERT_TRUE(base) << base.error().message;
  EXPECT_TRUE(base->runs_modules);
  auto own =
      parseManifest("name = \"own\"\ndescription = \"d\"\nbase = \"small\"\n", "o.toml", &*base);
  ASSERT_TRUE(own) << own.error().message;
  EXPECT_TRUE(own->runs_modules);
  for (const char* name : {"python", "python-data", "perl", "shell"}) {
    auto m = findManifest({MAYFLY_SOURCE_DIR "/templates"}, name);
    ASSERT_TRUE(m) << m.error().message;
    EXPECT_EQ(m->runs_modules, std::string_view(name).starts_with("python")) << name;
  }
  auto shell = findManifest({MAYFLY_SOURCE_DIR "/templates"}, "shell");
  auto wrong = parseManifest(
      "name = \"own\"\ndescription = \"d\"\nbase = \"shell\"\n[task]\nmodules = true\n", "o.toml",
      &*shell);
  ASSERT_FALSE(wrong);
  EXPECT_NE(wrong.error().message.find("modules"), std::string::npos) << wrong.error().message;
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
  // A field missing from the table would be a cap that nothing checks.
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
    EXPECT_EQ(1, std::count_if(lines.begin(), lines.end(),
                               [&](const std::string& line) {
                                 // After the default, the row ends, or a word says what it
                                 // counts.
                                 const size_t at = line.find(bounds);
                                 return line.starts_with(start) && at != std::string::npos &&
                                        (line[at + bounds.size()] == ' ' ||
                                         line[at + bounds.size()] == ',');
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
    ASSERT_EQ(status.has_value(), field.key == "grace") << field.key;  // there, 0 means none
    if (!status) {
      EXPECT_NE(status.error().message.find(std::string(field.key)), std::string::npos);
    }
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

TEST(Manifest, WhatOnlyANewRuntimeTakesIsTheBasesAndTheTemplatesOwn) {
  auto base = parseManifest(kSmall + "[task]\ncpus_env = [\"THREADS\"]\n", "m.toml");
  ASSERT_TRUE(base) << base.error().message;
  EXPECT_EQ(base->cpus_env, std::vector<std::string>{"THREADS"});
  EXPECT_TRUE(base->zygote.fresh_env.empty() && base->zygote.fresh_files.empty());
  auto own = parseManifest(
      "name = \"own\"\ndescription = \"d\"\nbase = \"tiny\"\n"
      "[zygote]\nfresh_env = [\"MPL*\", \"A\"]\nfresh_files = [\".config/x\"]\n"
      "[task]\ncpus_env = [\"MORE\"]\n",
      "m.toml", &*base);
  ASSERT_TRUE(own) << own.error().message;
  EXPECT_EQ(own->cpus_env, (std::vector<std::string>{"THREADS", "MORE"}));
  EXPECT_EQ(own->zygote.fresh_env, (std::vector<std::string>{"MPL*", "A"}));
  EXPECT_EQ(own->zygote.fresh_files, std::vector<std::string>{".config/x"});
}

TEST(Manifest, ATasksEnvironmentIsTheCommonOneAndTheTemplatesOwn) {
  Manifest m;
  m.task_env = {{"A", "1"}, {"HOME", "/elsewhere"}};
  const auto all = taskEnvironment(m);
  const auto value = [&](std::string_view name) {
    std::vector<std::string> found;
    for (const auto& [n, v] : all)
      if (n == name) found.push_back(v);
    return found;
  };
  EXPECT_EQ(value("HOME"), std::vector<std::string>{"/elsewhere"});
  EXPECT_EQ(value("A"), std::vector<std::string>{"1"});
  EXPECT_EQ(value("TZ"), std::vector<std::string>{"UTC"});
}

TEST(Manifest, TerminalsAreEightOrTheBasesUnlessTheManifestSaysOtherwise) {
  auto base = parseManifest(kSmall, "m.toml");
  ASSERT_TRUE(base);
  EXPECT_EQ(base->ptys, 8u);
  auto none = parseManifest(kSmall + "[terminal]\nptys = 0\n", "m.toml");
  ASSERT_TRUE(none) << none.error().message;
  EXPECT_EQ(none->ptys, 0u);
  const std::string added = "name = \"own\"\ndescription = \"d\"\nbase = \"tiny\"\n";
  auto same = parseManifest(added, "m.toml", &*none),
       other = parseManifest(added + "[terminal]\nptys = 3\n", "m.toml", &*none);
  ASSERT_TRUE(same && other);
  EXPECT_EQ(same->ptys, 0u);
  EXPECT_EQ(other->ptys, 3u);
}

TEST(Manifest, MaximumFollowsTheDefaultWhereItSaysNothing) {
  auto m = parseManifest(
      kSmall + "[limits.default]\nmemory = \"1GiB\"\n[limits.maximum]\ncpu = 2.5\n", "m.toml");
  ASSERT_TRUE(m) << m.error().message;
  EXPECT_EQ(m->defaults.memory_bytes, 1ull << 30);
  EXPECT_EQ(m->maximum.memory_bytes, 1ull << 30);
  EXPECT_EQ(m->maximum.cpu_milli, 2'500u);
}

TEST(Manifest, ForkedClonesAreTriedUnlessTheManifestGivesThatUp) {
  const std::string none = with(kSmall, "trial = \"trial.py\"\n", "");
  EXPECT_NE(errorOf(none).find("'zygote.trial' is required for mechanism \"fork\""),
            std::string::npos)
      << errorOf(none);
  EXPECT_TRUE(
      parseManifest(with(kSmall, "trial = \"trial.py\"", "without_trial = true"), "m.toml"));
  EXPECT_TRUE(parseManifest(with(none, "\"fork\"", "\"exec\""), "m.toml"));
}

TEST(Manifest, ATemplateThatRestoresPreloadsIsTriedAndHasCriuInItsImage) {
  auto m = parseManifest(with(kSmall, "\"fork\"", "\"restore\""), "m.toml");
  ASSERT_TRUE(m) << m.error().message;
  EXPECT_EQ(m->mechanism, Mechanism::restore);
  EXPECT_EQ(name(m->mechanism), "restore");
  EXPECT_TRUE(m->preloads());
  EXPECT_TRUE(m->restores());
  EXPECT_FALSE(m->runsCommands());
  const auto& packages = m->image.packages;
  EXPECT_EQ(std::count(packages.begin(), packages.end(), "criu"), 1);
  EXPECT_NE(errorOf(with(with(kSmall, "\"fork\"", "\"restore\""), "trial = \"trial.py\"\n", ""))
                .find("'zygote.trial' is required"),
            std::string::npos);
  auto forks = parseManifest(kSmall, "m.toml");
  ASSERT_TRUE(forks);
  EXPECT_EQ(std::count(forks->image.packages.begin(), forks->image.packages.end(), "criu"), 0);
  // A program that serves forks can be dumped as well: a base of the other kind needs no argv.
  auto own = parseManifest(
      "name = \"own\"\ndescription = \"d\"\nbase = \"small\"\nmechanism = \"restore\"\n", "m.toml",
      &*forks);
  ASSERT_TRUE(own) << own.error().message;
  EXPECT_TRUE(own->restores());
  EXPECT_EQ(own->zygote.argv, forks->zygote.argv);
}

TEST(Manifest, ErrorsNameFileLineKeyAndWhatIsAllowed) {
  EXPECT_EQ(errorOf(with(kSmall, "packages", "pakages")),
            "m.toml:5: unknown key 'image.pakages'; allowed here: suite, packages, "
            "pip, pip_index, pip_extra_index, npm, npm_without_scripts, run, files");
  EXPECT_EQ(errorOf(with(kSmall, "\"fork\"", "\"spoon\"")),
            "m.toml:3: 'mechanism' is required: \"fork\", \"restore\" or \"exec\"");
  EXPECT_EQ(errorOf(with(kSmall, "\"tiny\"", "\"other\"")),
            "m.toml:1: 'name' is reserved: metrics call every unknown template so");
  EXPECT_EQ(errorOf(kSmall + "[limits.default]\nmemory = \"1KiB\"\n"),
            "m.toml:10: 'limits.default.memory' is 1KiB; allowed are 16MiB to 1TiB");
  EXPECT_EQ(errorOf(kSmall + "[limits.default]\ncpu = 2\n[limits.maximum]\ncpu = 1\n"),
            "m.toml:12: 'limits.maximum.cpu' is 1, below the default of 2");
  EXPECT_EQ(errorOf(kSmall + "[network]\nloopback = \"yes\"\n"),
            "m.toml:10: 'network.loopback' must be true or false");
  EXPECT_NE(errorOf(kSmall + "[task]\ncpus_env = [\"A=B\"]\n")
                .find("'A=B', which is no name of an environment variable"),
            std::string::npos);
  EXPECT_EQ(errorOf(kSmall + "[terminal]\nptys = 65\n"),
            "m.toml:10: 'terminal.ptys' must be a whole number from 0 to 64");
  EXPECT_EQ(errorOf(kSmall + "[terminal]\nptys = false\n"),
            "m.toml:10: 'terminal.ptys' must be a whole number from 0 to 64");
  EXPECT_EQ(errorOf(kSmall + "[terminal]\nmax = 1\n"),
            "m.toml:10: unknown key 'terminal.max'; allowed here: ptys");
  for (const char* text : {"name = \n", "[", "[\n", "[=x]", "[[\n", "[.]", "name\n", "= 1\n",
                           "\u00e9 = 1\n", "\ufb01\n", "[\u0494]\n"})
    EXPECT_NE(errorOf(text).find("m.toml:1: not valid TOML"), std::string::npos) << text;
}

TEST(Manifest, AnIndexOfPipIsAUrlWithoutCredentials) {
  const auto image = [](const std::string& line) {
    return with(kSmall, "[zygote]", line + "\n[zygote]");
  };
  for (const char* good : {"https://download.pytorch.org/whl/cpu",
                           "https://a.example:8443/root/+simple/", "https://a.example",
                           "http://localhost:3141/root/pypi/+simple/", "http://127.0.0.1:8080/"}) {
    auto m = parseManifest(
        image("pip_index = \"" + std::string(good) + "\"\npip_extra_index = [\"" + good + "\"]"),
        "m.toml");
    ASSERT_TRUE(m) << m.error().message;
    EXPECT_EQ(m->image.pip_index, good);
    EXPECT_EQ(m->image.pip_extra_index, std::vector<std::string>{good});
  }
  for (const char* bad :
       {"", "a.example/simple", "http://a.example/simple", "file:///etc", "ftp://a.example",
        "https://", "https:///simple", "https://a.example:x/", "https://a.example:/",
        "https://a.example/a b", "https://a.example/$(id)", "https://a.example/'x'",
        "https://-a.example/", "https://a.example --trusted-host=b", "https://a\\nb.example",
        "https://a.example https://b.example", "http://localhost.example/", "HTTPS://a.example",
        "https://[::1]/"}) {
    EXPECT_NE(errorOf(image("pip_index = \"" + std::string(bad) + "\""))
                  .find("'image.pip_index' must be"),
              std::string::npos)
        << bad;
    EXPECT_NE(errorOf(image("pip_extra_index = [\"" + std::string(bad) + "\"]"))
                  .find("'image.pip_extra_index' must be"),
              std::string::npos)
        << bad;
  }
  for (const char* secret :
       {"https://me:hunter2@a.example/simple", "https://hunter2@a.example/simple",
        "https://a.example/simple?token=hunter2", "https://a.example/simple#hunter2"}) {
    const std::string said = errorOf(image("pip_index = \"" + std::string(secret) + "\""));
    EXPECT_NE(said.find("must hold no user name, password or token"), std::string::npos) << said;
    EXPECT_EQ(said.find("hunter2"), std::string::npos) << "it may be a real one";
  }
  EXPECT_NE(errorOf(image("pip_index = [\"https://a.example\"]")).find("must be a string"),
            std::string::npos);
  EXPECT_NE(errorOf(image("pip_extra_index = [" +
                          [] {
                            std::string many;
                            for (int i = 0; i < 9; ++i) many += "\"https://a.example\",";
                            return many;
                          }() +
                          "]"))
                .find("at most 8"),
            std::string::npos);
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
  for (const char* name : {"node", "perl", "python", "python-data", "shell"}) {
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
  }
  for (const std::string& name : names) {
    auto m = findManifest(dirs, name);
    ASSERT_TRUE(m) << m.error().message;
    // The machine's own configuration alone says where Mayfly's templates take packages from.
    EXPECT_TRUE(m->image.pip_index.empty() && m->image.pip_extra_index.empty()) << name;
    std::ifstream file(m->folder + "/manifest.toml");
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    EXPECT_EQ(text.find("://"), std::string::npos) << name;
  }
}

TEST(Manifest, PythonIsReadyForPackagesWithNativeCode) {
  auto m = findManifest({MAYFLY_SOURCE_DIR "/templates"}, "python");
  ASSERT_TRUE(m) << m.error().message;
  const auto& packages = m->image.packages;
  EXPECT_NE(std::find(packages.begin(), packages.end(), "libstdc++6"), packages.end());
  for (const char* name :
       {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"})
    EXPECT_NE(std::find(m->zygote.env.begin(), m->zygote.env.end(),
                        std::pair<std::string, std::string>(name, "1")),
              m->zygote.env.end())
        << name << ": a preloaded package would start threads in the zygote";
  for (const char* name : {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"})
    EXPECT_NE(std::find(m->cpus_env.begin(), m->cpus_env.end(), name), m->cpus_env.end()) << name;
}

TEST(Manifest, FolderMustBearTheTemplatesName) {
  char folder[] = "/tmp/mayfly-config-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  std::filesystem::create_directory(std::string(folder) + "/other");
  std::ofstream(std::string(folder) + "/other/manifest.toml") << kSmall;
  auto m = findManifest({folder}, "other");
  ASSERT_FALSE(m);
  EXPECT_NE(m.error().message.find("but the folder is"), std::string::npos) << m.error().message;
  std::filesystem::remove_all(folder);
  EXPECT_EQ(findManifest({folder}, "tiny").error().code, base::Code::notFound);
  EXPECT_EQ(findManifest({folder}, "../tiny").error().code, base::Code::invalidArgument);
}

TEST(Requirements, AreNamesWithVersionsAndNothingElse) {
  using enum Packages;
  for (const char* good : {"jq", "libgeos-c1t64", "g++", "python3=3.13.5-1", "jq=1:1.7~rc1+dfsg-2"})
    EXPECT_TRUE(isRequirement(debian, good)) << good;
  for (const char* bad : {"", "a", "-o", "--option", "JQ", "jq ", "jq=", "jq=-1", "a/b", "jq:amd64",
                          "?essential", "jq=1;x", "jq=1 2"})
    EXPECT_FALSE(isRequirement(debian, bad)) << bad;
  for (const char* good :
       {"requests", "PyYAML", "zope.interface", "requests[socks,use_chardet]", "numpy==2.1.*",
        "a>=1,<2", "a >= 1.0, != 1.5", "a~=1.4", "a==1+local.1", "a===1.0"})
    EXPECT_TRUE(isRequirement(pip, good)) << good;
  for (const char* bad :
       {"", "-r x", "--index-url=x", "a @ https://x.example/a.whl", "git+https://x.example/a",
        "./a", "../a.whl", "a==", "a=1", "a==1,", "a;python_version<'3'", "a[", "a[]", "a b",
        "a\nb", "a==1 2", "a<>1", "_a"})
    EXPECT_FALSE(isRequirement(pip, bad)) << bad;
  for (const char* good : {"lodash", "lodash@4.17.21", "lodash@^4", "lodash@>=4 <5", "@types/node",
                           "@types/node@20.x", "a@latest", "a@1 || 2"})
    EXPECT_TRUE(isRequirement(npm, good)) << good;
  for (const char* bad :
       {"", "@", "@a", "@a/", "@/a", "a@", "a@npm:b", "a@file:../b", "a@git+ssh://x", "user/repo",
        "./a", "--registry", "a@-x", "A b", "a@http://x.example/a.tgz"})
    EXPECT_FALSE(isRequirement(npm, bad)) << bad;
}

TEST(Requirements, CompareByTheNameThatTheirIndexKnows) {
  EXPECT_EQ(packageOf(Packages::pip, "Zope.Interface[test] >= 5"), "zope-interface");
  EXPECT_EQ(packageOf(Packages::pip, "a__b--c==1"), "a-b-c");
  EXPECT_EQ(packageOf(Packages::npm, "@types/node@20"), "@types/node");
  EXPECT_EQ(packageOf(Packages::debian, "jq=1.7"), "jq");
  EXPECT_EQ(versionOf(Packages::pip, "a>=1,<2"), ">=1,<2");
  EXPECT_EQ(versionOf(Packages::npm, "@types/node@20"), "20");
  EXPECT_EQ(versionOf(Packages::npm, "@types/node"), "");
  EXPECT_EQ(mergePackages(Packages::pip, {"PyYAML==6.0", "attrs"}, {"pyyaml>=6.1", "requests"}),
            (std::vector<std::string>{"attrs", "pyyaml>=6.1", "requests"}));
}

// Templates in a folder that is removed with the test.
class Bases : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/mayfly-bases-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    put("root", R"(name = "root"
description = "the base of this test"
mechanism = "fork"
[image]
packages = ["python3", "tzdata"]
run = ["first"]
[image.files]
"/usr/lib/zygote.py" = "zygote.py"
[zygote]
argv = ["/usr/bin/python3", "/usr/lib/zygote.py"]
trial = "trial.py"
preload = ["json", "re"]
memory = "100MiB"
[zygote.env]
A = "1"
B = "2"
[task.env]
T = "base"
[seccomp]
allow = ["personality"]
[limits.default]
memory = "256MiB"
[limits.maximum]
memory = "1GiB"
[check]
wait = "wait"
)");
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void put(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(dir_ + "/" + name);
    std::ofstream(dir_ + "/" + name + "/manifest.toml") << text;
  }
  void derive(const std::string& rest, const std::string& base = "root") {
    put("own", "name = \"own\"\ndescription = \"d\"\nbase = \"" + base + "\"\n" + rest);
  }
  base::Result<Manifest> own() { return findManifest({dir_}, "own"); }
  std::string refusal() {
    auto m = own();
    if (m) return "(none)";
    std::string text = m.error().message;
    for (size_t at; (at = text.find(dir_)) != std::string::npos;)
      text.replace(at, dir_.size(), "DIR");
    return text;
  }

  std::string dir_;
};

TEST_F(Bases, AnIndexReplacesTheBasesAndFurtherOnesAreAdded) {
  put("middle",
      "name = \"middle\"\ndescription = \"d\"\nbase = \"root\"\n[image]\n"
      "pip_index = \"https://a.example\"\npip_extra_index = [\"https://b.example\"]\n");
  derive("", "middle");
  auto m = own();
  ASSERT_TRUE(m) << m.error().message;
  EXPECT_EQ(m->image.pip_index, "https://a.example");
  derive(
      "[image]\npip_index = \"https://c.example\"\n"
      "pip_extra_index = [\"https://d.example\", \"https://b.example\"]\n",
      "middle");
  m = own();
  ASSERT_TRUE(m) << m.error().message;
  EXPECT_EQ(m->image.pip_index, "https://c.example");
  EXPECT_EQ(m->image.pip_extra_index,
            (std::vector<std::string>{"https://b.example", "https://d.example"}));
}

TEST_F(Bases, WhatATemplateDoesNotSayItsBaseSays) {
  derive("");
  auto m = own();
  ASSERT_TRUE(m) << m.error().message;
  EXPECT_EQ(m->name, "own");
  EXPECT_EQ(m->base, "root");
  EXPECT_EQ(m->image.packages, (std::vector<std::string>{"python3", "tzdata"}));
  EXPECT_EQ(m->image.early_run, std::vector<std::string>{"first"});
  EXPECT_TRUE(m->image.run.empty());
  EXPECT_EQ(m->zygote.argv.back(), "/usr/lib/zygote.py");
  EXPECT_EQ(m->zygote.memory_bytes, 100ull << 20);
  EXPECT_EQ(m->maximum.memory_bytes, 1ull << 30);
  EXPECT_EQ(m->check_wait, "wait");
  ASSERT_EQ(m->image.files.size(), 1u);
  EXPECT_EQ(m->image.files[0].folder, dir_ + "/root") << "a base's file lies in the base's folder";
}

TEST_F(Bases, ListsAreAddedAndSettingsReplaced) {
  derive(R"([image]
packages = ["jq", "python3=3.13.5-1"]
pip = ["humanize", "own-1.0-py3-none-any.whl"]
npm = ["lodash"]
run = ["second"]
[image.files]
"/usr/lib/data" = "data"
"/usr/lib/zygote.py" = "mine.py"
[zygote]
preload = ["re", "humanize"]
memory = "200MiB"
[zygote.env]
B = "3"
[task.env]
T = "own"
U = "new"
[seccomp]
allow = ["ptrace"]
[limits.default]
memory = "512MiB"
)");
  auto m = own();
  ASSERT_TRUE(m) << m.error().message;
  EXPECT_EQ(m->image.packages, (std::vector<std::string>{"jq", "python3=3.13.5-1", "tzdata"}));
  EXPECT_EQ(m->image.pip, std::vector<std::string>{"humanize"});
  ASSERT_EQ(m->image.wheels.size(), 1u);
  EXPECT_EQ(m->image.wheels[0].folder, dir_ + "/own");
  EXPECT_EQ(m->image.early_run, std::vector<std::string>{"first"});
  EXPECT_EQ(m->image.run, std::vector<std::string>{"second"});
  ASSERT_EQ(m->image.files.size(), 2u);
  EXPECT_EQ(m->image.files[1].source, "mine.py");
  EXPECT_EQ(m->zygote.preload, (std::vector<std::string>{"json", "re", "humanize"}));
  EXPECT_EQ(m->zygote.memory_bytes, 200ull << 20);
  EXPECT_EQ(m->zygote.env,
            (std::vector<std::pair<std::string, std::string>>{{"A", "1"}, {"B", "3"}}));
  EXPECT_EQ(m->task_env,
            (std::vector<std::pair<std::string, std::string>>{{"T", "own"}, {"U", "new"}}));
  EXPECT_EQ(m->seccomp_allow, (std::vector<std::string>{"personality", "ptrace"}));
  EXPECT_EQ(m->defaults.memory_bytes, 512ull << 20);
  EXPECT_EQ(m->maximum.memory_bytes, 1ull << 30);
}

TEST_F(Bases, ABaseMayHaveOne) {
  put("middle",
      "name = \"middle\"\ndescription = \"d\"\nbase = \"root\"\n[image]\npip = [\"attrs==1\"]\nrun "
      "= [\"m\"]\n");
  derive("[image]\npip = [\"Attrs==2\"]\nrun = [\"o\"]\n", "middle");
  auto m = own();
  ASSERT_TRUE(m) << m.error().message;
  EXPECT_EQ(m->image.pip, std::vector<std::string>{"Attrs==2"});
  EXPECT_EQ(m->image.early_run, std::vector<std::string>{"first"});
  EXPECT_EQ(m->image.run, (std::vector<std::string>{"m", "o"}));
}

TEST_F(Bases, ABaseElsewhereIsFoundForTemplatesThatAddToIt) {
  char other[] = "/tmp/mayfly-bases-XXXXXX";
  ASSERT_NE(::mkdtemp(other), nullptr);
  const std::string folder = std::string(other) + "/apart";
  std::filesystem::create_directory(folder);
  std::ofstream(folder + "/manifest.toml")
      << "name = \"apart\"\ndescription = \"d\"\nbase = \"root\"\n";
  EXPECT_FALSE(findManifest({other}, "apart"));
  EXPECT_TRUE(findManifest({other}, "apart", {dir_}));
  EXPECT_FALSE(findManifest({other}, "root", {dir_})) << "it is no template of the first folder";
  std::filesystem::remove_all(other);
}

TEST_F(Bases, ErrorsNameFileKeyAndWhatToDo) {
  derive("", "rot");
  EXPECT_EQ(refusal(), "DIR/own/manifest.toml: 'base' is 'rot': there is no template 'rot' in DIR");
  EXPECT_EQ(own().error().advice, "There are: own, root.");
  derive("", "../root");
  EXPECT_EQ(
      refusal(),
      "DIR/own/manifest.toml:3: 'base' must be the name of another template, e.g. \"python\"");
  derive("", "own");
  EXPECT_EQ(refusal(), "DIR/own/manifest.toml: the bases form a cycle: own -> own");
  derive("[image]\nsuite = \"bookworm\"\n");
  EXPECT_EQ(refusal(),
            "DIR/own/manifest.toml:5: 'image.suite' is 'bookworm', but the base's is 'trixie': "
            "leave it out");
  derive("[image]\npip = [\"-r x\"]\n");
  EXPECT_EQ(
      refusal(),
      "DIR/own/manifest.toml:5: 'image.pip' holds '-r x', which names no package; write "
      "\"requests\", "
      "\"requests==2.32.3\" or \"requests[socks]>=2.31,<3\", or the path of a .whl file in the "
      "template's folder");
  derive("[image]\npip = [\"../x.whl\"]\n");
  EXPECT_EQ(
      refusal(),
      "DIR/own/manifest.toml:5: 'image.pip' '../x.whl' is no path inside the template's folder");
  derive("[image]\nnpm_without_scripts = [\"esbuild@1\"]\n");
  EXPECT_EQ(refusal(),
            "DIR/own/manifest.toml:5: 'image.npm_without_scripts' holds 'esbuild@1': give the name "
            "alone");
  derive("mechanism = \"exec\"\n");
  EXPECT_EQ(refusal(),
            "DIR/own/manifest.toml:4: 'mechanism' is not that of the base, \"fork\": leave it out, "
            "or give "
            "'zygote.argv' too");
  derive("[limits.default]\nmemory = \"2GiB\"\n");
  EXPECT_EQ(refusal(),
            "DIR/own/manifest.toml: 'limits.maximum.memory' is 1GiB, below the default of 2GiB");
}

TEST_F(Bases, AChainOfBasesHasAnEnd) {
  std::string below = "root";
  for (const char* name : {"a", "b", "c", "d"}) {
    put(name,
        "name = \"" + std::string(name) + "\"\ndescription = \"d\"\nbase = \"" + below + "\"\n");
    below = name;
  }
  derive("", "c");
  EXPECT_NE(
      refusal().find("a chain of bases has more than 4 templates: own -> c -> b -> a -> root"),
      std::string::npos)
      << refusal();
  derive("", "b");
  EXPECT_EQ(refusal(), "(none)");
}

TEST(Daemon, NeedsNoFile) {
  auto d = parseDaemon("", "d.toml");
  ASSERT_TRUE(d) << d.error().message;
  EXPECT_EQ(d->socketPath(), "/run/mayfly/default.sock");
  EXPECT_TRUE(d->accept_lost_promises.empty());
}

TEST(Daemon, ReadsTheBoundsOfBlobs) {
  auto d = parseDaemon(
      "blob_user_max = \"2MiB\"\nblob_store_max = \"1GiB\"\n"
      "blob_ttl = \"1s\"\nupload_idle = \"500ms\"",
      "d.toml");
  ASSERT_TRUE(d) << d.error().message;
  EXPECT_EQ(d->blob_user_bytes_max, 2u << 20);
  EXPECT_EQ(d->blob_store_bytes_max, 1u << 30);
  EXPECT_EQ(d->blob_ttl_ms, 1'000u);
  EXPECT_EQ(d->upload_idle_ms, 500u);
}

TEST(Daemon, ReadsWhoMayConnect) {
  for (std::string key : {"uids_allowed", "gids_allowed"}) {
    auto d = parseDaemon(key + " = [1000, 4294967294, \"alice\"]", "d.toml");
    ASSERT_TRUE(d) << d.error().message;
    const std::vector<Id> want{uint32_t{1000}, uint32_t{4'294'967'294}, "alice"};
    EXPECT_EQ(key[0] == 'u' ? d->uids_allowed : d->gids_allowed, want);
    EXPECT_TRUE((key[0] == 'u' ? d->gids_allowed : d->uids_allowed).empty());
    for (std::string value : {"[4294967295]", "[-1]", "5", "\"alice\"", "[1.5]", "[\"\"]",
                              "[\"a\\u0000b\"]", "[true]"}) {
      EXPECT_FALSE(parseDaemon(key + " = " + value, "d.toml")) << value;
    }
    EXPECT_FALSE(parseDaemon(key + " = [\"" + std::string(300, 'x') + "\"]", "d.toml"));
  }
}

TEST(Daemon, ReadsThePolicyOfTheBroker) {
  EXPECT_EQ(parseDaemon("", "f")->broker_policy, "");
  EXPECT_EQ(parseDaemon("broker_policy = '/etc/p.toml'", "f")->broker_policy, "/etc/p.toml");
  EXPECT_EQ(parseDaemon("broker_policy = ''", "f")->broker_policy, "");
  auto relative = parseDaemon("broker_policy = 'p.toml'", "f");
  ASSERT_FALSE(relative);
  EXPECT_NE(relative.error().message.find("broker_policy"), std::string::npos);
}

TEST(Daemon, ReadsWhereMetricsAreServedAndWhatIsSlow) {
  const auto none = parseDaemon("", "f");
  EXPECT_EQ(none->http.listen + none->http.token_file, "");
  EXPECT_EQ(none->slow_task_ms, 0u);
  const auto all = parseDaemon(
      "slow_task = '5s'\n[http]\nlisten = '[::1]:80'\ntoken_file = '/t'\n"
      "connections_max = 7\ntenants_max = 0",
      "f");
  ASSERT_TRUE(all) << all.error().message;
  EXPECT_EQ(all->slow_task_ms, 5'000u);
  EXPECT_EQ(all->http.listen + all->http.token_file, "[::1]:80/t");
  EXPECT_EQ(all->http.connections_max, 7u);
  EXPECT_EQ(all->http.tenants_max, 0u);
  for (const char* bad : {"slow_task = 5", "http = 'x'", "http.token_file = 't'", "http.port = 80",
                          "http.connections_max = 1", "http.tenants_max = 201", "http.listen = 80"})
    EXPECT_FALSE(parseDaemon(bad, "d.toml")) << bad;
}

TEST(Daemon, RefusesWhatItDoesNotKnow) {
  for (const char* text :
       {"instance = \"Up\"", "socket = \"relative\"", "quue_max = 1", "log_level = \"loud\"",
        "accept_lost_promises = [\"speed\"]", "uid_base = 1879048192", "cache_dir = \"/x\"",
        "templates = [\"a/b\"]", "queue_max = -1"}) {
    EXPECT_FALSE(parseDaemon(text, "d.toml")) << text;
  }
  EXPECT_TRUE(parseDaemon("accept_lost_promises = [\"landlock\"]\nqueue_max = 5", "d.toml"));
  const std::string deep = "run_dir = \"/" + std::string(120, 'r') + "\"";
  EXPECT_FALSE(parseDaemon(deep, "d.toml"));
}

TEST(Settings, EveryKeyIsListedWithItsBoundsAndEveryKeyOfTheDaemonHasAMeaning) {
  const auto daemon = daemonSettings();
  for (const Setting& s : daemon) EXPECT_FALSE(meaning(s.key).empty()) << s.key;
  EXPECT_TRUE(meaning("quue_max").empty());
  auto has = [](const std::vector<Setting>& all, const Setting& s) {
    return std::any_of(all.begin(), all.end(), [&](const Setting& o) {
      return o.key == s.key && o.type == s.type && o.allowed == s.allowed && o.preset == s.preset;
    });
  };
  EXPECT_TRUE(has(daemon, {"queue_max", "count", "0 to 1000000", "1024"}));
  EXPECT_TRUE(has(daemon, {"blob_ttl", "time", "100ms to 24h", "10m"}));
  EXPECT_TRUE(has(daemon, {"run_dir", "string", "", "/run/mayfly"}));
  const auto manifest = manifestSettings();
  EXPECT_TRUE(has(manifest, {"pool.max", "count", "0 to 4096", "64"}));
  EXPECT_TRUE(has(manifest, {"limits.maximum.cpu", "cores", "0.01 to 1024", "1"}));
  EXPECT_TRUE(has(manifest, {"check.wait", "string", "", ""})) << "the last one: none is left out";
  // The list contains every key that the parser accepts.
  for (const Setting& s : daemon)
    if (s.type == "count") {
      const std::string most = s.allowed.substr(s.allowed.rfind(' ') + 1);
      EXPECT_TRUE(parseDaemon(s.key + " = " + most, "d.toml")) << s.key;
      EXPECT_FALSE(parseDaemon(s.key + " = " + most + "0", "d.toml")) << s.key;
    }
}

TEST(Daemon, FindsTemplatesBesideABuildTreeFirst) {
  EXPECT_EQ(
      defaultTemplateDirs("/src/tree/build/bin"),
      (std::vector<std::string>{"/src/tree/templates", "/src/tree/build/share/mayfly/templates"}));
}

}  // namespace
}  // namespace mayfly::config
