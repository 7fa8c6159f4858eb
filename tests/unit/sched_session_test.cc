#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "sched/session_machine.h"

namespace mayfly::sched {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using enum SessionAct;
using AtVault = SessionMachine::AtVault;
using AtFront = SessionMachine::AtFront;

constexpr uint64_t kMs = 1'000'000;

SessionMachine machine(bool front_up = true) { return SessionMachine({}, front_up); }

// A session whose task has its box, and whose door the front serves.
SessionMachine served() {
  SessionMachine m = machine();
  m.opened(1);
  m.begin();
  m.activated();
  return m;
}

TEST(SessionMachine, DoorOpensOnlyOnceTheVaultKnowsTheTask) {
  SessionMachine m = machine();
  EXPECT_THAT(m.opened(1), IsEmpty());
  EXPECT_THAT(m.begin(), ElementsAre(activate));
  EXPECT_EQ(m.atFront(), AtFront::shut);
  EXPECT_THAT(m.activated(), ElementsAre(openDoor));
  EXPECT_EQ(m.atFront(), AtFront::open);
}

TEST(SessionMachine, RevokesFirstAtTheEndAndTellsOnceBothHaveConfirmed) {
  SessionMachine m = served();
  EXPECT_THAT(m.end(10), ElementsAre(revoke, closeDoor, dropDoors));
  EXPECT_THAT(m.revoked(20), IsEmpty());
  EXPECT_THAT(m.doorClosed(30), ElementsAre(tellEnded));
  EXPECT_EQ(m.end().revoked_ns, 20u);
  EXPECT_EQ(m.end().broker_closed_ns, 30u);
  EXPECT_EQ(m.end().note, "");
  EXPECT_EQ(m.deadline_ns(), 0u);
}

TEST(SessionMachine, ConfirmationsMayComeInEitherOrder) {
  SessionMachine m = served();
  m.end(10);
  EXPECT_THAT(m.doorClosed(20), IsEmpty());
  EXPECT_THAT(m.revoked(30), ElementsAre(tellEnded));
  EXPECT_EQ(m.end().broker_closed_ns, 20u);
}

TEST(SessionMachine, EndIsToldOnce) {
  SessionMachine m = served();
  m.end(10);
  m.revoked(20);
  m.doorClosed(30);
  EXPECT_THAT(m.end(40), IsEmpty());
  EXPECT_THAT(m.revoked(50), IsEmpty());
  EXPECT_THAT(m.doorClosed(60), IsEmpty());
  EXPECT_THAT(m.vaultLost(70), IsEmpty());
  EXPECT_EQ(m.end().revoked_ns, 20u);
}

TEST(SessionMachine, TaskThatNeverHadABoxHasNoDoorToClose) {
  SessionMachine m = machine();
  m.opened(1);
  EXPECT_THAT(m.end(10), ElementsAre(revoke));
  EXPECT_THAT(m.revoked(20), ElementsAre(tellEnded));
}

TEST(SessionMachine, EndBeforeTheVaultAnsweredRevokesOnceItDoes) {
  SessionMachine m = machine();
  EXPECT_THAT(m.end(10), IsEmpty());
  EXPECT_THAT(m.opened(20), ElementsAre(revoke));
  EXPECT_THAT(m.revoked(30), ElementsAre(tellEnded));
}

TEST(SessionMachine, EndBeforeActivationLeavesNoDoorOpen) {
  SessionMachine m = machine();
  m.opened(1);
  m.begin();
  EXPECT_THAT(m.end(10), ElementsAre(revoke, dropDoors));
  EXPECT_THAT(m.activated(), IsEmpty());
  EXPECT_THAT(m.revoked(20), ElementsAre(tellEnded));
}

TEST(SessionMachine, LostBoxClosesTheDoorAndKeepsTheSession) {
  SessionMachine m = served();
  EXPECT_THAT(m.leave(10), ElementsAre(closeDoor, dropDoors));
  EXPECT_THAT(m.doorClosed(20), ElementsAre(tellLeft));
  EXPECT_EQ(m.end().broker_closed_ns, 20u);
  EXPECT_EQ(m.end().revoked_ns, 0u);
  EXPECT_THAT(m.begin(), ElementsAre(activate));
  EXPECT_THAT(m.activated(), ElementsAre(openDoor));
}

TEST(SessionMachine, NextBoxWaitsUntilTheFrontHasClosedTheLast) {
  SessionMachine m = served();
  m.leave(10);
  EXPECT_THAT(m.begin(), ElementsAre(activate));
  EXPECT_THAT(m.activated(), IsEmpty());
  EXPECT_THAT(m.doorClosed(30), testing::Contains(openDoor));
}

TEST(SessionMachine, DeathOfTheFrontHandsTheDoorToTheNext) {
  SessionMachine m = served();
  EXPECT_THAT(m.frontLost(10), IsEmpty());
  EXPECT_THAT(m.frontBack(), ElementsAre(openDoor));
}

TEST(SessionMachine, DeathOfTheFrontConfirmsItsClose) {
  SessionMachine m = served();
  m.end(10);
  m.revoked(20);
  EXPECT_THAT(m.frontLost(30), ElementsAre(tellEnded));
  EXPECT_THAT(m.frontBack(), IsEmpty());
}

TEST(SessionMachine, TaskThatStartsWhileTheFrontIsDownGetsItsDoorLater) {
  SessionMachine m = machine(false);
  m.opened(1);
  m.begin();
  EXPECT_THAT(m.activated(), IsEmpty());
  EXPECT_THAT(m.frontBack(), ElementsAre(openDoor));
}

TEST(SessionMachine, DeathOfTheVaultClosesTheDoorUntilTheNextKnowsTheSession) {
  SessionMachine m = served();
  EXPECT_THAT(m.vaultLost(10), ElementsAre(closeDoor));
  EXPECT_THAT(m.vaultBack(), ElementsAre(open));
  EXPECT_THAT(m.opened(20), ElementsAre(activate));
  EXPECT_THAT(m.activated(), IsEmpty());  // the old number is still in the front
  EXPECT_THAT(m.doorClosed(30), ElementsAre(openDoor));
}

TEST(SessionMachine, DeathOfTheVaultConfirmsARevocation) {
  SessionMachine m = served();
  m.end(10);
  m.doorClosed(20);
  EXPECT_THAT(m.vaultLost(30), ElementsAre(tellEnded));
  EXPECT_EQ(m.end().revoked_ns, 30u);
}

TEST(SessionMachine, EndedSessionIsNotOpenedAtTheNextVault) {
  SessionMachine m = served();
  m.vaultLost(10);
  EXPECT_THAT(m.end(20), ElementsAre(dropDoors));
  EXPECT_THAT(m.vaultBack(), IsEmpty());
  EXPECT_THAT(m.doorClosed(30), ElementsAre(tellEnded));
  EXPECT_EQ(m.end().revoked_ns, 20u);
}

TEST(SessionMachine, SessionThatTheNextVaultRefusesHasItsDoorsClosed) {
  SessionMachine m = served();
  m.vaultLost(10);
  m.doorClosed(15);
  m.vaultBack();
  EXPECT_THAT(m.refused(20), ElementsAre(dropDoors));
  EXPECT_THAT(m.end(30), ElementsAre(tellEnded));
}

TEST(SessionMachine, BoxOfARefusedSessionHasNoDoors) {
  SessionMachine m = machine();
  m.opened(1);
  m.vaultLost(2);
  m.vaultBack();
  m.refused(3);
  EXPECT_THAT(m.begin(), ElementsAre(dropDoors));
}

TEST(SessionMachine, FrontThatOwesItsConfirmationIsRestartedOnce) {
  SessionMachine m = served();
  m.end(10);
  m.revoked(20);
  EXPECT_EQ(m.deadline_ns(), 10 + 1'000 * kMs);
  EXPECT_THAT(m.tick(10 + 1'000 * kMs - 1), IsEmpty());
  EXPECT_THAT(m.tick(10 + 1'000 * kMs), ElementsAre(restartFront));
  EXPECT_THAT(m.tick(10 + 9'000 * kMs), IsEmpty());
  EXPECT_THAT(m.frontLost(10 + 1'100 * kMs), ElementsAre(tellEnded));
  EXPECT_THAT(m.end().note, HasSubstr("the front did not confirm within 1000 ms"));
}

TEST(SessionMachine, VaultThatOwesItsConfirmationIsRestarted) {
  SessionMachine m = served();
  m.end(10);
  m.doorClosed(20);
  EXPECT_THAT(m.tick(10 + 1'000 * kMs), ElementsAre(restartVault));
  EXPECT_THAT(m.vaultLost(10 + 1'100 * kMs), ElementsAre(tellEnded));
  EXPECT_THAT(m.end().note, HasSubstr("the vault did not confirm within 1000 ms"));
}

TEST(SessionMachine, FrontThatClosesADoorUnaskedGetsItNoSecondTime) {
  SessionMachine m = served();
  EXPECT_THAT(m.doorClosed(10), ElementsAre(dropDoors));
  EXPECT_THAT(m.frontBack(), IsEmpty());
  EXPECT_THAT(m.end(20), ElementsAre(revoke));
}

// Whatever the order of events: the door is never open at the front while the vault does not know
// the task, doors of ours are never left open, and each end is told exactly once.
TEST(SessionMachine, HoldsItsPromisesUnderRandomEvents) {
  for (uint32_t seed = 0; seed < 5'000; ++seed) {
    std::mt19937 random(seed);
    SessionMachine m = machine(random() % 2 == 0);
    bool box = false, door = false, vault_up = true, known = false, active = false;
    int told_ended = 0, told_left = 0, left = 0;
    bool ended = false;
    uint64_t now = 1;
    const auto act = [&](const SessionMachine::Acts& acts) {
      for (SessionAct each : acts) {
        if (each == openDoor) {
          EXPECT_TRUE(box && active && !door) << seed;
          door = true;
        }
        if (each == dropDoors) box = false;
        if (each == tellLeft) ++told_left;
        if (each == tellEnded) {
          ++told_ended;
          EXPECT_FALSE(box || door || active) << seed;
        }
        if (each == open) {
          EXPECT_TRUE(vault_up) << seed;
        }
      }
    };
    for (int n = 0; n < 40; ++n) {
      now += random() % (400 * kMs);
      const auto at = m.atVault();
      switch (random() % 12) {
        case 0:
          if (at == AtVault::opening && vault_up) known = true, act(m.opened(now));
          break;
        case 1:
          if (at == AtVault::activating) active = true, act(m.activated());
          break;
        case 2:
          if (!box && !ended && left == told_left) box = true, act(m.begin());
          break;
        case 3:
          if (box && !ended) ++left, act(m.leave(now));
          break;
        case 4:
          if (n > 20) {
            ended = true;
            act(m.end(now));
          }
          break;
        case 5:
          if (at == AtVault::revoking) active = known = false, act(m.revoked(now));
          break;
        case 6:
          if (vault_up) vault_up = active = known = false, act(m.vaultLost(now));
          break;
        case 7:
          if (!vault_up) vault_up = true, act(m.vaultBack());
          break;
        case 8:
          if (m.atFront() == AtFront::closing) door = false, act(m.doorClosed(now));
          break;
        case 9:
          door = false;
          act(m.frontLost(now));
          break;
        case 10:
          act(m.frontBack());
          break;
        default:
          act(m.tick(now));
      }
      if (m.atVault() == AtVault::refused) break;
    }
    // The end, with peers that answer.
    ended = true;
    act(m.end(now));
    if (m.atVault() == AtVault::opening) act(m.opened(now));
    active = false;
    act(m.revoked(now));
    door = false;
    act(m.doorClosed(now));
    EXPECT_EQ(told_ended, 1) << seed;
    EXPECT_FALSE(box) << seed;
    EXPECT_LE(told_left, left) << seed;
  }
}

// --- values ------------------------------------------------------------------------------

TEST(Session, TasksOwnVariableWinsButForTheBrokersAddress) {
  Env task = {{"A", "1"}, {"MAYFLY_BROKER", "http://evil"}, {"OPENAI_BASE_URL", "mine"}};
  joinEnv(task, {{"MAYFLY_BROKER", "http://127.0.0.1"}, {"OPENAI_BASE_URL", "ours"}, {"B", "2"}});
  EXPECT_THAT(task, testing::UnorderedElementsAre(
                        testing::Pair("A", "1"), testing::Pair("MAYFLY_BROKER", "http://127.0.0.1"),
                        testing::Pair("OPENAI_BASE_URL", "mine"), testing::Pair("B", "2")));
}

std::string refusal(const SessionSpec& spec) {
  auto checked = checkSession(spec);
  return checked ? "" : checked.error().message;
}

SessionSpec granted(std::string name, std::string narrowing = {}) {
  SessionSpec spec;
  spec.grants.push_back({std::move(name), std::move(narrowing)});
  return spec;
}

TEST(Session, NamesAndSizesAreBounded) {
  EXPECT_EQ(refusal(granted("openai", "calls=10,paths=/models/*")), "");
  for (const char* name : {"", "a/b", "a b", "..", "-a", "a\n", "a:b"})
    EXPECT_NE(refusal(granted(name)), "") << name;
  EXPECT_EQ(refusal(granted(std::string(kGrantNameBytesMax, 'a'))), "");
  EXPECT_NE(refusal(granted(std::string(kGrantNameBytesMax + 1, 'a'))), "");
  EXPECT_NE(refusal(granted("a", std::string(kNarrowingBytesMax + 1, 'a'))), "");
  EXPECT_THAT(refusal(granted("a", "x\x01")), HasSubstr("not printable"));
  SessionSpec twice = granted("a");
  twice.grants.push_back({"a", ""});
  EXPECT_THAT(refusal(twice), HasSubstr("named twice"));
  SessionSpec many;
  for (size_t i = 0; i <= kGrantsMax; ++i) many.grants.push_back({"g" + std::to_string(i), ""});
  EXPECT_THAT(refusal(many), HasSubstr("at most 64"));
}

TEST(Session, ToolsNeedAToolBox) {
  SessionSpec spec;
  spec.tools.push_back({"lookup", "", "{}"});
  EXPECT_THAT(refusal(spec), HasSubstr("no tool box"));
  struct Box final : ToolBox {
    void call(std::string, std::string, Done) override {}
  };
  spec.tool_box = std::make_shared<Box>();
  EXPECT_EQ(refusal(spec), "");
  spec.tools[0].description = std::string(kToolDescriptionBytesMax + 1, 'x');
  EXPECT_NE(refusal(spec), "");
  spec.tools[0].description.clear();
  spec.tools[0].schema_json = std::string(kToolSchemaBytesMax + 1, 'x');
  EXPECT_NE(refusal(spec), "");
}

}  // namespace
}  // namespace mayfly::sched
