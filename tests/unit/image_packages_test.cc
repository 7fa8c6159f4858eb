// Own packages in an image: locks, the meaning of the tools' failures, and whose settings apply.
// tests/e2e/test_templates.py proves that packages are really installed.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "image/explain.h"
#include "image/hash.h"
#include "image/lock.h"
#include "image/machine.h"
#include "image/npm.h"
#include "image/store.h"
#include "image/tree.h"
#include "image/within.h"
#include "image/workshop.h"

namespace mayfly::image {
namespace {

using base::Code;

const std::string kDigest(64, 'a');

struct TempDir {
  TempDir() {
    char name[] = "/tmp/mayfly-packages-XXXXXX";
    if (::mkdtemp(name)) path = name;
  }
  TempDir(const TempDir&) = delete;
  ~TempDir() { std::filesystem::remove_all(path); }
  std::string path = "/nonexistent";
};

std::string textOf(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

Lock someLock() {
  Lock lock;
  lock.suite = "trixie";
  lock.architecture = "amd64";
  lock.debian_wishes = {"python3"};
  lock.debian = {{"python3", "1:3.13.5-1+deb13u1", "amd64", kDigest}};
  lock.tools = {{"python3-pip-whl", "25.1.1+dfsg-1", "all", kDigest}};
  lock.pip_wishes = {"humanize"};
  lock.pip = {{"humanize", "4.17.0", "humanize-4.17.0-py3-none-any.whl", kDigest, true}};
  lock.npm_wishes = {"cowsay"};
  lock.npm = {
      {"node_modules/cowsay",
       "cowsay",
       "1.6.0",
       "sha512-abc+/=",
       kDigest,
       {{"cowsay", "cli.js"}},
       true},
      {"node_modules/a/node_modules/@s/b", "@s/b", "1.0.0-rc.1", "sha512-x", kDigest, {}, false}};
  return lock;
}

TEST(LockFile, SaysWhatItWasTold) {
  const Lock lock = someLock();
  auto again = parseLock(lockText(lock), "manifest.lock");
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->suite, lock.suite);
  EXPECT_EQ(again->architecture, lock.architecture);
  EXPECT_EQ(again->debian_wishes, lock.debian_wishes);
  EXPECT_EQ(again->debian, lock.debian);
  EXPECT_EQ(again->tools, lock.tools);
  EXPECT_EQ(again->pip, lock.pip);
  EXPECT_EQ(again->npm, lock.npm);
  EXPECT_EQ(lockText(*again), lockText(lock));
}

TEST(LockFile, NamesNoHost) {
  Lock lock = someLock();
  config::ImageRecipe recipe;
  recipe.pip_index = "https://packages.example/simple";
  lock.pip_index = indexDigest(recipe);
  EXPECT_EQ(lockText(lock).find("://"), std::string::npos);
  EXPECT_EQ(lockText(lock).find("example"), std::string::npos);
}

TEST(LockFile, ChangesWithTheIndexesOfTheTemplate) {
  config::ImageRecipe recipe;
  recipe.packages = {"python3"};
  recipe.pip = {"humanize"};
  Lock lock = someLock();
  lock.npm_wishes.clear();
  using Sections = std::vector<Section>;
  EXPECT_EQ(*stale(lock, recipe, "amd64"), Sections{}) << "without own indexes, as before";
  EXPECT_EQ(lockText(lock).find("\"index\""), std::string::npos);
  recipe.pip_extra_index = {"https://a.example/whl"};
  EXPECT_EQ(*stale(lock, recipe, "amd64"), Sections{Section::pip});
  lock.pip_index = indexDigest(recipe);
  EXPECT_EQ(*stale(lock, recipe, "amd64"), Sections{});
  const auto again = parseLock(lockText(lock), "manifest.lock");
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->pip_index, lock.pip_index);
  EXPECT_EQ(*stale(*again, recipe, "amd64"), Sections{});
  config::ImageRecipe moved = recipe;
  moved.pip_extra_index.clear();
  moved.pip_index = "https://a.example/whl";  // the same index in the other place
  EXPECT_EQ(*stale(lock, moved, "amd64"), Sections{Section::pip});
  config::ImageRecipe none = recipe;
  none.pip_extra_index.clear();
  EXPECT_EQ(*stale(lock, none, "amd64"), Sections{Section::pip});
  std::string bad = lockText(lock);
  bad.replace(bad.find(lock.pip_index), 64, "../../etc/passwd");
  EXPECT_FALSE(parseLock(bad, "manifest.lock"));
}

TEST(LockFile, WhatGoesIntoACommandOrAPathIsChecked) {
  const std::string good = lockText(someLock());
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"\"mayfly_lock\": 1", "\"mayfly_lock\": 2"},
      {"\"python3\",\n    \"version\"", "\"-o Dir=/\",\n    \"version\""},
      {"1:3.13.5-1+deb13u1", "1 && id"},
      {kDigest, "../../etc/passwd"},
      {"humanize-4.17.0-py3", "../../humanize-py3"},
      {"\"file\": \"humanize", "\"file\": \".humanize"},
      {"node_modules/cowsay", "/etc/cowsay"},
      {"node_modules/cowsay", "node_modules/../../cowsay"},
      {"\"cowsay\": \"cli.js\"", "\"../cowsay\": \"cli.js\""},
      {"\"cowsay\": \"cli.js\"", "\"cowsay\": \"../cli.js\""},
      {"\"cowsay\": \"cli.js\"", "\"cowsay\": 1"},
      {"sha512-x", "md5-x"},
      {"\"packages\": [", "\"packages\": {"},
      {"\"tools\"", "\"stools\""},
  };
  for (const auto& [from, to] : bad) {
    std::string text = good;
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    auto lock = parseLock(text, "manifest.lock");
    ASSERT_FALSE(lock) << from << " -> " << to;
    EXPECT_EQ(lock.error().code, Code::invalidArgument);
    EXPECT_NE(lock.error().message.find("manifest.lock"), std::string::npos);
    EXPECT_NE(lock.error().advice.find("--update"), std::string::npos);
  }
  for (const char* text : {"", "[]", "{", "null", "{\"mayfly_lock\": \"1\"}"})
    EXPECT_FALSE(parseLock(text, "manifest.lock")) << text;
}

TEST(LockFile, HoldsForAsLongAsTheManifestWishesTheSame) {
  Lock lock = someLock();
  config::ImageRecipe recipe;
  recipe.packages = {"python3"};
  recipe.pip = {"humanize"};
  recipe.npm = {"cowsay"};
  using Sections = std::vector<Section>;
  EXPECT_EQ(*stale(lock, recipe, "amd64"), Sections{});
  EXPECT_EQ(*stale(lock, recipe, "arm64"), (Sections{Section::debian, Section::pip, Section::npm}));
  recipe.pip = {"humanize==4"};
  EXPECT_EQ(*stale(lock, recipe, "amd64"), Sections{Section::pip});
  recipe = {};
  recipe.packages = {"jq", "python3"};
  recipe.pip = {"humanize"};
  recipe.npm = {"cowsay"};
  EXPECT_EQ(*stale(lock, recipe, "amd64"), (Sections{Section::debian, Section::pip, Section::npm}));
  EXPECT_EQ(*stale(Lock{}, config::ImageRecipe{}, ""), Sections{Section::debian});
}

TEST(LockFile, AWheelOfTheFolderIsWishedByItsContent) {
  char name[] = "/tmp/mayfly-lock-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string folder = name;
  config::ImageRecipe recipe;
  recipe.wheels = {{"own-1-py3-none-any.whl", {}, folder}};
  auto missing = pipWishes(recipe);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Code::notFound);
  std::ofstream(folder + "/own-1-py3-none-any.whl") << "one";
  const auto first = pipWishes(recipe);
  std::ofstream(folder + "/own-1-py3-none-any.whl") << "two";
  const auto second = pipWishes(recipe);
  ASSERT_TRUE(first && second);
  EXPECT_NE(*first, *second);
  std::filesystem::remove_all(folder);
}

TEST(LockFile, OneThatIsMissingIsNoError) {
  char name[] = "/tmp/mayfly-lock-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  auto none = readLock(name);
  ASSERT_TRUE(none);
  EXPECT_FALSE(*none);
  ASSERT_TRUE(writeLock(name, someLock()));
  auto there = readLock(name);
  ASSERT_TRUE(there && *there);
  EXPECT_EQ((*there)->pip, someLock().pip);
  std::filesystem::remove_all(name);
}

base::Error unknown() { return {Code::internal, "the tool failed", {}, 0, 0}; }

TEST(Explain, AptNamesThePackageOrTheConflict) {
  auto e = explainApt("Reading package lists...\nE: Unable to locate package frob\n", "trixie",
                      unknown());
  EXPECT_EQ(e.code, Code::notFound);
  EXPECT_EQ(e.message, "Debian trixie has no package 'frob'");
  e = explainApt("E: Version '0.1' for 'jq' was not found\n", "trixie", unknown());
  EXPECT_EQ(e.message, "Debian trixie does not have version 0.1 of 'jq' (any more)");
  e = explainApt(
      "The following packages have unmet dependencies:\n exim4 : Conflicts: mail-transport-agent\n"
      " postfix : Conflicts: mail-transport-agent\nE: Unable to correct problems, you have held "
      "broken packages.\n",
      "trixie", unknown());
  EXPECT_EQ(e.code, Code::failedPrecondition);
  EXPECT_EQ(e.message,
            "the Debian packages exclude each other:\n  exim4 : Conflicts: mail-transport-agent\n"
            "  postfix : Conflicts: mail-transport-agent");
  e = explainApt("Err:1 http://x.example trixie\n  Temporary failure resolving 'x.example'\n",
                 "trixie", unknown());
  EXPECT_EQ(e.code, Code::unavailable);
  EXPECT_EQ(explainApt("something else\n", "trixie", unknown()).message, "the tool failed");
}

TEST(Explain, PipTellsUnknownFromUncompiledFromConflicting) {
  auto missing = findNoWheel(
      "ERROR: Could not find a version that satisfies the requirement frob (from versions: none)\n"
      "ERROR: No matching distribution found for frob\n");
  ASSERT_TRUE(missing);
  auto e = explainNoWheel(*missing, {});
  EXPECT_EQ(e.code, Code::notFound);
  EXPECT_EQ(e.message, "pip's index has no package 'frob'");
  e = explainNoWheel(*missing, {"1.1", "1.0"});
  EXPECT_EQ(e.code, Code::failedPrecondition);
  EXPECT_NE(e.message.find("needs a compiler"), std::string::npos) << e.message;

  missing = findNoWheel(
      "ERROR: Could not find a version that satisfies the requirement lib==2.0 (from app) (from "
      "versions: 1.0, 1.1)\n");
  ASSERT_TRUE(missing);
  EXPECT_EQ(missing->wanted_by, "app");
  EXPECT_EQ(missing->versions, (std::vector<std::string>{"1.0", "1.1"}));
  EXPECT_EQ(
      explainNoWheel(*missing, {"1.1"}).message,
      "pip has no version for 'lib==2.0' (which 'app' needs); for this Python there are: 1.0, 1.1");
  EXPECT_NE(explainNoWheel(*missing, {"2.0", "1.1"}).message.find("source code only"),
            std::string::npos);
  EXPECT_FALSE(findNoWheel("ERROR: something else\n"));
  EXPECT_EQ(availableVersions("frob (1.1)\nAvailable versions: 1.1, 1.0\n"),
            (std::vector<std::string>{"1.1", "1.0"}));

  e = explainPip(
      "ERROR: Cannot install a==1 and b==2 because these package versions have conflicting "
      "dependencies.\n\n"
      "The conflict is caused by:\n    The user requested b==2\n    a 1 depends on b<2\n\nTo fix "
      "this\n",
      unknown());
  EXPECT_EQ(e.message,
            "pip's packages exclude each other: a==1 and b==2\n  The user requested b==2\n  a 1 "
            "depends on b<2");
  e = explainPip(
      "WARNING: Retrying ... NewConnectionError('...: Failed to establish a new connection')\n"
      "ERROR: Could not find a version that satisfies the requirement a (from versions: none)\n",
      unknown());
  EXPECT_EQ(e.code, Code::unavailable)
      << "an index that is not reached is no proof that a package is not there";
  EXPECT_EQ(
      explainPip("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n",
                 unknown())
          .code,
      Code::failedPrecondition);
}

TEST(Explain, NpmNamesThePackageOrTheConflict) {
  auto e = explainNpm("npm ERR! code E404\nnpm ERR! 404  '@s/frob@*' is not in this registry.\n",
                      unknown());
  EXPECT_EQ(e.message, "npm's registry has no package '@s/frob'");
  e = explainNpm("npm ERR! code ETARGET\nnpm ERR! notarget No matching version found for a@^99.\n",
                 unknown());
  EXPECT_EQ(e.message, "npm's registry has no version for 'a@^99'");
  e = explainNpm(
      "npm ERR! code ERESOLVE\nnpm ERR! Found: react@16.0.0\nnpm ERR! Could not resolve "
      "dependency:\n"
      "npm ERR! peer react@\"17.0.0\" from react-dom@17.0.0\n",
      unknown());
  EXPECT_EQ(e.code, Code::failedPrecondition);
  EXPECT_NE(e.message.find("react@16.0.0"), std::string::npos);
  EXPECT_EQ(explainNpm("npm ERR! code ENOTFOUND\n", unknown()).code, Code::unavailable);
}

TEST(Npm, TakesOfAPackageLockWhatIsForThisMachine) {
  const char* text = R"({"packages": {
    "": {"dependencies": {"a": "1"}},
    "node_modules/a": {"version": "1.0.0", "integrity": "sha512-a", "bin": {"a": "./cli.js"}},
    "node_modules/b": {"version": "2.0.0", "integrity": "sha512-b", "os": ["darwin"], "optional": true},
    "node_modules/c": {"version": "2.0.0", "integrity": "sha512-c", "os": ["!win32"], "cpu": ["x64", "arm64"]},
    "node_modules/d": {"version": "2.0.0", "integrity": "sha512-d", "libc": ["musl"], "optional": true},
    "node_modules/e": {"version": "2.0.0", "integrity": "sha512-e", "os": ["!linux"]},
    "node_modules/alias": {"name": "real", "version": "3.0.0", "integrity": "sha512-f"},
    "node_modules/a/node_modules/@s/g": {"version": "4.0.0", "integrity": "sha512-g"},
    "node_modules/a/node_modules/inside": {"version": "1.0.0", "inBundle": true}
  }})";
  config::ImageRecipe recipe;
  recipe.npm = {"a@1"};
  auto packages = readPackageLock(text, recipe, "amd64");
  ASSERT_TRUE(packages) << packages.error().message;
  std::vector<std::string> names;
  for (const NpmPackage& n : *packages) names.push_back(n.path + " is " + n.name);
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"node_modules/a is a",
                                             "node_modules/a/node_modules/@s/g is @s/g",
                                             "node_modules/alias is real", "node_modules/c is c"}));
  for (const NpmPackage& n : *packages) EXPECT_EQ(n.wished, n.name == "a") << n.path;
  const auto a =
      std::find_if(packages->begin(), packages->end(), [](const auto& n) { return n.name == "a"; });
  EXPECT_EQ(a->bin, (std::vector<std::pair<std::string, std::string>>{{"a", "cli.js"}}));
}

TEST(Npm, APackageWithAScriptOrWithoutAHashIsRefused) {
  config::ImageRecipe recipe;
  auto script = readPackageLock(
      R"({"packages": {"node_modules/n": {"version": "1", "integrity": "sha512-n", "hasInstallScript": true}}})",
      recipe, "amd64");
  ASSERT_FALSE(script);
  EXPECT_NE(script.error().message.find("'n' 1 runs a script"), std::string::npos);
  EXPECT_NE(script.error().advice.find("npm_without_scripts"), std::string::npos);
  recipe.npm_without_scripts = {"n"};
  EXPECT_TRUE(readPackageLock(
      R"({"packages": {"node_modules/n": {"version": "1", "integrity": "sha512-n", "hasInstallScript": true}}})",
      recipe, "amd64"));
  EXPECT_FALSE(readPackageLock(
      R"({"packages": {"node_modules/g": {"version": "1", "resolved": "git+ssh://x.example/g"}}})",
      recipe, "amd64"));
  EXPECT_FALSE(readPackageLock("[]", recipe, "amd64"));
}

TEST(Machine, PipsSettingsAreReadAsPipReadsThem) {
  const auto settings = parsePipConfig(
      "[global]\nindex_url = https://x.example/simple\n# cert = no\nextra-index-url =\n    "
      "https://a.example\n"
      "    https://b.example\n[install]\ntrusted-host: c.example\n; x = y\nbroken line\n");
  EXPECT_EQ(settings, (std::map<std::string, std::string>{
                          {"index-url", "https://x.example/simple"},
                          {"extra-index-url", "https://a.example https://b.example"},
                          {"trusted-host", "c.example"}}));
}

TEST(Machine, ATemplatesIndexesLeaveTheRestAsTheMachineHasIt) {
  const std::map<std::string, std::string> machine = {
      {"index-url", "https://mirror.example/simple"},
      {"extra-index-url", "https://own.example"},
      {"proxy", "http://p.example:3142"}};
  config::ImageRecipe recipe;
  auto settings = machine;
  addIndexes(settings, recipe);
  EXPECT_EQ(settings, machine);
  recipe.pip_extra_index = {"https://a.example/cpu", "https://b.example"};
  addIndexes(settings, recipe);
  auto expected = machine;
  expected["extra-index-url"] = "https://own.example https://a.example/cpu https://b.example";
  EXPECT_EQ(settings, expected) << "the machine's mirror stays the index";
  settings = machine;
  recipe.pip_extra_index.clear();
  recipe.pip_index = "https://a.example/cpu";
  addIndexes(settings, recipe);
  expected = machine;
  expected["index-url"] = "https://a.example/cpu";
  EXPECT_EQ(settings, expected);
}

TEST(Machine, OfAnNpmrcOnlyWhereAndHowIsTaken) {
  const std::string kept = filterNpmrc(
      "registry = "
      "https://x.example/\n@own:registry=https://y.example/\n//x.example/:_authToken=${NPM_TOKEN}\n"
      "prefix=/opt\nscript-shell=/tmp/evil\n; "
      "comment\nignore-scripts=false\ncafile=/etc/ca.pem\n=x\n");
  EXPECT_EQ(kept,
            "registry=https://x.example/\n@own:registry=https://y.example/\n//x.example/"
            ":_authToken=${NPM_TOKEN}\n"
            "cafile=/etc/ca.pem\n");
  EXPECT_EQ(variablesIn(kept), std::vector<std::string>{"NPM_TOKEN"});
}

TEST(Workshop, KeepsAnArtifactByItsHashAndNoOther) {
  char name[] = "/tmp/mayfly-shop-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string folder = name;
  {
    std::vector<std::string> said;
    Workshop shop(folder + "/cache", folder + "/logs/build.log",
                  [&](std::string_view line) { said.emplace_back(line); });
    std::ofstream(folder + "/file") << "content";
    Hash hash;
    hash.bytes("content");
    const std::string digest = hash.hex();
    auto wrong = shop.keepArtifact(folder + "/file", kDigest);
    ASSERT_FALSE(wrong);
    EXPECT_FALSE(shop.hasArtifact(kDigest));
    auto kept = shop.keepArtifact(folder + "/file", digest);
    ASSERT_TRUE(kept) << kept.error().message;
    EXPECT_EQ(*kept, digest);
    EXPECT_TRUE(shop.hasArtifact(digest));
    EXPECT_FALSE(shop.hasArtifact("../file"));
    EXPECT_FALSE(shop.logged());
    shop.say("a step");
    std::string output;
    Command command;
    command.argv = {"sh", "-c", "echo to the log; exit 3"};
    EXPECT_FALSE(shop.run(command, &output));
    EXPECT_EQ(output, "to the log\n");
    EXPECT_EQ(said, std::vector<std::string>{"a step"});
    std::stringstream log;
    log << std::ifstream(folder + "/logs/build.log").rdbuf();
    EXPECT_EQ(log.str(), "== a step\n$ sh -c 'echo to the log; exit 3'\nto the log\n");
    EXPECT_TRUE(shop.logged());
    ASSERT_TRUE(shop.scratch());
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder + "/cache/scratch"))
      << "scratch folders go with the workshop";
  std::filesystem::remove_all(folder);
}

TEST(Workshop, KeepsRegularFilesOnly) {
  const TempDir dir;
  const std::string secret = dir.path + "/secret", link = dir.path + "/link.whl";
  ASSERT_TRUE(writeText(secret, "of the host"));
  ASSERT_EQ(::symlink(secret.c_str(), link.c_str()), 0);
  Workshop shop(dir.path + "/cache", "", {});
  const auto kept = shop.keepArtifact(link);
  ASSERT_FALSE(kept);
  EXPECT_NE(kept.error().message.find("no regular file"), std::string::npos);
  EXPECT_FALSE(writeText(link, "x")) << "a link is not written through";
  EXPECT_EQ(textOf(secret), "of the host");
}

TEST(Within, ASourceLiesInItsFolder) {
  const TempDir dir;
  const std::string folder = dir.path + "/folder";
  ASSERT_TRUE(makeFolders(folder + "/sub"));
  ASSERT_TRUE(writeText(dir.path + "/outside", "x"));
  ASSERT_TRUE(writeText(folder + "/sub/file", "x"));
  ASSERT_EQ(::symlink("sub/file", (folder + "/inward").c_str()), 0);
  ASSERT_EQ(::symlink("../outside", (folder + "/upward").c_str()), 0);
  ASSERT_EQ(::symlink("/etc/passwd", (folder + "/absolute").c_str()), 0);
  ASSERT_EQ(::symlink("/etc", (folder + "/etc").c_str()), 0);
  ASSERT_TRUE(makeFolders(dir.path + "/beside"));
  ASSERT_TRUE(writeText(dir.path + "/beside/file", "x"));
  ASSERT_EQ(::symlink("../beside/file", (folder + "/sideward").c_str()), 0);
  EXPECT_FALSE(sourceFile(folder, "sideward")) << "no template's folder";
  ASSERT_TRUE(writeText(dir.path + "/beside/manifest.toml", ""));
  EXPECT_EQ(*sourceFile(folder, "sideward"), *sourceFile(dir.path + "/beside", "file"));
  ASSERT_EQ(::mkfifo((folder + "/pipe").c_str(), 0600), 0);
  EXPECT_EQ(*sourceFile(folder, "sub/file"), *sourceFile(folder, "inward"));
  for (const char* path : {"upward", "absolute", "etc/passwd", "../outside", "pipe", "sub", "none"})
    EXPECT_FALSE(sourceFile(folder, path)) << path;
}

TEST(Within, ATargetLiesInItsTree) {
  const TempDir dir;
  const std::string tree = dir.path + "/tree", outside = dir.path + "/outside";
  ASSERT_TRUE(makeFolders(tree + "/usr/lib"));
  ASSERT_TRUE(makeFolders(outside));
  ASSERT_TRUE(writeText(outside + "/file", "of the host"));
  ASSERT_EQ(::symlink("usr/lib", (tree + "/lib").c_str()), 0);
  ASSERT_EQ(::symlink(outside.c_str(), (tree + "/absolute").c_str()), 0);
  ASSERT_EQ(::symlink("../../../..", (tree + "/usr/upward").c_str()), 0);
  ASSERT_EQ(::symlink((outside + "/file").c_str(), (tree + "/file").c_str()), 0);
  ASSERT_TRUE(putText(tree, "/lib/made/text", "inside", 0644));
  EXPECT_EQ(textOf(tree + "/usr/lib/made/text"), "inside");
  ASSERT_TRUE(putText(tree, "/usr/upward/text", "inside", 0600));
  EXPECT_EQ(textOf(tree + "/text"), "inside");
  ASSERT_TRUE(putCopy(tree, "/file", outside + "/file", 0755));
  struct stat st;
  ASSERT_EQ(::lstat((tree + "/file").c_str(), &st), 0);
  EXPECT_TRUE(S_ISREG(st.st_mode) && (st.st_mode & 07777) == 0755);
  EXPECT_FALSE(putText(tree, "/absolute/file", "changed", 0644)) << "it leads nowhere in the tree";
  EXPECT_EQ(textOf(outside + "/file"), "of the host");
}

TEST(LockFile, WhatAnIndexSaysIsCheckedAsAFileIs) {
  Lock lock = someLock();
  lock.npm.at(0).sha256.clear();
  EXPECT_TRUE(checkLock(lock, "npm's registry"));
  Lock bin = lock, path = lock, name = lock;
  bin.npm.at(0).bin = {{"../../etc/profile", "a.js"}};
  path.npm.at(0).path = "node_modules/../../etc";
  name.pip.at(0).name = "a --index-url=x";
  for (const Lock& bad : {bin, path, name}) {
    const auto status = checkLock(bad, "npm's registry");
    ASSERT_FALSE(status);
    EXPECT_NE(status.error().message.find("npm's registry"), std::string::npos);
  }
}

TEST(Workshop, WordsOfAShellAreQuoted) {
  EXPECT_EQ(shellWord("plain-1.0_x"), "plain-1.0_x");
  EXPECT_EQ(shellWord(""), "''");
  EXPECT_EQ(shellWord("it's $x"), "'it'\"'\"'s $x'");
}

TEST(TreeKeys, DependOnEveryPackageAndCommand) {
  const std::vector<Deb> debs = {{"a", "1", "all", kDigest}};
  const std::string key = debianKey("trixie", debs, {"true"});
  EXPECT_EQ(key, debianKey("trixie", debs, {"true"}));
  EXPECT_NE(key, debianKey("bookworm", debs, {"true"}));
  EXPECT_NE(key, debianKey("trixie", {{"a", "1", "all", std::string(64, 'b')}}, {"true"}));
  EXPECT_NE(key, debianKey("trixie", debs, {"false"}));
  EXPECT_NE(key, debianKey("trixie", {}, {"true"}));
}

}  // namespace
}  // namespace mayfly::image
