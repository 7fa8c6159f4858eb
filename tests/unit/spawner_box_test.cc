// The spawner's machine of a box: every cell of its tables, and random lives.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "spawner/box_machine.h"
#include "spawner/child.h"

namespace mayfly::spawner {
namespace {

using E = BoxEvent;
using S = BoxState;
using wire::Op;

const std::vector<E> kAllEvents = {E::askInit,   E::initMade, E::stands, E::askClone,
                                   E::cloneMade, E::claim,    E::end,    E::lost,
                                   E::collect,   E::free,     E::remove, E::removed};

// A way to each state, by events of the machine alone.
const std::map<S, std::vector<E>> kWays = {
    {S::empty, {}},
    {S::asked, {E::askInit}},
    {S::standing, {E::askInit, E::stands}},
    {S::rising, {E::askInit, E::initMade}},
    {S::stocked, {E::askInit, E::initMade, E::stands}},
    {S::forking, {E::askInit, E::initMade, E::askClone}},
    {S::entering, {E::askInit, E::stands, E::initMade, E::askClone}},
    {S::waiting, {E::askInit, E::initMade, E::askClone, E::cloneMade}},
    {S::parked, {E::askInit, E::initMade, E::askClone, E::cloneMade, E::stands}},
    {S::claimed, {E::askInit, E::initMade, E::askClone, E::stands, E::cloneMade, E::claim}},
    {S::owedInit, {E::askInit, E::end}},
    {S::owedClone, {E::askInit, E::initMade, E::askClone, E::end}},
    {S::orphaned, {E::askInit, E::end, E::lost}},
    {S::reaping, {E::end}},
    {S::collecting, {E::end, E::collect}},
    {S::freeing, {E::end, E::free}},
    {S::removing, {E::end, E::collect, E::free, E::remove}},
    {S::gone, {E::end, E::remove, E::removed}},
};

BoxMachine at(S state) {
  BoxMachine m;
  for (E e : kWays.at(state)) EXPECT_EQ(m.on(e), BoxStep::next) << name(state) << " " << name(e);
  EXPECT_EQ(m.state(), state);
  return m;
}

TEST(BoxMachine, EveryStateHasAWayAndEveryCellIsAsWritten) {
  ASSERT_EQ(kWays.size(), static_cast<size_t>(kBoxStates));
  ASSERT_EQ(kAllEvents.size(), static_cast<size_t>(kBoxEvents));
  // The place of each event, and the state that it leads to. Elsewhere it is ignored or a breach.
  const std::map<std::pair<S, E>, S> next = {
      {{S::empty, E::askInit}, S::asked},         {{S::empty, E::end}, S::reaping},
      {{S::asked, E::initMade}, S::rising},       {{S::asked, E::stands}, S::standing},
      {{S::asked, E::end}, S::owedInit},          {{S::asked, E::lost}, S::orphaned},
      {{S::standing, E::initMade}, S::stocked},   {{S::standing, E::end}, S::owedInit},
      {{S::standing, E::lost}, S::orphaned},      {{S::rising, E::stands}, S::stocked},
      {{S::rising, E::askClone}, S::forking},     {{S::rising, E::end}, S::reaping},
      {{S::stocked, E::askClone}, S::entering},   {{S::stocked, E::end}, S::reaping},
      {{S::forking, E::stands}, S::entering},     {{S::forking, E::cloneMade}, S::waiting},
      {{S::forking, E::end}, S::owedClone},       {{S::forking, E::lost}, S::orphaned},
      {{S::entering, E::cloneMade}, S::parked},   {{S::entering, E::end}, S::owedClone},
      {{S::entering, E::lost}, S::orphaned},      {{S::waiting, E::stands}, S::parked},
      {{S::waiting, E::end}, S::reaping},         {{S::parked, E::claim}, S::claimed},
      {{S::parked, E::end}, S::reaping},          {{S::claimed, E::end}, S::reaping},
      {{S::owedInit, E::initMade}, S::reaping},   {{S::owedInit, E::lost}, S::orphaned},
      {{S::owedClone, E::cloneMade}, S::reaping}, {{S::owedClone, E::lost}, S::orphaned},
      {{S::orphaned, E::collect}, S::collecting}, {{S::orphaned, E::free}, S::freeing},
      {{S::orphaned, E::remove}, S::removing},    {{S::reaping, E::collect}, S::collecting},
      {{S::reaping, E::free}, S::freeing},        {{S::reaping, E::remove}, S::removing},
      {{S::collecting, E::free}, S::freeing},     {{S::collecting, E::remove}, S::removing},
      {{S::freeing, E::remove}, S::removing},     {{S::removing, E::removed}, S::gone},
  };
  for (const auto& [state, way] : kWays)
    for (E event : kAllEvents) {
      BoxMachine m = at(state);
      const BoxStep step = m.on(event);
      auto found = next.find({state, event});
      EXPECT_EQ(step == BoxStep::next, found != next.end()) << name(state) << " " << name(event);
      EXPECT_EQ(m.state(), found != next.end() ? found->second : state);
      // Only an event that may cross or repeat another message is ignored.
      if (step == BoxStep::ignore) {
        EXPECT_TRUE(event == E::stands || event == E::end || event == E::lost)
            << name(state) << " " << name(event);
      }
    }
}

TEST(BoxMachine, AnAnswerThatNobodyAskedForIsABreach) {
  for (const auto& [state, way] : kWays) {
    BoxMachine init = at(state), clone = at(state);
    const bool owes_init = state == S::asked || state == S::standing || state == S::owedInit;
    const bool owes_clone = state == S::forking || state == S::entering || state == S::owedClone;
    EXPECT_EQ(init.owed(), owes_init || owes_clone) << name(state);
    EXPECT_EQ(init.on(E::initMade) == BoxStep::next, owes_init) << name(state);
    EXPECT_EQ(clone.on(E::cloneMade) == BoxStep::next, owes_clone) << name(state);
  }
}

TEST(Requests, EachHasItsStatesAndOnlyAnEndingBoxMayBeAskedInVain) {
  for (const auto& [state, way] : kWays) {
    const bool ending = at(state).ending();
    EXPECT_EQ(placeOf(Op::make, state), state == S::gone ? Place::act : Place::breach);
    const std::map<Op, bool> in_place = {{Op::clone, state == S::stocked},
                                         {Op::claim, state == S::parked},
                                         {Op::end, !ending},
                                         {Op::sample, state == S::parked || state == S::claimed},
                                         {Op::terminate, state == S::claimed}};
    for (const auto& [op, here] : in_place)
      EXPECT_EQ(placeOf(op, state), here     ? Place::act
                                    : ending ? Place::late
                                             : Place::breach)
          << static_cast<int>(op) << " " << name(state);
    for (Op op : {Op::publish, Op::retire}) EXPECT_EQ(placeOf(op, state), Place::breach);
  }
}

// Maker, source, init and mayflyd speak in any allowed order; then the invariants of each life.
TEST(BoxMachine, RandomLivesEndGoneAndKeepTheirPromises) {
  std::mt19937 random(1);
  size_t ended = 0, claimed = 0;
  for (int life = 0; life < 20'000; ++life) {
    BoxMachine m;
    int inits = 0, clones = 0, claims = 0, stands = 0;
    bool init_owed = false, clone_owed = false, was_ending = false, was_made = false;
    for (int turn = 0; turn < 200 && m.state() != S::gone; ++turn) {
      const E event = kAllEvents[random() % kAllEvents.size()];
      const S before = m.state();
      const BoxStep step = m.on(event);
      if (step != BoxStep::next) {
        ASSERT_EQ(m.state(), before) << "only a step in its place changes anything";
        continue;
      }
      if (event == E::askInit) init_owed = true;
      if (event == E::askClone) {
        ASSERT_EQ(inits, 1) << "a clone needs its init";
        clone_owed = true;
      }
      if (event == E::initMade) {
        ASSERT_TRUE(init_owed);
        init_owed = false, ++inits;
      }
      if (event == E::cloneMade) {
        ASSERT_TRUE(clone_owed);
        clone_owed = false, ++clones;
      }
      if (event == E::lost) init_owed = clone_owed = false;
      stands += event == E::stands ? 1 : 0;
      claims += event == E::claim ? 1 : 0;
      ASSERT_EQ(m.owed(), init_owed || clone_owed) << name(before) << " " << name(event);
      if (m.made()) {
        ASSERT_TRUE(inits == 1 && clones == 1 && stands == 1);
      }
      was_made |= m.made();
      ASSERT_FALSE(was_ending && !m.ending()) << "an ending box never comes back";
      was_ending |= m.ending();
      if (event == E::collect || event == E::free || event == E::remove) {
        ASSERT_FALSE(m.owed()) << "nothing is removed while a process may still be told of";
      }
    }
    ASSERT_LE(inits, 1);
    ASSERT_LE(clones, 1);
    ASSERT_LE(claims, was_made ? 1 : 0);
    ended += m.state() == S::gone ? 1 : 0;
    claimed += claims;
  }
  EXPECT_GT(ended, 15'000u);
  EXPECT_GT(claimed, 100u);
}

TEST(Pause, DoublesUpToItsMaximumHoweverOftenOneHasLooked) {
  std::vector<uint64_t> pauses;
  for (uint32_t looks = 0; looks < 8; ++looks) pauses.push_back(pauseMs(looks, 50));
  EXPECT_EQ(pauses, (std::vector<uint64_t>{1, 2, 4, 8, 16, 32, 50, 50}));
  EXPECT_EQ(pauseMs(UINT32_MAX, 50), 50u);
}

}  // namespace
}  // namespace mayfly::spawner
