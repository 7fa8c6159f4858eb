// The spawner among hostile peers: seeded scripts of tests/fuzz/spawner_script.h.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <random>
#include <vector>

#include "../fuzz/spawner_script.h"

namespace mayfly::fuzz {
namespace {

std::vector<uint8_t> bytesOf(uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(200 + random() % 2'000);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

TEST(SpawnerPeers, NoSequenceOfMessagesHarmsAnotherTemplateOrLeavesAnything) {
  const char* const more = ::getenv("MAYFLY_SPAWNER_SCRIPTS");
  const uint32_t scripts = more != nullptr ? static_cast<uint32_t>(::atoi(more)) : 150;
  uint32_t made = 0, connected = 0;
  for (uint32_t seed = 1; seed <= scripts; ++seed) {
    const auto bytes = bytesOf(seed);
    const Outcome outcome = runScript(bytes.data(), bytes.size());
    ASSERT_EQ(outcome.fault, "") << "seed " << seed;
    made += outcome.made;
    connected += outcome.connected;
  }
  // Otherwise the scripts would not come beyond the first checks.
  EXPECT_GT(made, scripts / 4);
  EXPECT_GT(connected, scripts / 2);
}

}  // namespace
}  // namespace mayfly::fuzz
