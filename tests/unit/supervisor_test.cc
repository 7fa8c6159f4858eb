// The broker's supervisor: which secret files it opens, commands, rotation, pauses.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/clock.h"
#include "supervisor/audit_file.h"
#include "supervisor/pause.h"
#include "supervisor/secret_watch.h"
#include "supervisor/sources.h"

namespace mayfly::supervisor {
namespace {

using base::Code;
using config::SecretSource;
namespace fs = std::filesystem;

class Sources : public testing::Test {
 protected:
  Sources() {
    char path[] = "/var/tmp/mayfly-secrets-XXXXXX";
    folder_ = ::mkdtemp(path);
    rules_.operator_uid = ::getuid();
    rules_.command_uid = ::getuid() == 0 ? 65'534 : ::getuid();
  }
  ~Sources() override { fs::remove_all(folder_); }

  std::string file(const std::string& name, const std::string& text, mode_t mode = 0600) {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path) << text;
    ::chmod(path.c_str(), mode);
    return path;
  }
  static SecretSource source(const std::string& path) {
    SecretSource out;
    out.name = "key";
    out.path = path;
    return out;
  }
  static std::string textOf(const base::Fd& fd) {
    char buffer[256];
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    return {buffer, static_cast<size_t>(std::max<ssize_t>(n, 0))};
  }

  std::string folder_;
  SourceRules rules_;
};

TEST_F(Sources, AFileThatOthersMayReadIsRefusedWithTheCommandThatHelps) {
  for (mode_t mode : {0640u, 0604u, 0660u, 0602u, 0610u}) {
    auto opened = openSecret(source(file("open", "x", mode)), rules_);
    ASSERT_FALSE(opened) << mode;
    EXPECT_EQ(opened.error().code, Code::permissionDenied);
    EXPECT_NE(opened.error().advice.find("chmod"), std::string::npos);
  }
  EXPECT_TRUE(openSecret(source(file("own", "x", 0400)), rules_));
  // A certificate is no secret, but nobody else may exchange it.
  SecretSource ca = source(file("ca", "x", 0644));
  ca.open = true;
  EXPECT_TRUE(openSecret(ca, rules_));
  ca.path = file("ca-writable", "x", 0664);
  EXPECT_FALSE(openSecret(ca, rules_));
}

TEST_F(Sources, LinksFoldersPipesAndLargeFilesAreRefused) {
  const std::string real = file("real", "x");
  fs::create_symlink(real, folder_ + "/link");
  fs::create_directory_symlink(folder_, folder_ + "/folder-link");
  ::mkfifo((folder_ + "/fifo").c_str(), 0600);
  EXPECT_FALSE(openSecret(source(folder_ + "/link"), rules_));
  EXPECT_FALSE(openSecret(source(folder_ + "/folder-link/real"), rules_));
  EXPECT_FALSE(openSecret(source(folder_), rules_));
  EXPECT_FALSE(openSecret(source(folder_ + "/fifo"), rules_));
  EXPECT_FALSE(openSecret(source("/dev/zero"), rules_));
  EXPECT_FALSE(openSecret(source(folder_ + "/none"), rules_));
  EXPECT_FALSE(
      openSecret(source(file("large", std::string(config::kSecretBytesMax + 1, 'x'))), rules_));
  EXPECT_TRUE(openSecret(source(real), rules_));
}

TEST_F(Sources, AStrangersFileIsRefused) {
  if (::getuid() != 0) GTEST_SKIP() << "only root can give a file away";
  const std::string path = file("theirs", "x");
  ASSERT_EQ(::chown(path.c_str(), 12'345, 12'345), 0);
  EXPECT_FALSE(openSecret(source(path), rules_));
  rules_.operator_uid = 12'345;
  EXPECT_TRUE(openSecret(source(path), rules_));
}

TEST_F(Sources, ACredentialIsLookedForInSystemdsFolderOnly) {
  file("token", "x");
  SecretSource credential = source("token");
  credential.from = SecretSource::From::credential;
  EXPECT_EQ(openSecret(credential, rules_).error().code, Code::notFound);
  rules_.credentials_dir = folder_;
  EXPECT_TRUE(openSecret(credential, rules_));
}

SecretSource command(std::vector<std::string> words, uint64_t time_ms = 5'000) {
  SecretSource out;
  out.name = "key";
  out.from = SecretSource::From::command;
  out.command = std::move(words);
  out.time_ms_max = time_ms;
  return out;
}

void await(const Command& each, int ms) {
  pollfd one{each.pidfd().get(), POLLIN, 0};
  EXPECT_EQ(::poll(&one, 1, ms), 1);
}

TEST_F(Sources, ACommandRunsWithoutRootAndWithoutOurEnvironment) {
  ::setenv("MAYFLY_TEST_SECRET", "canary", 1);
  auto run = Command::start(command({"/bin/sh", "-c", "id -u; echo ${MAYFLY_TEST_SECRET-none}"}),
                            rules_, base::monotonicNs());
  ASSERT_TRUE(run) << run.error().message;
  await(*run, 10'000);
  auto output = run->finish();
  ASSERT_TRUE(output) << output.error().message;
  EXPECT_EQ(textOf(*output), std::to_string(rules_.command_uid) + "\nnone\n");
}

TEST_F(Sources, ACommandThatFailsGivesNoSecretWhateverItWrote) {
  auto run =
      Command::start(command({"/bin/sh", "-c", "echo half; exit 3"}), rules_, base::monotonicNs());
  ASSERT_TRUE(run);
  await(*run, 10'000);
  auto output = run->finish();
  ASSERT_FALSE(output);
  EXPECT_EQ(output.error().message.find("half"), std::string::npos);
  EXPECT_FALSE(Command::start(command({"/none"}), rules_, 0));
}

TEST_F(Sources, ACommandThatHangsIsEndedWithItsGroup) {
  auto run = Command::start(command({"/bin/sh", "-c", "sleep 1000 & echo $!; wait"}, 100), rules_,
                            base::monotonicNs());
  ASSERT_TRUE(run);
  pollfd one{run->pidfd().get(), POLLIN, 0};
  EXPECT_EQ(::poll(&one, 1, 200), 0);
  EXPECT_EQ(run->giveUp().code, Code::deadlineExceeded);
}

TEST_F(Sources, ACommandThatWritesMoreThanASecretHasEndsAtItsTime) {
  auto run =
      Command::start(command({"/bin/sh", "-c", "head -c 1000000 /dev/zero; echo done >&2"}, 300),
                     rules_, base::monotonicNs());
  ASSERT_TRUE(run);
  pollfd one{run->pidfd().get(), POLLIN, 0};
  EXPECT_EQ(::poll(&one, 1, 500), 0);  // the pipe is full, and nobody reads
  run->giveUp();
}

// --- watching --------------------------------------------------------------------------

struct Told {
  std::vector<std::string> values, failures;
};

TEST_F(Sources, AChangedFileIsToldOnceItHasSettled) {
  Told told;
  SecretWatch watch(rules_, [&](const std::string&, base::Result<base::Fd> value) {
    value ? told.values.push_back(textOf(*value)) : told.failures.push_back(value.error().message);
  });
  const std::string path = file("key", "one");
  watch.set({source(path)});
  watch.look(1);
  EXPECT_EQ(told.values, std::vector<std::string>{"one"});
  watch.look(2);
  EXPECT_EQ(told.values.size(), 1u);
  file("key", "two-");
  watch.look(3);  // it may be half written
  file("key", "two-three");
  watch.look(4);
  EXPECT_EQ(told.values.size(), 1u);
  watch.look(5);
  EXPECT_EQ(told.values, (std::vector<std::string>{"one", "two-three"}));
  fs::remove(path);
  watch.look(6);
  watch.look(7);
  EXPECT_EQ(told.failures.size(), 1u);
  file("key", "four");
  watch.look(8);
  watch.look(9);
  EXPECT_EQ(told.values.back(), "four");
  watch.forget();
  watch.look(10);
  EXPECT_EQ(told.values.size(), 4u);
}

TEST(Pause, GrowsUntilAProgramLivesLongEnough) {
  Pause pause;
  uint64_t last = pause.afterDeath(0);
  EXPECT_EQ(last, Pause::kFirstNs);
  for (int i = 0; i < 20; ++i) {
    const uint64_t next = pause.afterDeath(1'000);
    EXPECT_TRUE(next == 2 * last || next == Pause::kMaxNs);
    last = next;
  }
  EXPECT_EQ(last, Pause::kMaxNs);
  EXPECT_EQ(pause.afterDeath(Pause::kSoundNs), Pause::kFirstNs);
}

TEST_F(Sources, TheAuditFileIsRotatedByItsSize) {
  auto folder = base::openAt({}, folder_, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  ASSERT_TRUE(folder);
  AuditFile audit(folder->view(), 10, 2);
  for (const char* text : {"first 89012", "second 9012", "third 89012", "last"}) {
    auto opened = audit.open();
    ASSERT_TRUE(opened);
    ASSERT_GT(::write(opened->get(), text, strlen(text)), 0);
    auto rotated = audit.rotate();
    ASSERT_TRUE(rotated);
    EXPECT_EQ(*rotated, strlen(text) >= 10);
  }
  const auto read = [&](const char* name) {
    return base::readSmallFile(folder->view(), name).value_or("none");
  };
  EXPECT_EQ(read("audit.log"), "last");
  EXPECT_EQ(read("audit.log.1"), "third 89012");
  EXPECT_EQ(read("audit.log.2"), "second 9012");
  EXPECT_EQ(read("audit.log.3"), "none");
}

}  // namespace
}  // namespace mayfly::supervisor
