// Images: the sources of packages, the inputs of a key, and who may remove what. The images of the
// end-to-end tests prove the bootstrap itself.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "image/build.h"
#include "image/command.h"
#include "image/hash.h"
#include "image/sources.h"
#include "image/store.h"
#include "image/tree.h"

namespace mayfly::image {
namespace {

class Images : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/mayfly-image-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    state_ = name;
    ASSERT_TRUE(makeFolders(state_ + "/images"));
  }
  void TearDown() override { std::filesystem::remove_all(state_); }

  // A template's image file with `content`.
  std::string publish(const std::string& template_name, const std::string& content) {
    Hash hash;
    hash.bytes(content);
    const std::string digest = hash.hex();
    std::ofstream(imagePath(state_, digest)) << content;
    ImageInfo info{template_name, digest, "inputs", content.size(), 1, false, "runtime"};
    auto status = publishImage(state_, info);
    EXPECT_TRUE(status) << status.error().message;
    return digest;
  }
  bool exists(const std::string& digest) {
    return std::filesystem::exists(imagePath(state_, digest));
  }

  std::string state_;
};

TEST(Sources, FollowTheMachinesOwnArchive) {
  const std::string targets =
      "http://mirror.example/debian|bookworm|main|Debian|/keys/a.gpg|\n"
      "http://mirror.example/debian|bookworm|contrib|Debian|/keys/a.gpg|\n"
      "http://mirror.example/debian|bookworm-updates|main|Debian|/keys/a.gpg|\n"
      "http://sec.example/debian-security|bookworm-security|main|Debian|$(SIGNED_BY)|\n"
      "http://sec.example/debian-security|bookworm-security|main|Debian|$(SIGNED_BY)|\n"
      "http://other.example/apt|bookworm|main|Some Vendor||\n"
      "http://other.example/apt|bookworm-pgdg|main|Debian||\n";
  auto sources = sourcesFor("trixie", targets, "bookworm");
  ASSERT_TRUE(sources);
  EXPECT_EQ(*sources,
            (std::vector<std::string>{
                "deb [signed-by=/keys/a.gpg] http://mirror.example/debian trixie main",
                "deb [signed-by=/keys/a.gpg] http://mirror.example/debian trixie-updates main",
                "deb http://sec.example/debian-security trixie-security main"}));
}

TEST(Sources, BeforeTheFirstUpdateOriginIsUnknown) {
  auto sources = sourcesFor(
      "trixie", "http://m.example/debian|stable|main|$(ORIGIN)|$(SIGNED_BY)|\n", "trixie");
  ASSERT_TRUE(sources);
  EXPECT_EQ(sources->at(0), "deb http://m.example/debian trixie main");
}

TEST(Sources, WithoutAnArchiveIsAnErrorWithAdvice) {
  auto sources = sourcesFor("trixie", "http://u.example/ubuntu|jammy|main|Ubuntu||\n", "jammy");
  ASSERT_FALSE(sources);
  EXPECT_FALSE(sources.error().advice.empty());
}

TEST(Sources, ProxiesAndChecksAreTakenAlong) {
  EXPECT_EQ(
      fetchOptions(
          "Acquire \"\";\nAcquire::http \"\";\nAcquire::http::Proxy \"http://p.example:3142\";\n"
          "Acquire::Check-Date \"false\";\nDir::Cache \"x\";\n"),
      (std::vector<std::string>{"Acquire::http::Proxy \"http://p.example:3142\";",
                                "Acquire::Check-Date \"false\";"}));
  EXPECT_EQ(codename("ID=debian\nVERSION_CODENAME=\"trixie\"\n"), "trixie");
}

TEST(Keys, DependOnEveryPartOfTheRecipe) {
  config::ImageRecipe recipe;
  recipe.packages = {"a", "bc"};
  recipe.run = {"true"};
  const std::string key = recipeKey(recipe);
  EXPECT_EQ(key, recipeKey(recipe));
  for (auto change :
       std::vector<std::function<void(config::ImageRecipe&)>>{[](auto& r) { r.suite = "bookworm"; },
                                                              [](auto& r) {
                                                                r.packages = {"ab", "c"};
                                                              },
                                                              [](auto& r) {
                                                                r.packages = {"a", "bc", "true"};
                                                                r.run = {};
                                                              },
                                                              [](auto& r) { r.run = {"false"}; }}) {
    config::ImageRecipe other = recipe;
    change(other);
    EXPECT_NE(recipeKey(other), key);
  }
}

TEST(Keys, FilesOfATemplateDoNotTouchItsTree) {
  config::ImageRecipe recipe, other;
  other.files = {{"zygote.py", "/usr/lib/mayfly/zygote.py"}};
  EXPECT_EQ(recipeKey(recipe), recipeKey(other));
}

TEST(TemplateJson, HoldsWhatAZygoteProgramNeeds) {
  config::Manifest m;
  m.name = "t";
  m.zygote.preload = {"json", "re"};
  m.zygote.fresh_env = {"MPL*"};
  m.zygote.fresh_files = {".rc"};
  m.cpus_env = {"THREADS"};
  m.zygote.env = {{"A", "1"}, {"B", "x \"y\""}};
  const auto json = nlohmann::json::parse(templateJson(m));
  EXPECT_EQ(json["name"], "t");
  EXPECT_EQ(json["mechanism"], "fork");
  EXPECT_EQ(json["preload"], (std::vector<std::string>{"json", "re"}));
  EXPECT_EQ(json["env"]["B"], "x \"y\"");
  EXPECT_EQ(json["task_env"]["HOME"], "/task");
  EXPECT_EQ(json["cpus_env"], std::vector<std::string>{"THREADS"});
  EXPECT_EQ(json["fresh_env"], std::vector<std::string>{"MPL*"});
  EXPECT_EQ(json["fresh_files"], std::vector<std::string>{".rc"});
}

TEST(Command, QuotesTheLastLinesOfAFailure) {
  auto status = runCommand({"sh", "-c", "echo first; echo cannot frob >&2; exit 3"}, 10);
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("exit code 3"), std::string::npos);
  EXPECT_NE(status.error().message.find("cannot frob"), std::string::npos);
}

TEST(Command, MissingProgramIsSaidSo) {
  auto status = runCommand({"mayfly-no-such-program"}, 10);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, base::Code::failedPrecondition);
}

TEST(Command, EndsAtItsTimeBound) {
  auto status = runCommand({"sleep", "1000"}, 1);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, base::Code::deadlineExceeded);
}

// In a child, because the signal ends the process when the Interrupts goes.
TEST(Command, ASignalEndsItsWholeGroupAndThenThisProcess) {
  char name[] = "/tmp/mayfly-interrupt-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string folder = name;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGHUP, SIG_IGN);
    ::signal(SIGINT, SIG_DFL);  // a test in the background of a shell ignores it
    {
      const Interrupts interrupts;
      ::kill(::getpid(), SIGHUP);
      if (interrupted()) ::_exit(9);  // it is ignored
      ::kill(::getpid(), SIGINT);     // stays pending
      if (!interrupted()) ::_exit(10);
      auto refused = runCommand({"true"}, 10);
      if (refused || refused.error().code != base::Code::cancelled) ::_exit(11);
      Command remove;
      remove.argv = {"rm", "-r", folder};
      remove.cleans_up = true;
      if (!runCommand(remove)) ::_exit(12);
    }
    ::_exit(13);  // not reached
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT)
      << (WIFEXITED(status) ? WEXITSTATUS(status) : -1);
  EXPECT_FALSE(std::filesystem::exists(folder));
}

TEST(Command, ASignalDuringTheCommandLeavesNoProcess) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const Interrupts interrupts;
    bool said = false;
    Command command;
    // The shell ignores SIGTERM, so only the SIGKILL that follows ends it; its child keeps the
    // pipe.
    command.argv = {"sh", "-c", "trap '' TERM; sleep 600 & echo up; wait"};
    command.seconds_max = 60;
    command.on_line = [&](std::string_view) {
      said = true;
      ::kill(::getpid(), SIGTERM);
    };
    auto ended = runCommand(command);
    ::_exit(said && !ended && ended.error().code == base::Code::cancelled ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(Command, GetsNothingOfTheCallersEnvironment) {
  ::setenv("MAYFLY_TEST_SECRET", "x", 1);
  auto out = commandOutput({"env"}, 10);
  ASSERT_TRUE(out);
  EXPECT_EQ(out->find("MAYFLY_TEST_SECRET"), std::string::npos);
}

TEST_F(Images, FindSaysHowToBuildWhatIsMissing) {
  auto none = findImage(state_, "python");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, base::Code::notFound);
  EXPECT_NE(none.error().advice.find("mayfly image build python"), std::string::npos);
  const std::string digest = publish("python", "content");
  EXPECT_EQ(findImage(state_, "python")->digest, digest);
  std::filesystem::remove(imagePath(state_, digest));
  EXPECT_FALSE(findImage(state_, "python")) << "the index alone is no image";
}

TEST_F(Images, AnIndexKeepsTheLibrariesThatItsImageLacks) {
  const std::string digest = publish("python", "content");
  EXPECT_TRUE(findImage(state_, "python")->missing.empty());
  ImageInfo info{"python", digest, "inputs", 7, 1, false, "runtime"};
  info.missing = {{"libgomp.so.1", "", "/x.so", 3, "libgomp1"},
                  {"libc.so.6", "GLIBC_2.42", "/y.so", 1, ""}};
  ASSERT_TRUE(publishImage(state_, info));
  EXPECT_EQ(findImage(state_, "python")->missing, info.missing);
  // An older Mayfly wrote no such list, and a damaged one is no crash.
  for (const char* list : {"{}", "[1, null, [], {\"files\": -1, \"library\": 2}]", "\"x\""}) {
    std::ofstream(state_ + "/index/python.json") << "{\"template\": \"python\", \"digest\": \""
                                                 << digest << "\", \"missing\": " << list << "}";
    EXPECT_TRUE(findImage(state_, "python")) << list;
  }
  std::ofstream(state_ + "/index/python.json")
      << "{\"template\": \"python\", \"digest\": \"" << digest << "\"}";
  EXPECT_TRUE(findImage(state_, "python")->missing.empty());
}

TEST_F(Images, DamagedIndexIsAnErrorNotACrash) {
  publish("python", "content");
  for (const char* text :
       {"", "{", "[]", "{\"template\":1}", "{\"template\":\"python\",\"digest\":\"../../etc\"}"}) {
    std::ofstream(state_ + "/index/python.json") << text;
    EXPECT_FALSE(findImage(state_, "python")) << text;
  }
}

TEST_F(Images, LeasedImageCannotBeRemoved) {
  const std::string digest = publish("python", "content");
  {
    auto lease = Lease::take(state_, digest);
    ASSERT_TRUE(lease);
    EXPECT_TRUE(findImage(state_, "python")->in_use);
    auto status = removeImage(state_, "python");
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, base::Code::failedPrecondition);
    EXPECT_TRUE(exists(digest));
    EXPECT_TRUE(Lease::take(state_, digest)) << "a second daemon shares it";
  }
  EXPECT_FALSE(findImage(state_, "python")->in_use);
  EXPECT_TRUE(removeImage(state_, "python"));
  EXPECT_FALSE(exists(digest));
  EXPECT_FALSE(Lease::take(state_, digest));
}

TEST_F(Images, SweepKeepsWhatATemplateHasOrADaemonUses) {
  const std::string used = publish("python", "first");
  const std::string old = publish("python", "second");
  const std::string now = publish("python", "third");
  std::ofstream(state_ + "/images/.new-1") << "half";
  auto lease = Lease::take(state_, used);
  ASSERT_TRUE(lease);
  ASSERT_TRUE(sweepImages(state_));
  EXPECT_TRUE(exists(used));
  EXPECT_FALSE(exists(old));
  EXPECT_TRUE(exists(now));
  EXPECT_FALSE(std::filesystem::exists(state_ + "/images/.new-1"));
}

TEST_F(Images, PruneRemovesWhatNeitherATemplateNorADaemonUses) {
  const std::string kept = publish("python", "kept");
  const std::string unclaimed = publish("shell", "old");
  publish("shell", "kept too");
  const std::string foreign = publish("gone", "of no template");
  const std::string leased = publish("gone-too", "used");
  const std::string shared = publish("twin", "kept");  // the same image as python's
  ASSERT_EQ(shared, kept);
  auto lease = Lease::take(state_, leased);
  ASSERT_TRUE(lease);
  const std::vector<std::string> templates = {"python", "shell"};
  auto plan = pruneImages(state_, templates, PruneMode::dryRun);
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(plan->images.size(), 2u);
  EXPECT_EQ(plan->bytes, 3u + 14u);
  ASSERT_EQ(plan->in_use.size(), 1u);
  EXPECT_EQ(plan->in_use[0].digest, leased);
  EXPECT_TRUE(exists(unclaimed) && exists(foreign)) << "a dry run removes nothing";
  EXPECT_TRUE(findImage(state_, "gone"));
  auto done = pruneImages(state_, templates, PruneMode::remove);
  ASSERT_TRUE(done);
  EXPECT_EQ(done->bytes, plan->bytes);
  EXPECT_FALSE(exists(unclaimed) || exists(foreign));
  EXPECT_TRUE(exists(kept) && exists(leased));
  EXPECT_FALSE(std::filesystem::exists(state_ + "/index/gone.json"));
  EXPECT_TRUE(findImage(state_, "python") && findImage(state_, "shell"));
  EXPECT_EQ(pruneImages(state_, templates, PruneMode::remove)->bytes, 0u);
}

TEST_F(Images, RemoveTakesAShortDigestWhileItIsUnique) {
  const std::string digest = publish("python", "content");
  EXPECT_FALSE(removeImage(state_, digest.substr(0, 7)));
  EXPECT_FALSE(removeImage(state_, "../" + digest));
  EXPECT_TRUE(removeImage(state_, digest.substr(0, 12)));
  EXPECT_TRUE(listImages(state_)->empty());
}

TEST_F(Images, ListIgnoresForeignFiles) {
  const std::string digest = publish("python", "content");
  std::ofstream(state_ + "/images/README") << "x";
  std::ofstream(state_ + "/images/" + digest + ".erofs.bak") << "x";
  auto images = listImages(state_);
  ASSERT_TRUE(images);
  ASSERT_EQ(images->size(), 1u);
  EXPECT_EQ(images->at(0).template_name, "python");
}

TEST_F(Images, LockOfAnotherBuildIsWaitedForWithABound) {
  auto first = lockFile(state_ + "/build.lock", 1);
  ASSERT_TRUE(first);
  auto second = lockFile(state_ + "/build.lock", 0);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, base::Code::deadlineExceeded);
  first->reset();
  EXPECT_TRUE(lockFile(state_ + "/build.lock", 0));
}

TEST_F(Images, ReadAheadTakesAnEmptyAndALargeFile) {
  std::ofstream(state_ + "/empty");
  std::ofstream(state_ + "/large") << std::string(5u << 20, 'x');
  for (const char* name : {"/empty", "/large"}) {
    auto fd = base::openAt(base::FdView(AT_FDCWD), state_ + name, O_RDONLY);
    ASSERT_TRUE(fd);
    EXPECT_TRUE(readAhead(fd->view())) << name;
  }
}

}  // namespace
}  // namespace mayfly::image
