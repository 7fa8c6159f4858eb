#include "app/run_state.h"

#include <gtest/gtest.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>

namespace mayfly::app {
namespace {

using base::Code;

struct RunStateTest : testing::Test {
  std::string state_dir;
  void SetUp() override {
    char name[] = "/tmp/mayfly-run-state-XXXXXX";
    state_dir = ::mkdtemp(name);
  }
  void TearDown() override { std::filesystem::remove_all(state_dir); }

  RunState state() {
    auto got = lockRunState(state_dir, "one");
    EXPECT_TRUE(got) << got.error().message;
    return std::move(*got);
  }
  std::string file() const { return state_dir + "/instances/one/ids"; }
  std::string bytes() const {
    std::ostringstream all;
    all << std::ifstream(file()).rdbuf();
    return all.str();
  }
  void put(const std::string& all) { std::ofstream(file(), std::ios::trunc) << all; }
  static mode_t modeOf(const std::string& path) {
    struct stat st {};
    EXPECT_EQ(::stat(path.c_str(), &st), 0);
    return st.st_mode & 07777;
  }
};

TEST_F(RunStateTest, NoBlockIsGivenTwice) {
  RunState folder = state();
  std::set<uint64_t> given;
  std::optional<sched::IdKey> key;
  for (int run = 0; run < 5; ++run) {
    auto ids = IdFile::open(folder);
    ASSERT_TRUE(ids) << ids.error().message;
    if (!key) key = ids->key();
    EXPECT_EQ(ids->key(), *key);
    for (int i = 0; i < run + 1; ++i) EXPECT_TRUE(given.insert(*ids->reserve()).second);
  }
  EXPECT_EQ(given.size(), 15u);
  EXPECT_EQ(*given.rbegin(), 14u);
  EXPECT_EQ(modeOf(file()), 0600u);
  EXPECT_EQ(modeOf(state_dir + "/instances/one"), 0700u);
}

TEST_F(RunStateTest, ADeletedFileBringsAnotherKey) {
  RunState folder = state();
  const sched::IdKey first = IdFile::open(folder)->key();
  ASSERT_EQ(::unlink(file().c_str()), 0);
  EXPECT_NE(IdFile::open(folder)->key(), first);
}

TEST_F(RunStateTest, ATornReservationNeverGivesABlockAgain) {
  RunState folder = state();
  {
    auto ids = IdFile::open(folder);
    for (int i = 0; i < 4; ++i) (void)*ids->reserve();  // 0 to 3
  }
  const std::string whole = bytes();
  for (size_t slot : {size_t{512}, size_t{1024}})
    for (size_t torn : {size_t{0}, size_t{7}, size_t{8}, size_t{23}}) {
      std::string damaged = whole;
      damaged[slot + torn] ^= 1;
      put(damaged);
      auto ids = IdFile::open(folder);
      ASSERT_TRUE(ids) << ids.error().message;
      EXPECT_GE(*ids->reserve(), 4u) << slot << " " << torn;
      EXPECT_GE(*ids->reserve(), 5u);
      EXPECT_GE(*IdFile::open(folder)->reserve(), 6u) << "the file is whole again";
    }
}

TEST_F(RunStateTest, ADamagedFileIsRefusedInWordsAndLeftAsItIs) {
  RunState folder = state();
  (void)*IdFile::open(folder)->reserve();
  const std::string whole = bytes();
  ASSERT_EQ(whole.size(), 1'536u);
  std::string magic = whole, key = whole, both = whole;
  magic[0] ^= 1, key[20] ^= 1, both[512] ^= 1, both[1024] ^= 1;
  for (const std::string& damaged : {std::string(), whole.substr(0, 700), whole + "x", magic, key,
                                     both, std::string(whole.size(), '\0')}) {
    put(damaged);
    auto ids = IdFile::open(folder);
    ASSERT_FALSE(ids);
    EXPECT_EQ(ids.error().code, Code::failedPrecondition);
    EXPECT_NE(ids.error().message.find("'" + file() + "' is damaged"), std::string::npos)
        << ids.error().message;
    EXPECT_NE(ids.error().advice.find("Delete it"), std::string::npos);
    EXPECT_EQ(bytes(), damaged);
  }
}

TEST_F(RunStateTest, WhereNothingCanBeWrittenNoBlockIsGiven) {
  RunState folder = state();
  auto ids = IdFile::open(folder);
  ASSERT_TRUE(ids);
  // The disk is full: the limit on a file's size says the same to a write.
  rlimit before{}, none{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  none = before;
  none.rlim_cur = 100;
  ::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &none), 0);
  auto refused = ids->reserve();
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("cannot reserve task ids"), std::string::npos);
  EXPECT_EQ(*ids->reserve(), 0u) << "it was not given";
}

TEST_F(RunStateTest, AnUnfinishedFileOfACrashIsReplaced) {
  RunState folder = state();
  std::ofstream(file() + ".new") << "half";
  ASSERT_TRUE(IdFile::open(folder));
  EXPECT_FALSE(std::filesystem::exists(file() + ".new"));
}

TEST_F(RunStateTest, TwoDaemonsNeverShareAState) {
  RunState folder = state();
  auto second = lockRunState(state_dir, "one");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::alreadyExists);
  EXPECT_TRUE(lockRunState(state_dir, "two"));
  folder.folder.reset();
  EXPECT_TRUE(lockRunState(state_dir, "one"));
}

}  // namespace
}  // namespace mayfly::app
