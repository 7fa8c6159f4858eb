#include "sched/task_ids.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

namespace mayfly::sched {
namespace {

// The blocks of one state file: they outlive a run.
struct Blocks {
  uint64_t next = 0;
  bool fails = false;
  TaskIds run(const IdKey& key = IdKey{1}, uint32_t block_bits = kIdBlockBits) {
    TaskIds ids(
        key,
        [this]() -> base::Result<uint64_t> {
          if (fails) return base::fail(base::Code::internal, "the disk is full");
          return next++;
        },
        "noon", block_bits);
    EXPECT_TRUE(ids.reserve());
    return ids;
  }
};

TEST(IdCipher, IsAPermutationOfThe53BitNumbers) {
  const IdCipher cipher(IdKey{7, 7, 7});
  std::set<uint64_t> seen;
  const uint64_t last = (uint64_t{1} << kTaskIdBits) - 1;
  for (uint64_t i = 0; i < 20'000; ++i)
    for (uint64_t counter : {i, last - i, i * (last / 20'000)}) {
      const uint64_t id = cipher.encode(counter);
      ASSERT_LE(id, last);
      ASSERT_EQ(cipher.decode(id), counter);
      seen.insert(id);
    }
  EXPECT_EQ(seen.size(), 60'000u - 1) << "0 was encoded twice";
}

TEST(IdCipher, EveryBitOfTheKeyMatters) {
  const IdKey key{};
  for (size_t bit = 0; bit < 8 * key.size(); ++bit) {
    IdKey other = key;
    other[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    EXPECT_NE(IdCipher(key).encode(5), IdCipher(other).encode(5)) << bit;
  }
}

TEST(TaskIds, NeighboursLookUnrelated) {
  Blocks blocks;
  TaskIds ids = blocks.run();
  std::vector<uint64_t> given;
  for (int i = 0; i < 4'096; ++i) given.push_back(*ids.take());
  uint64_t rising = 0, differing = 0;
  for (size_t i = 1; i < given.size(); ++i) {
    rising += given[i] > given[i - 1];
    differing += static_cast<uint64_t>(__builtin_popcountll(given[i] ^ given[i - 1]));
  }
  // Both are coins: 2,047 +- 32 and 108,518 +- 233.
  EXPECT_NEAR(static_cast<double>(rising), 2'047, 200);
  EXPECT_NEAR(static_cast<double>(differing), 108'518, 1'500);
}

TEST(TaskIds, NeverRepeatAcrossRuns) {
  Blocks blocks;
  std::set<uint64_t> seen;
  for (int run = 0; run < 50; ++run) {
    TaskIds ids = blocks.run();
    for (int i = 0; i < 1'000; ++i) EXPECT_TRUE(seen.insert(*ids.take()).second);
  }
  EXPECT_FALSE(seen.contains(0));
}

TEST(TaskIds, AnIdOfAnEarlierRunIsToldFromANumberThatNeverWasOne) {
  Blocks blocks;
  TaskIds first = blocks.run();
  std::vector<uint64_t> old;
  for (int i = 0; i < 100; ++i) old.push_back(*first.take());
  TaskIds second = blocks.run();
  for (uint64_t id : old) EXPECT_TRUE(second.isOfEarlierRun(id));
  EXPECT_FALSE(second.isOfEarlierRun(*second.take()));
  for (uint64_t id :
       {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{1} << kTaskIdBits, ~uint64_t{0}})
    EXPECT_FALSE(second.isOfEarlierRun(id)) << id;
  for (uint64_t id : old) EXPECT_FALSE(first.isOfEarlierRun(id)) << "its own";
  // Under another key the old ids mean nothing.
  TaskIds other = blocks.run(IdKey{2});
  for (uint64_t id : old) EXPECT_FALSE(other.isOfEarlierRun(id));
}

TEST(TaskIds, ANewBlockFollowsAUsedOneAndWithoutOneNoIdIsGiven) {
  Blocks blocks;
  TaskIds ids = blocks.run(IdKey{1}, 10);
  const IdCipher cipher(IdKey{1});
  for (uint64_t i = 0; i < 1'024; ++i) ASSERT_EQ(cipher.decode(*ids.take()), i);
  blocks.next = 9;  // other runs had the others
  blocks.fails = true;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(ids.take().error().message, "the disk is full");
  blocks.fails = false;
  EXPECT_EQ(cipher.decode(*ids.take()), 9u * 1'024);
  blocks.next = uint64_t{1} << (kTaskIdBits - 10);
  EXPECT_FALSE(ids.reserve()) << "all are used";
}

}  // namespace
}  // namespace mayfly::sched
