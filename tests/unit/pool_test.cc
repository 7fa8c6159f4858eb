#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "pool/clone_pool.h"
#include "pool/template_registry.h"
#include "pool/trial.h"
#include "pool/zygote_fsm.h"

namespace mayfly::pool {
namespace {

constexpr uint64_t kS = 1'000'000'000;
constexpr uint64_t kStart_ns = 30 * kS;
using Do = ZygoteFsm::Do;

using Rehearsed = ClonePool::Rehearsed;

TEST(ClonePool, TaskGetsTheOldestReadyCloneAndNobodyElseDoes) {
  ClonePool p(4);
  p.setTarget(2);
  for (base::BoxId b : {1, 2}) {
    p.asked(b, Rehearsed::yes);
    EXPECT_EQ(p.ready(b, 0).task, 0u);
  }
  EXPECT_EQ(p.claim(10), 1u);
  EXPECT_EQ(p.claim(11), 2u);
  EXPECT_EQ(p.claim(12), std::nullopt);
  EXPECT_FALSE(p.holds(1));
  EXPECT_TRUE(p.ready(1, 0).end);  // a repeated message of the same clone
}

TEST(ClonePool, EmptyPoolServesInTheOrderOfAskingBeforeAnyRefill) {
  ClonePool p(4);
  p.setTarget(8);
  EXPECT_EQ(p.claim(10), std::nullopt);
  EXPECT_EQ(p.claim(11), std::nullopt);
  Work w = p.work(true, true, 1);
  EXPECT_EQ(w.make_for_tasks, 2u);
  EXPECT_EQ(w.make_to_park, 2u);  // making_max
  p.asked(1, Rehearsed::no), p.asked(2, Rehearsed::no), p.asked(3, Rehearsed::yes);
  EXPECT_EQ(p.ready(3, 0).task, 10u);
  EXPECT_EQ(p.ready(1, 0).task, 11u);
  EXPECT_TRUE(p.ready(2, 0).end);  // made in a hurry and not wanted: never parked
}

TEST(ClonePool, FailureIsToldToATaskOnlyWhereNoOtherBoxIsOnItsWay) {
  ClonePool p(4);
  p.claim(10);
  p.asked(1, Rehearsed::no), p.asked(2, Rehearsed::no);
  EXPECT_EQ(p.lost(1, 1), std::nullopt);
  EXPECT_EQ(p.lost(2, 1), 10u);
  EXPECT_EQ(p.waiting(), 0u);
}

TEST(ClonePool, ParkingPausesLongerAfterEachFailureAndTasksDoNot) {
  ClonePool p(4);
  p.setTarget(1);
  uint64_t now = 1, last = 0;
  for (base::BoxId b = 1; b < 20; ++b) {
    ASSERT_EQ(p.work(true, true, now).make_to_park, 1u);
    p.asked(b, Rehearsed::yes);
    p.lost(b, now);
    EXPECT_EQ(p.work(true, true, p.due_ns() - 1).make_to_park, 0u);
    EXPECT_GE(p.due_ns() - now, last);
    last = p.due_ns() - now;
    EXPECT_LE(last, kParkPauseMax_ns);
    now = p.due_ns();
  }
  p.asked(100, Rehearsed::yes);
  p.lost(100, now);
  p.claim(7);
  EXPECT_EQ(p.work(true, true, now).make_for_tasks, 1u);
}

TEST(ClonePool, PauseThatIsOverIsNotDueAgain) {
  for (bool may_make : {true, false}) {
    ClonePool p(4);
    p.setTarget(may_make ? 0 : 1);  // no clone is made either way
    p.asked(1, Rehearsed::yes);
    p.lost(1, 5);
    uint64_t due_ns = p.due_ns();
    ASSERT_GT(due_ns, 5u);
    EXPECT_EQ(p.work(may_make, true, due_ns).make_to_park, 0u);
    EXPECT_EQ(p.due_ns(), 0u) << "a timer would fire for ever";
  }
}

TEST(ClonePool, CloneThatDiesOnceParkedIsReplacedAfterAPauseUnlessItLivedLong) {
  ClonePool p(4);
  p.setTarget(1);
  uint64_t now = 1, last = 0;
  for (base::BoxId b = 1; b < 10; ++b) {
    p.asked(b, Rehearsed::yes);
    ASSERT_FALSE(p.ready(b, now).end);
    p.lost(b, now + kEarlyDeath_ns - 1);
    ASSERT_EQ(p.work(true, true, now + kEarlyDeath_ns - 1).make_to_park, 0u);
    EXPECT_GE(p.due_ns() - now, last);
    last = p.due_ns() - now;
    now = p.due_ns();
    ASSERT_EQ(p.work(true, true, now).make_to_park, 1u);
  }
  p.asked(20, Rehearsed::yes);
  ASSERT_FALSE(p.ready(20, now).end);
  p.lost(20, now + kEarlyDeath_ns);
  EXPECT_EQ(p.work(true, true, now + kEarlyDeath_ns).make_to_park, 1u);
}

TEST(ClonePool, StaleCloneIsNeverClaimed) {
  ClonePool p(4);
  p.setTarget(2);
  p.asked(1, Rehearsed::yes), p.ready(1, 0), p.asked(2, Rehearsed::yes);
  EXPECT_EQ(p.endZygote(0), std::vector<base::BoxId>{1});
  EXPECT_EQ(p.claim(10), std::nullopt);
  EXPECT_TRUE(p.ready(2, 0).end);
  EXPECT_EQ(p.waiting(), 1u);
}

TEST(ClonePool, OldZygotesClonesServeUntilTheNewOnesAreParked) {
  ClonePool p(4);
  p.setZygote(1);
  p.setTarget(2);
  for (base::BoxId b : {1, 2}) p.asked(b, Rehearsed::yes), p.ready(b, 0);
  p.asked(3, Rehearsed::yes);
  p.setZygote(2);
  EXPECT_TRUE(p.ready(3, 0).end);  // a further clone of the old zygote is not parked
  EXPECT_EQ(p.work(true, true, 1).make_to_park, 2u);
  p.asked(4, Rehearsed::yes), p.asked(5, Rehearsed::yes);
  EXPECT_EQ(p.claim(10), 1u);
  EXPECT_EQ(p.ready(4, 0).end, false);
  EXPECT_TRUE(p.work(true, true, 1).end.empty());
  EXPECT_EQ(p.ready(5, 0).end, false);
  EXPECT_EQ(p.work(true, true, 1).end, std::vector<base::BoxId>{2});
  EXPECT_EQ(p.parked(), 2u);
  EXPECT_EQ(p.claim(11), 4u);
}

TEST(ClonePool, SmallerTargetEndsTheOldest) {
  ClonePool p(4);
  p.setTarget(3);
  for (base::BoxId b : {1, 2, 3}) p.asked(b, Rehearsed::yes), p.ready(b, 0);
  p.setTarget(1);
  EXPECT_EQ(p.work(true, true, 1).end, (std::vector<base::BoxId>{1, 2}));
  EXPECT_EQ(p.parked(), 1u);
}

// Whatever the order of events: a clone serves one task at most, a task gets one clone at most, no
// clone is both parked and gone, and no task waits for ever while clones come.
TEST(ClonePool, RandomInterleavingsKeepItsWord) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
    uint32_t making_max = 1 + below(5);
    ClonePool p(making_max);
    std::set<base::BoxId> making, parked, dead;
    std::set<base::TaskId> waiting, served;
    std::map<base::BoxId, base::TaskId> claimed;
    base::BoxId next_box = 1;
    base::TaskId next_task = 1;
    uint64_t now = 1;
    base::ZygoteId zygote = 0;
    std::map<base::BoxId, base::ZygoteId> zygote_of;
    std::set<base::ZygoteId> dead_zygotes;
    auto serve = [&](base::BoxId box, base::TaskId task) {
      ASSERT_TRUE(claimed.emplace(box, task).second) << "a clone was claimed twice";
      ASSERT_TRUE(served.insert(task).second) << "a task has two clones";
      ASSERT_FALSE(dead.count(box)) << "a dead clone was claimed";
      ASSERT_FALSE(dead_zygotes.count(zygote_of[box])) << "a dead zygote's clone was claimed";
    };
    auto pick = [&](const std::set<base::BoxId>& from) {
      return *std::next(from.begin(), below(static_cast<uint32_t>(from.size())));
    };
    auto work = [&](bool may_make) {
      Work w = p.work(may_make, below(2) == 0, now);
      for (base::BoxId b : w.end) ASSERT_TRUE(parked.erase(b)) << "ends what is not parked";
      for (uint32_t i = 0; i < w.make_for_tasks + w.make_to_park; ++i) {
        p.asked(next_box, i < w.make_for_tasks ? Rehearsed::no : Rehearsed::yes);
        zygote_of[next_box] = zygote;
        making.insert(next_box++);
      }
      ASSERT_LE(making.size(), making_max);
    };
    auto ready = [&](base::BoxId box) {
      making.erase(box);
      auto handed = p.ready(box, now);
      if (handed.task != 0) {
        ASSERT_EQ(waiting.erase(handed.task), 1u);
        serve(box, handed.task);
      } else if (!handed.end) {
        parked.insert(box);
      }
    };
    for (int step = 0; step < 400; ++step) {
      now += below(50'000'000);
      switch (below(9)) {
        case 0:
        case 1: {
          base::TaskId task = next_task++;
          if (auto box = p.claim(task)) {
            ASSERT_EQ(parked.erase(*box), 1u) << "claimed what was not parked";
            serve(*box, task);
          } else {
            waiting.insert(task);
          }
          break;
        }
        case 2:
        case 3:
          if (!making.empty()) ready(pick(making));
          break;
        case 4:
          if (!making.empty()) {
            base::BoxId box = pick(making);
            making.erase(box), dead.insert(box);
            if (auto task = p.lost(box, now)) {
              ASSERT_EQ(waiting.erase(*task), 1u);
            }
          }
          break;
        case 5:
          if (!parked.empty()) {
            base::BoxId box = pick(parked);
            parked.erase(box), dead.insert(box);
            ASSERT_EQ(p.lost(box, now), std::nullopt);
          }
          break;
        case 6:
          if (!waiting.empty() && below(3) == 0) {
            base::TaskId task = *waiting.begin();
            p.withdraw(task), waiting.erase(task);
          }
          break;
        case 7:
          p.setTarget(below(6));
          if (below(5) == 0) p.setZygote(++zygote);
          if (below(10) == 0) {
            base::ZygoteId gone = below(zygote + 1);
            dead_zygotes.insert(gone);
            for (base::BoxId b : p.endZygote(gone)) {
              ASSERT_TRUE(parked.erase(b)) << "ends what is not parked";
            }
            if (gone == zygote) p.setZygote(++zygote);
          }
          break;
        default:
          work(below(5) != 0);
      }
      ASSERT_EQ(p.parked(), parked.size());
      ASSERT_EQ(p.making(), making.size());
      ASSERT_EQ(p.waiting(), waiting.size());
      ASSERT_TRUE(parked.empty() || waiting.empty()) << "a task waits beside a ready clone";
    }
    while (!waiting.empty()) {  // clones come: every task is served
      work(true);
      ASSERT_FALSE(making.empty());
      ready(*making.begin());
    }
  }
}

TEST(Trial, ClonesThatAreAlikeWhereTheyMustBeAreFit) {
  EXPECT_EQ(findFault("differ a 1\nequal b x y\n", "equal b x y\ndiffer a 2\n"), std::nullopt);
}

TEST(Trial, EveryKindOfFaultIsNamed) {
  struct Case {
    const char *one, *other, *word;
  } cases[] = {
      {"differ rng 1\n", "differ rng 1\n", "same rng"},
      {"equal path x\n", "equal path y\n", "differ in path"},
      {"differ a 1\n", "differ a 2\ndiffer b 1\n", "different sets"},
      {"differ a 1\ndiffer b 1\n", "differ a 2\n", "only one"},
      {"differ a 1\n", "fault it has a timer\n", "has a timer"},
      {"", "", "no finding"},
      {"hello\n", "hello\n", "printed 'hello'"},
      {"equal a 1\nequal a 1\n", "equal a 1\n", "printed"},
      {"fault \x1b[2J\n", "", "x1b"},
  };
  for (const Case& c : cases) {
    auto fault = findFault(c.one, c.other);
    ASSERT_TRUE(fault) << c.word;
    EXPECT_NE(fault->find(c.word), std::string::npos) << *fault;
    EXPECT_EQ(fault->find('\x1b'), std::string::npos);
  }
}

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

TEST(ZygoteFsm, AnUnhealthyTemplateIsTriedAtOnceWhenItsPartsHaveChanged) {
  ZygoteFsm f(kStart_ns);
  uint64_t now = 100 * kS;
  for (int i = 0; i < 4; ++i) f.tick(f.due_ns()), f.died(now, "crash");
  ASSERT_EQ(f.state(), ZygoteState::unhealthy);
  EXPECT_FALSE(f.probing());
  EXPECT_EQ(f.tick(now + kS), Do::nothing);
  f.askRenewal(now + kS);
  EXPECT_EQ(f.tick(now + kS), Do::publish);
  EXPECT_TRUE(f.probing());
  f.ready(now + 2 * kS);
  EXPECT_EQ(f.state(), ZygoteState::ready);
  EXPECT_FALSE(f.probing());
  EXPECT_EQ(f.due_ns(), 0u) << "and renewed no more";
}

TEST(ZygoteFsm, FourthStartInARowThatFailsRetiresTheTemplateHoweverLongEachTakes) {
  ZygoteFsm f(kStart_ns);
  uint64_t now = 100 * kS;
  f.tick(f.due_ns());
  f.ready(now);  // failures before it served do not count
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(f.died(now += 100 * kS, "slow crash"), Do::nothing) << i;
    f.tick(f.due_ns());
  }
  EXPECT_EQ(f.died(now += 100 * kS, "slow crash"), Do::failQueue);
  EXPECT_EQ(f.text(), "its zygote died 4 times before it served; last: slow crash");
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
  EXPECT_EQ(f.died(now + 2 * kS, "crash"), Do::nothing);  // healthy again: counting restarts
}

TEST(ZygoteFsm, ZygoteIsRenewedAfterSoManyClonesOrSoLong) {
  ZygoteFsm f(kStart_ns, {.clones = 3, .after_ns = 600 * kS});
  f.tick(kS);
  f.ready(2 * kS);
  EXPECT_EQ(f.due_ns(), 0u);  // no task has seen its memory yet
  f.cloned(3 * kS);
  EXPECT_EQ(f.due_ns(), 602 * kS);
  f.cloned(4 * kS), f.cloned(5 * kS);
  EXPECT_EQ(f.tick(5 * kS), Do::publish);
  EXPECT_EQ(f.state(), ZygoteState::ready);
  EXPECT_TRUE(f.renewing());
  f.cloned(6 * kS);  // by the old zygote, which serves meanwhile
  f.ready(7 * kS);
  EXPECT_EQ(f.renewals(), 1u);
  EXPECT_EQ(f.due_ns(), 0u);
  f.cloned(8 * kS);
  EXPECT_EQ(f.tick(607 * kS), Do::publish);
}

TEST(ZygoteFsm, AnAskedRenewalNeedsNoCloneAndStandsUntilAZygoteServes) {
  ZygoteFsm f(kStart_ns);
  f.askRenewal(kS);  // while it waits for its first start: the start itself is not hurried
  EXPECT_EQ(f.tick(kS), Do::publish);
  f.ready(2 * kS);
  EXPECT_EQ(f.due_ns(), 0u);  // what serves was started after it was asked for
  f.askRenewal(3 * kS);
  EXPECT_EQ(f.due_ns(), 3 * kS);
  f.cloned(4 * kS);
  EXPECT_EQ(f.due_ns(), 3 * kS);
  EXPECT_EQ(f.tick(4 * kS), Do::publish);
  f.askRenewal(4 * kS);  // one successor at a time
  EXPECT_EQ(f.tick(4 * kS), Do::nothing);
  f.successorDied(5 * kS, "crash");
  EXPECT_EQ(f.due_ns(), 5 * kS + kRenewalPauseFirst_ns);
  f.askRenewal(6 * kS);  // does not shorten the pause
  EXPECT_EQ(f.due_ns(), 5 * kS + kRenewalPauseFirst_ns);
  EXPECT_EQ(f.tick(f.due_ns()), Do::publish);
  f.ready(30 * kS);
  EXPECT_EQ(f.due_ns(), 0u);
  EXPECT_EQ(f.renewals(), 1u);
}

TEST(ZygoteFsm, AWithdrawnRenewalLeavesOnlyThatOfClonesAndTime) {
  ZygoteFsm f(kStart_ns, {.clones = 2, .after_ns = 600 * kS});
  f.tick(kS);
  f.ready(2 * kS);
  f.askRenewal(3 * kS);
  EXPECT_EQ(f.due_ns(), 3 * kS);
  f.withdrawRenewal(3 * kS);
  EXPECT_EQ(f.due_ns(), 0u);
  f.cloned(4 * kS);
  f.askRenewal(5 * kS);
  EXPECT_EQ(f.tick(5 * kS), Do::publish);
  f.withdrawRenewal(6 * kS);  // its start goes on, with its own time limit
  EXPECT_TRUE(f.renewing());
  EXPECT_EQ(f.due_ns(), 5 * kS + kStart_ns);
  f.successorDied(7 * kS, "crash");
  EXPECT_EQ(f.due_ns(), 602 * kS) << "no other try: nobody asks any more";
  f.cloned(8 * kS);
  EXPECT_EQ(f.due_ns(), 7 * kS + kRenewalPauseFirst_ns);
  f.withdrawRenewal(9 * kS);  // nothing was asked for
  EXPECT_EQ(f.due_ns(), 7 * kS + kRenewalPauseFirst_ns);
}

TEST(ZygoteFsm, RenewalThatFailsIsTriedAgainAfterAGrowingPause) {
  ZygoteFsm f(kStart_ns, {.clones = 1});
  f.tick(kS);
  f.ready(kS);
  f.cloned(kS);
  uint64_t now = kS, last = 0;
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(f.tick(now), Do::publish) << i;
    f.successorDied(now, "crash");
    EXPECT_EQ(f.state(), ZygoteState::ready);
    f.cloned(now);
    EXPECT_GE(f.due_ns() - now, last);
    last = f.due_ns() - now;
    EXPECT_LE(last, kRenewalPauseMax_ns);
    now = f.due_ns();
  }
  EXPECT_NE(f.text().find("crash"), std::string::npos);
}

TEST(ZygoteFsm, SuccessorThatTakesTooLongIsRetired) {
  ZygoteFsm f(kStart_ns, {.clones = 1});
  f.tick(kS);
  f.ready(kS);
  f.cloned(kS);
  f.tick(kS);
  EXPECT_EQ(f.tick(kS + kStart_ns), Do::retire);
  f.successorDied(kS + kStart_ns, "retired");
  EXPECT_EQ(f.state(), ZygoteState::ready);
}

TEST(ZygoteFsm, SuccessorTakesTheStartOfAZygoteThatDied) {
  ZygoteFsm f(kStart_ns, {.clones = 1});
  f.tick(kS);
  f.ready(kS);
  f.cloned(kS);
  f.tick(kS);
  EXPECT_EQ(f.died(2 * kS, "crash"), Do::nothing);
  EXPECT_EQ(f.state(), ZygoteState::starting);
  EXPECT_EQ(f.tick(3 * kS), Do::nothing);  // no third one
  f.ready(4 * kS);
  EXPECT_EQ(f.state(), ZygoteState::ready);
  EXPECT_EQ(f.renewals(), 0u);
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

constexpr auto kMayRenew = [](base::LaneId) { return true; };

TEST(TemplateRegistry, TemplateWithoutImageIsRefusedWithAdvice) {
  TemplateRegistry r;
  auto id = r.add(spec("python", ""), 1);
  ASSERT_TRUE(id);
  EXPECT_EQ(r.state(*id), "missingImage");
  EXPECT_TRUE(r.due(1, kMayRenew).empty());
  EXPECT_TRUE(r.settled());
  auto refused = r.laneFor(*id, "", 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::Code::failedPrecondition);
  EXPECT_NE(refused.error().advice.find("mayfly image build python"), std::string::npos);
}

TEST(TemplateRegistry, BrokenTemplateLeavesTheOthersAlone) {
  TemplateRegistry r;
  auto a = *r.add(spec("a"), 1), b = *r.add(spec("b"), 1);
  auto of_a = *r.laneFor(a, "", 1), of_b = *r.laneFor(b, "", 1);
  EXPECT_EQ(r.takeOpened(), (std::vector<base::LaneId>{of_a, of_b}));
  EXPECT_EQ(r.due(1, kMayRenew).size(), 2u);
  r.onReady(of_b, 2);
  EXPECT_FALSE(r.settled());
  uint64_t now = 2;
  for (int i = 0; i < 4; ++i) {
    r.onDied(of_a, now += 1, "crash");
    for (const Order& o : r.due(r.nextDue_ns(), kMayRenew)) EXPECT_EQ(o.lane, of_a);
  }
  // The last round was the retry after the pause; it fails, too.
  r.onDied(of_a, now += 1, "crash");
  auto refused = r.laneFor(a, "", now);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::Code::unavailable);
  EXPECT_EQ(refused.error().retry_after_ms, kProbeAfter_ns / 1'000'000);
  EXPECT_TRUE(r.ready(of_b));
  EXPECT_TRUE(r.laneFor(b, "", now));
  EXPECT_TRUE(r.settled());
}

TEST(TemplateRegistry, NamesAreUniqueAndTheNumberIsBounded) {
  TemplateRegistry r;
  ASSERT_TRUE(r.add(spec("t"), 1));
  EXPECT_EQ(r.add(spec("t"), 1).error().code, base::Code::alreadyExists);
  for (uint32_t i = 1; i < kTemplatesServedMax; ++i)
    ASSERT_TRUE(r.add(spec("t" + std::to_string(i)), 1));
  EXPECT_EQ(r.add(spec("last"), 1).error().code, base::Code::resourceExhausted);
}

TEST(TemplateRegistry, RenewalWaitsForRoom) {
  TemplateRegistry r;
  TemplateSpec s = spec("t");
  s.renewal.clones = 1;
  auto lane = *r.laneFor(*r.add(s, 1), "", 1);
  r.due(1, kMayRenew);
  r.onReady(lane, 2);
  EXPECT_TRUE(r.onClone(lane, 3));
  EXPECT_TRUE(r.due(3, [](base::LaneId) { return false; }).empty());
  EXPECT_GT(r.nextDue_ns(), 3u);
  EXPECT_EQ(r.due(r.nextDue_ns(), kMayRenew).size(), 1u);
}

TemplateSpec tenantSpec(uint32_t tenants_max) {
  TemplateSpec s = spec("t");
  s.tenants_max = tenants_max;
  return s;
}

TEST(TemplateRegistry, EachTenantHasALaneOfItsOwnAndASpareOneWaits) {
  TemplateRegistry r;
  auto id = *r.add(tenantSpec(4), 1);
  auto spare = r.takeOpened();
  ASSERT_EQ(spare.size(), 1u);
  auto a = *r.laneFor(id, "a", 2);
  EXPECT_EQ(a, spare[0]);  // it has served no task
  EXPECT_EQ(r.takeOpened().size(), 1u);
  EXPECT_EQ(*r.laneFor(id, "a", 3), a);
  EXPECT_NE(*r.laneFor(id, "b", 3), a);
  EXPECT_EQ(r.takeOpened().size(), 1u);
  EXPECT_TRUE(r.takeClosed().empty());
}

TEST(TemplateRegistry, TenantTakesThePlaceOfTheOneThatIsIdleLongest) {
  TemplateRegistry r;
  auto id = *r.add(tenantSpec(2), 1);
  auto a = *r.laneFor(id, "a", 2), b = *r.laneFor(id, "b", 3);
  r.taskBegan(a), r.taskBegan(b);
  auto refused = r.laneFor(id, "c", 4);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::Code::resourceExhausted);
  EXPECT_GT(refused.error().retry_after_ms, 0u);
  r.taskEnded(b, 5), r.taskEnded(a, 6);
  EXPECT_FALSE(r.laneFor(id, "c", 4 + kTenantKept_ns))
      << "tenants' names alone start zygote after zygote";
  auto c = *r.laneFor(id, "c", 5 + kTenantKept_ns);
  EXPECT_EQ(r.takeClosed(), std::vector<base::LaneId>{b});
  EXPECT_EQ(*r.laneFor(id, "a", 8 + kTenantKept_ns), a);
  r.taskBegan(a);
  auto again = *r.laneFor(
      id, "b", 9 + 2 * kTenantKept_ns);  // takes c's place, and never c's lane or its own old one
  EXPECT_EQ(r.takeClosed(), std::vector<base::LaneId>{c});
  EXPECT_NE(again, b);
  EXPECT_NE(again, c);
}

TEST(TemplateRegistry, UnusedTenantsLaneIsClosedAndNoOther) {
  TemplateRegistry r;
  auto id = *r.add(tenantSpec(2), 1);
  auto a = *r.laneFor(id, "a", 2), b = *r.laneFor(id, "b", 2);
  r.taskBegan(a), r.taskBegan(b);
  r.taskEnded(a, 10);
  r.due(10, kMayRenew);
  EXPECT_TRUE(r.takeClosed().empty());
  EXPECT_LE(r.nextDue_ns(), 10 + kTenantIdle_ns);
  r.due(10 + kTenantIdle_ns, kMayRenew);
  EXPECT_EQ(r.takeClosed(), std::vector<base::LaneId>{a});
  EXPECT_EQ(*r.laneFor(id, "b", 11 + kTenantIdle_ns), b);
}

}  // namespace
}  // namespace mayfly::pool
