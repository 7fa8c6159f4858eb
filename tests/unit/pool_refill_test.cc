// The life of a box, and when a lane's boxes are made; then both together, at random.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "pool/box_machine.h"
#include "pool/refill.h"

namespace mayfly::pool {
namespace {

using base::BoxId;
using What = Refill::Make::What;

constexpr uint64_t kMs = 1'000'000;

// --- a box ------------------------------------------------------------------------

constexpr BoxEvent kEvents[kBoxEvents] = {BoxEvent::stocked, BoxEvent::clone, BoxEvent::made,
                                          BoxEvent::ready,   BoxEvent::claim, BoxEvent::lost,
                                          BoxEvent::end,     BoxEvent::gone};

BoxMachine after(BoxMachine::First first, std::initializer_list<BoxEvent> events) {
  BoxMachine box(first);
  for (BoxEvent e : events)
    EXPECT_EQ(box.on(e), BoxStep::next) << name(e) << " in " << name(box.state());
  return box;
}

TEST(BoxMachine, BothWaysLeadToATask) {
  using enum BoxEvent;
  BoxMachine whole = after(BoxMachine::First::making, {made, ready, claim, end, gone});
  EXPECT_EQ(whole.state(), BoxState::gone);
  EXPECT_FALSE(whole.wasStocked());
  BoxMachine in_two =
      after(BoxMachine::First::stocking, {stocked, clone, made, ready, claim, end, gone});
  EXPECT_EQ(in_two.state(), BoxState::gone);
  EXPECT_TRUE(in_two.wasStocked());
}

TEST(BoxMachine, AnEventOutOfPlaceEndsTheBoxAndNothingBringsItBack) {
  for (auto first : {BoxMachine::First::making, BoxMachine::First::stocking}) {
    for (uint32_t seed = 0; seed < 3000; ++seed) {
      std::mt19937 random(seed);
      BoxMachine box(first);
      std::set<BoxState> seen{box.state()};
      bool claimed = false;
      for (int i = 0; i < 12; ++i) {
        const BoxState before = box.state();
        const BoxEvent event = kEvents[random() % kBoxEvents];
        const BoxStep step = box.on(event);
        if (step == BoxStep::ignore) {
          ASSERT_EQ(box.state(), before);
          ASSERT_TRUE(before == BoxState::claimed || box.ending());
          continue;
        }
        ASSERT_TRUE(seen.insert(box.state()).second) << name(box.state()) << " was entered twice";
        ASSERT_FALSE(before == BoxState::ending && box.state() != BoxState::gone);
        ASSERT_NE(before, BoxState::gone);
        if (step == BoxStep::end) {
          ASSERT_EQ(box.state(), BoxState::ending);
          ASSERT_NE(before, BoxState::claimed) << "a task's box is ended by its task only";
        }
        if (box.state() == BoxState::claimed) {
          ASSERT_EQ(before, BoxState::ready);
          ASSERT_FALSE(std::exchange(claimed, true));
        }
      }
    }
  }
}

TEST(BoxMachine, ASecondWordOfAParkedCloneEndsIt) {
  BoxMachine box = after(BoxMachine::First::making, {BoxEvent::made, BoxEvent::ready});
  EXPECT_EQ(box.on(BoxEvent::ready), BoxStep::end);
  EXPECT_EQ(box.on(BoxEvent::claim), BoxStep::ignore);
}

// --- one lane's refill ------------------------------------------------------------

struct Lane {
  explicit Lane(uint32_t parked, uint32_t stocked = 0, uint32_t making_max = 4)
      : refill(making_max) {
    refill.setTarget(parked, stocked);
    refill.setZygote(1);
  }
  // Requests all present wishes; returns the boxes.
  std::vector<BoxId> ask(uint64_t now_ns) {
    std::vector<BoxId> boxes;
    makes = refill.work(true, now_ns).make;
    for (const Refill::Make& make : makes) {
      boxes.push_back(make.in != 0 ? make.in : next++);
      refill.asked(make, boxes.back());
    }
    return boxes;
  }
  void park(uint64_t now_ns) {
    for (BoxId box : ask(now_ns)) EXPECT_EQ(refill.ready(box, now_ns).task, 0u);
  }

  Refill refill;
  std::vector<Refill::Make> makes;
  BoxId next = 1;
};

TEST(Refill, ParkingWaitsForTheLastClaimWhileMoreThanHalfIsThere) {
  Lane lane(4);
  lane.park(1);
  ASSERT_EQ(lane.refill.parked(), 4u);
  const uint64_t now = 100 * kMs;
  ASSERT_TRUE(lane.refill.claim(7));
  lane.refill.claimBegan(now);
  EXPECT_TRUE(lane.ask(now).empty());
  EXPECT_EQ(lane.refill.due_ns(), now + kClaimQuietMax_ns)
      << "it may hang; nobody waits longer for it";
  lane.refill.claimOver();
  EXPECT_TRUE(lane.ask(now + kMs).empty());
  EXPECT_EQ(lane.refill.due_ns(), now + kParkQuiet_ns);
  EXPECT_EQ(lane.ask(now + kParkQuiet_ns).size(), 1u);
}

TEST(Refill, ParkingWaitsForNothingOnceLessThanHalfIsThere) {
  Lane lane(4);
  lane.park(1);
  for (base::TaskId task : {7, 8, 9}) {
    ASSERT_TRUE(lane.refill.claim(task));
    lane.refill.claimBegan(100 * kMs);
  }
  EXPECT_EQ(lane.ask(100 * kMs).size(), 3u);
}

TEST(Refill, BoxesAreStockedOneAtATimeOnceNothingHappens) {
  Lane lane(1, 2);
  lane.park(1);
  uint64_t now = 1;
  for (uint32_t n = 1; n <= 2; ++n) {
    EXPECT_TRUE(lane.ask(now + kStockQuiet_ns - 1).empty());
    now += kStockQuiet_ns;
    EXPECT_EQ(lane.refill.due_ns(), now);
    auto boxes = lane.ask(now);
    ASSERT_EQ(boxes.size(), 1u);
    EXPECT_EQ(lane.makes[0].what, What::stock);
    EXPECT_TRUE(lane.ask(now + 1).empty());
    EXPECT_EQ(lane.refill.due_ns(), 0u) << "the one in the making is awaited";
    lane.refill.stocked(boxes[0], now);
    EXPECT_EQ(lane.refill.stocked(), n);
  }
  EXPECT_TRUE(lane.ask(now + 1000 * kMs).empty());
  EXPECT_EQ(lane.refill.due_ns(), 0u);
}

TEST(Refill, ATaskThatFindsNoCloneGetsAStockedBox) {
  Lane lane(0, 1);
  BoxId stocked = lane.ask(1000 * kMs).at(0);
  lane.refill.stocked(stocked, 1000 * kMs);
  EXPECT_FALSE(lane.refill.claim(7));
  EXPECT_EQ(lane.ask(1001 * kMs), std::vector<BoxId>{stocked});
  EXPECT_EQ(lane.makes[0].what, What::forTask);
  EXPECT_EQ(lane.makes[0].task, 7u);
  EXPECT_EQ(lane.refill.stocked(), 0u);
  EXPECT_EQ(lane.refill.ready(stocked, 1002 * kMs).task, 7u);
}

TEST(Refill, ABoxThatCouldNotBeStockedIsFollowedByAPause) {
  Lane lane(0, 1);
  BoxId box = lane.ask(1000 * kMs).at(0);
  EXPECT_FALSE(lane.refill.lost(box, 1000 * kMs).clone);
  EXPECT_TRUE(lane.ask(1000 * kMs + kStockPause_ns - 1).empty());
  EXPECT_EQ(lane.refill.due_ns(), 1000 * kMs + kStockPause_ns);
  EXPECT_EQ(lane.ask(1000 * kMs + kStockPause_ns).size(), 1u);
}

TEST(Refill, NoCloneOfANewZygoteEntersABoxOfTheOld) {
  Lane lane(1, 2);
  lane.park(1);
  uint64_t now = 1000 * kMs;
  BoxId stands = lane.ask(now).at(0);
  lane.refill.stocked(stands, now);
  BoxId coming = lane.ask(now += 10 * kMs).at(0);
  EXPECT_EQ(lane.refill.setZygote(2), (std::vector<BoxId>{stands, coming}));
  lane.refill.stocked(coming, now);  // too late: it ends
  EXPECT_EQ(lane.refill.stocked(), 0u);
  EXPECT_EQ(lane.refill.parked(), 1u) << "the old one's clones serve until new ones are parked";
}

TEST(Refill, ADeadZygotesBoxesEndAndOthersStay) {
  Lane lane(1, 1);
  lane.park(1);
  BoxId stands = lane.ask(1000 * kMs).at(0);
  lane.refill.stocked(stands, 1000 * kMs);
  EXPECT_TRUE(lane.refill.endZygote(9).empty());
  EXPECT_EQ(lane.refill.endZygote(1), (std::vector<BoxId>{1, stands}));
  EXPECT_EQ(lane.refill.parked() + lane.refill.stocked(), 0u);
}

TEST(Refill, NothingIsMadeWhileNoZygoteServes) {
  Lane lane(2, 2);
  lane.refill.claim(7);
  EXPECT_TRUE(lane.refill.work(false, 1000 * kMs).make.empty());
  EXPECT_EQ(lane.refill.due_ns(), 0u);
}

// --- both, at random ---------------------------------------------------------------

// A driver like the engine: machines of all boxes, tasks, and a random spawner. A clone may die at
// any time, and events may come out of place.
class World {
 public:
  explicit World(uint32_t seed) : random_(seed), making_max_(1 + below(4)), refill_(making_max_) {
    refill_.setZygote(zygote_);
  }

  void step() {
    now_ns_ += below(3) == 0 ? below(30'000'000) : below(2'000'000);
    switch (below(10)) {
      case 0:
      case 1:
        return arrive();
      case 2:
      case 3:
      case 4:
        return spawnerSays();
      case 5:
        if (!boxes_.empty()) event(any(), kEvents[below(kBoxEvents)]);
        return;
      case 6:
        if (!running_.empty()) endTask(running_.begin()->first);
        return;
      case 7:
        return refill_.setTarget(below(6), below(4));
      case 8:
        if (below(8) == 0) endAll(refill_.setZygote(++zygote_));
        if (below(12) == 0) {
          endAll(refill_.endZygote(zygote_));
          endAll(refill_.setZygote(++zygote_));
        }
        return;
      default:
        return work();
    }
  }

  void check() {
    std::map<BoxState, uint32_t> count;
    for (const auto& [id, box] : boxes_) ++count[box.state()];
    ASSERT_EQ(count[BoxState::ready], refill_.parked());
    ASSERT_EQ(count[BoxState::stocked], refill_.stocked());
    ASSERT_EQ(count[BoxState::making] + count[BoxState::cloning] + count[BoxState::made],
              refill_.making());
    ASSERT_LE(count[BoxState::stocking], 1u);
    ASSERT_LE(refill_.making(), making_max_);
    ASSERT_EQ(waiting_.size(), refill_.waiting());
    ASSERT_TRUE(waiting_.empty() || refill_.parked() == 0) << "a task waits beside a ready clone";
  }

  // Every waiting task is served in the end, and then every wish is met, without a spin.
  void settle() {
    refill_.setTarget(3, 2);
    for (int turns = 0; turns < 2000; ++turns) {
      work();
      bool said = false;
      for (auto& [id, box] : std::map(boxes_)) said |= advance(id);
      if (said) continue;
      if (refill_.due_ns() == 0) break;
      ASSERT_GT(refill_.due_ns(), now_ns_) << "it is due, and nothing came of it";
      now_ns_ = refill_.due_ns();
    }
    EXPECT_TRUE(waiting_.empty());
    EXPECT_EQ(refill_.parked(), 3u);
    EXPECT_EQ(refill_.stocked(), 2u);
    check();
  }

 private:
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  BoxId any() {
    return std::next(boxes_.begin(), below(static_cast<uint32_t>(boxes_.size())))->first;
  }

  void work() {
    Refill::Work work = refill_.work(true, now_ns_);
    endAll(work.end);
    for (const Refill::Make& make : work.make) {
      BoxId id = make.in;
      if (id != 0) {
        ASSERT_EQ(boxes_.at(id).on(BoxEvent::clone), BoxStep::next);
        ASSERT_EQ(made_of_.at(id), zygote_) << "a clone enters a box of another zygote";
      } else {
        id = ++last_box_;
        made_of_[id] = zygote_;
        boxes_.emplace(id, BoxMachine(make.what == What::stock ? BoxMachine::First::stocking
                                                               : BoxMachine::First::making));
      }
      refill_.asked(make, id);
    }
  }

  void arrive() {
    base::TaskId task = ++last_task_;
    if (auto box = refill_.claim(task)) return bind(task, *box);
    waiting_.insert(task);
  }

  void bind(base::TaskId task, BoxId box) {
    ASSERT_EQ(boxes_.at(box).on(BoxEvent::claim), BoxStep::next);
    running_[task] = box;
    refill_.claimBegan(now_ns_);
    if (below(4) != 0)
      refill_.claimOver();  // else the claim hangs
    else
      ++hanging_;
  }

  void endTask(base::TaskId task) {
    ASSERT_EQ(boxes_.at(running_.at(task)).on(BoxEvent::end), BoxStep::next);
    running_.erase(task);
    if (hanging_ > 0) --hanging_, refill_.claimOver();
  }

  void endAll(const std::vector<BoxId>& boxes) {
    for (BoxId id : boxes)
      ASSERT_EQ(boxes_.at(id).on(BoxEvent::end), BoxStep::next) << "it ends already";
  }

  void event(BoxId id, BoxEvent e) {
    BoxMachine& box = boxes_.at(id);
    // These events are the driver's, not the spawner's.
    if (e == BoxEvent::claim || e == BoxEvent::clone || e == BoxEvent::end) return;
    const bool bound = box.state() == BoxState::claimed;
    switch (box.on(e)) {
      case BoxStep::ignore:
        return;
      case BoxStep::end:
        return lost(id);
      case BoxStep::next:
        break;
    }
    if (e == BoxEvent::stocked) refill_.stocked(id, now_ns_);
    if (e == BoxEvent::ready) {
      auto handed = refill_.ready(id, now_ns_);
      if (handed.task != 0) {
        ASSERT_EQ(waiting_.erase(handed.task), 1u);
        bind(handed.task, id);
      } else if (handed.end) {
        ASSERT_EQ(box.on(BoxEvent::end), BoxStep::next);
      }
    }
    if (e == BoxEvent::gone) {
      boxes_.erase(id);
      if (bound) std::erase_if(running_, [&](const auto& each) { return each.second == id; });
      lost(id);
    }
  }

  void lost(BoxId id) {
    if (base::TaskId task = refill_.lost(id, now_ns_).task; task != 0) {
      ASSERT_EQ(waiting_.erase(task), 1u) << "who waits no more hears of it";
    }
  }

  // The next event of the spawner or the clone about it; false: none.
  bool advance(BoxId id) {
    auto at = boxes_.find(id);
    if (at == boxes_.end()) return false;
    switch (at->second.state()) {
      case BoxState::stocking:
        event(id, BoxEvent::stocked);
        return true;
      case BoxState::making:
      case BoxState::cloning:
        event(id, BoxEvent::made);
        return true;
      case BoxState::made:
        event(id, BoxEvent::ready);
        return true;
      case BoxState::ending:
        event(id, BoxEvent::gone);
        return true;
      default:
        return false;
    }
  }
  void spawnerSays() {
    if (!boxes_.empty()) advance(any());
  }

  std::mt19937 random_;
  uint32_t making_max_;
  Refill refill_;
  base::ZygoteId zygote_ = 1;
  uint64_t now_ns_ = 1;
  BoxId last_box_ = 0;
  base::TaskId last_task_ = 0;
  uint32_t hanging_ = 0;
  std::map<BoxId, BoxMachine> boxes_;
  std::map<BoxId, base::ZygoteId> made_of_;
  std::set<base::TaskId> waiting_;
  std::map<base::TaskId, BoxId> running_;
};

TEST(Refill, RandomLivesOfManyBoxesKeepTheBooksAndServeEverybody) {
  for (uint32_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    World world(seed);
    for (int i = 0; i < 300; ++i) {
      ASSERT_NO_FATAL_FAILURE(world.step());
      ASSERT_NO_FATAL_FAILURE(world.check());
    }
    ASSERT_NO_FATAL_FAILURE(world.settle());
  }
}

}  // namespace
}  // namespace mayfly::pool
