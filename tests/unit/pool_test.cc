#include <gtest/gtest.h>

#include "pool/template_registry.h"
#include "pool/zygote_fsm.h"

namespace mayfly::pool {
namespace {

constexpr uint64_t kS = 1'000'000'000;
constexpr uint64_t kStart_ns = 30 * kS;
using Do = ZygoteFsm::Do;

TEST(ZygoteFsm, StartsAtOnceAndIsReadyWhenItsZygoteServes) {
  ZygoteFsm f(kStart_ns);
  EXPECT_EQ(f.tick(5), Do::publish);
  EXPECT_EQ(f.state(), ZygoteState::starting);
  EXPECT_EQ(f.tick(6), Do::nothing);
  f.ready(7);
  EXPECT_EQ(f.state(), ZygoteState::ready);
  EXPECT_EQ(f.due_ns(), 0u);
}

TEST(ZygoteFsm, DeathIsFollowedByAGrowingPauseNotByAnImmediateStart) {
  ZygoteFsm f(kStart_ns);
  f.tick(1);
  f.ready(2);
  uint64_t now = 100 * kS;
  EXPECT_EQ(f.died(now, "exit 1"), Do::nothing);
  uint64_t first = f.due_ns() - now;
  EXPECT_EQ(f.tick(f.due_ns() - 1), Do::nothing);
  EXPECT_EQ(f.tick(f.due_ns()), Do::publish);
  now += kS;
  f.died(now, "exit 1");
  EXPECT_GT(f.due_ns() - now, first);
}

TEST(ZygoteFsm, FourthDeathInAMinuteRetiresTheTemplate) {
  ZygoteFsm f(kStart_ns);
  uint64_t now = 100 * kS;
  for (int i = 0; i < 3; ++i) {
    f.tick(f.due_ns());
    EXPECT_EQ(f.died(now += kS, "crash"), Do::nothing);
  }
  f.tick(f.due_ns());
  EXPECT_EQ(f.died(now += kS, "crash"), Do::failQueue);
  EXPECT_EQ(f.state(), ZygoteState::unhealthy);
  EXPECT_NE(f.text().find("crash"), std::string::npos);
  EXPECT_EQ(f.tick(now + kProbeAfter_ns - 1), Do::nothing);
}

TEST(ZygoteFsm, FourDeathsSpreadOverMoreThanAMinuteDoNot) {
  ZygoteFsm f(kStart_ns);
  uint64_t now = 100 * kS;
  for (int i = 0; i < 12; ++i) {
    f.tick(f.due_ns());
    f.ready(now);
    EXPECT_EQ(f.died(now += 21 * kS, "crash"), Do::nothing) << i;
  }
}

TEST(ZygoteFsm, UnhealthyTemplateIsTriedOnceAndOneFailureSuffices) {
  ZygoteFsm f(kStart_ns);
  uint64_t now = 100 * kS;
  for (int i = 0; i < 4; ++i) f.tick(f.due_ns()), f.died(now, "crash");
  now += kProbeAfter_ns;
  EXPECT_EQ(f.tick(now), Do::publish);
  EXPECT_EQ(f.died(now + kS, "crash"), Do::failQueue);
  EXPECT_EQ(f.state(), ZygoteState::unhealthy);
  now = f.due_ns();
  EXPECT_EQ(f.tick(now), Do::publish);
  f.ready(now + kS);
  EXPECT_EQ(f.state(), ZygoteState::ready);
  EXPECT_EQ(f.died(now + 2 * kS, "crash"), Do::nothing);  // healthy again: counts anew
}

TEST(ZygoteFsm, StartThatTakesTooLongIsRetired) {
  ZygoteFsm f(kStart_ns);
  f.tick(kS);
  EXPECT_EQ(f.tick(kS + kStart_ns - 1), Do::nothing);
  EXPECT_EQ(f.tick(kS + kStart_ns), Do::retire);
  EXPECT_EQ(f.died(kS + kStart_ns + 1, "retired"), Do::nothing);
  EXPECT_EQ(f.state(), ZygoteState::waiting);
}

TemplateSpec spec(std::string name, std::string digest = std::string(64, 'a')) {
  TemplateSpec s;
  s.name = std::move(name);
  s.image_digest = std::move(digest);
  s.missing_image_text = "never built";
  return s;
}

TEST(TemplateRegistry, TemplateWithoutImageIsRefusedWithAdvice) {
  TemplateRegistry r;
  auto id = r.add(spec("python", ""));
  ASSERT_TRUE(id);
  EXPECT_EQ(r.state(*id), "missingImage");
  EXPECT_TRUE(r.due(1).empty());
  EXPECT_TRUE(r.settled());
  auto refused = r.accepts(*id);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::Code::failedPrecondition);
  EXPECT_NE(refused.error().advice.find("mayfly image build python"), std::string::npos);
}

TEST(TemplateRegistry, BrokenTemplateLeavesTheOthersAlone) {
  TemplateRegistry r;
  auto a = *r.add(spec("a")), b = *r.add(spec("b"));
  EXPECT_EQ(r.due(1).size(), 2u);
  r.onReady(b, 2);
  EXPECT_FALSE(r.settled());
  uint64_t now = 2;
  for (int i = 0; i < 4; ++i) {
    r.onDied(a, now += 1, "crash");
    for (const Order& o : r.due(r.nextDue_ns())) EXPECT_EQ(o.id, a);
  }
  EXPECT_FALSE(r.accepts(a) && r.state(a) == "ready");
  EXPECT_TRUE(r.ready(b));
  EXPECT_TRUE(r.accepts(b));
  EXPECT_TRUE(r.settled());
}

TEST(TemplateRegistry, NamesAreUniqueAndTheNumberIsBounded) {
  TemplateRegistry r;
  ASSERT_TRUE(r.add(spec("t")));
  EXPECT_EQ(r.add(spec("t")).error().code, base::Code::alreadyExists);
  for (uint32_t i = 1; i < kTemplatesMax; ++i) ASSERT_TRUE(r.add(spec("t" + std::to_string(i))));
  EXPECT_EQ(r.add(spec("last")).error().code, base::Code::resourceExhausted);
}

}  // namespace
}  // namespace mayfly::pool
