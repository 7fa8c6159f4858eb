// Which task gets the next box, and which is refused a place in the queue.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "sched/admission.h"

namespace mayfly::sched {
namespace {

using base::Code;

bool anyReady(base::TemplateId) { return true; }

// An Admission with its book; the numbers of owners are uids.
struct Queue {
  explicit Queue(const Budget& budget, const AccountBounds& bounds = {})
      : book(bounds), admission(budget, book) {}
  AccountRef of(uint32_t uid, std::string_view tenant = {}) {
    return book.open(Account::ofPeer(uid, tenant)).value();
  }
  base::Status enqueue(base::TaskId task, uint32_t uid, base::LaneId lane, Demand demand) {
    return admission.enqueue(task, of(uid), 1, lane, demand);
  }
  std::optional<base::TaskId> next(const std::function<bool(base::LaneId)>& ready) {
    return admission.next(now_ns, ready);
  }
  // All tasks that can start, each ended at once.
  std::vector<base::TaskId> order() {
    std::vector<base::TaskId> tasks;
    while (auto task = admission.next(now_ns, [](base::LaneId) { return true; })) {
      tasks.push_back(*task);
      admission.release(*task);
    }
    return tasks;
  }
  void release(base::TaskId task) { admission.release(task); }
  void withdraw(base::TaskId task) { admission.withdraw(task); }
  void putBack(base::TaskId task, base::LaneId lane) { admission.putBack(task, lane); }
  std::vector<base::TaskId> queuedFor(base::LaneId lane) { return admission.queuedFor(lane); }
  size_t queued() const { return admission.queued(); }
  size_t held() const { return admission.held(); }

  uint64_t now_ns = 0;
  Accounts book;
  Admission admission;
};

TEST(Admission, FullQueueRefusesAtOnceInsteadOfWaiting) {
  AccountBounds bounds;
  bounds.setPool(Resource::queuedTasks, 2);
  Queue a({.boxes_max = 1}, bounds);
  ASSERT_TRUE(a.enqueue(1, 1, 1, {}));
  ASSERT_TRUE(a.enqueue(2, 1, 1, {}));
  auto refused = a.enqueue(3, 1, 1, {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::resourceExhausted);
  EXPECT_EQ(a.next(anyReady), 1u);
  EXPECT_TRUE(a.enqueue(3, 1, 1, {}));
}

TEST(Admission, TaskThatIsPutBackIsTheNext) {
  Queue a({.boxes_max = 1});
  for (base::TaskId t : {1, 2}) ASSERT_TRUE(a.enqueue(t, 1, 1, {}));
  ASSERT_TRUE(a.enqueue(3, 2, 1, {}));
  EXPECT_EQ(a.next(anyReady), 1u);
  a.putBack(1, 1);
  EXPECT_EQ(a.held(), 0u);
  EXPECT_EQ(a.queued(), 3u);
  std::vector<base::TaskId> order;
  while (auto t = a.next(anyReady)) {
    order.push_back(*t);
    a.release(*t);
  }
  EXPECT_EQ(order, (std::vector<base::TaskId>{1, 3, 2}));
}

TEST(Admission, UsersTakeTurnsHoweverManyTasksOneHas) {
  Queue a({.boxes_max = 100});
  for (base::TaskId t = 1; t <= 4; ++t) ASSERT_TRUE(a.enqueue(t, 1, 1, {}));
  ASSERT_TRUE(a.enqueue(10, 2, 1, {}));
  ASSERT_TRUE(a.enqueue(11, 2, 1, {}));
  std::vector<base::TaskId> order;
  while (auto t = a.next(anyReady)) order.push_back(*t);
  EXPECT_EQ(order, (std::vector<base::TaskId>{1, 10, 2, 11, 3, 4}));
}

TEST(Admission, SlotIsFreeOnlyWhenReleased) {
  Queue a({.boxes_max = 1});
  ASSERT_TRUE(a.enqueue(1, 1, 1, {}));
  ASSERT_TRUE(a.enqueue(2, 1, 1, {}));
  EXPECT_EQ(a.next(anyReady), 1u);
  EXPECT_EQ(a.next(anyReady), std::nullopt);
  a.release(1);
  a.release(1);
  EXPECT_EQ(a.next(anyReady), 2u);
}

TEST(Admission, LargeTaskAtTheHeadIsNotStarvedBySmallOnes) {
  Queue a({.memory_bytes_max = 100});
  ASSERT_TRUE(a.enqueue(1, 1, 1, {60, 0, 0}));
  ASSERT_TRUE(a.enqueue(2, 2, 1, {90, 0, 0}));
  ASSERT_TRUE(a.enqueue(3, 3, 1, {20, 0, 0}));
  EXPECT_EQ(a.next(anyReady), 1u);
  EXPECT_EQ(a.next(anyReady), std::nullopt);  // 3 would fit; it may outlast 1, which 2 waits for
  a.release(1);
  EXPECT_EQ(a.next(anyReady), 2u);
  EXPECT_EQ(a.next(anyReady), std::nullopt);
  a.release(2);
  EXPECT_EQ(a.next(anyReady), 3u);
}

Demand taking(uint64_t memory_bytes, uint64_t time_ns) {
  return {.memory_bytes = memory_bytes, .time_ns = time_ns};
}

TEST(Admission, TasksThatEndBeforeTheHeadCanStartPassIt) {
  Queue a({.memory_bytes_max = 100});
  ASSERT_TRUE(a.enqueue(1, 1, 1, taking(60, 50)));
  ASSERT_TRUE(a.enqueue(2, 2, 1, taking(90, 1000)));
  ASSERT_TRUE(a.enqueue(3, 2, 1, taking(20, 49)));
  ASSERT_TRUE(a.enqueue(4, 3, 1, taking(20, 50)));
  EXPECT_EQ(a.next(anyReady), 1u);
  EXPECT_EQ(a.next(anyReady), 3u);  // behind 2 in the same connection
  EXPECT_EQ(a.next(anyReady), std::nullopt);
  a.now_ns = 20;
  a.release(3);
  ASSERT_TRUE(a.enqueue(5, 2, 1, taking(40, 29)));
  EXPECT_EQ(a.next(anyReady), 5u);
  a.release(1);  // earlier than it might have ended
  EXPECT_EQ(a.next(anyReady), std::nullopt);
  a.release(5);
  EXPECT_EQ(a.next(anyReady), 2u);
}

TEST(Admission, TasksThatNeedOnlyWhatTheHeadLeavesPassIt) {
  Queue a({.boxes_max = 3, .memory_bytes_max = 100});
  ASSERT_TRUE(a.enqueue(1, 1, 1, taking(60, 50)));
  ASSERT_TRUE(a.enqueue(2, 2, 1, taking(90, 1000)));
  ASSERT_TRUE(a.enqueue(3, 3, 1, taking(6, 1000)));
  ASSERT_TRUE(a.enqueue(4, 3, 1, taking(6, 1000)));
  EXPECT_EQ(a.next(anyReady), 1u);
  EXPECT_EQ(a.next(anyReady), 3u);
  EXPECT_EQ(a.next(anyReady), std::nullopt);  // 4 and 2 and 3 together do not fit
  a.release(1);
  EXPECT_EQ(a.next(anyReady), 2u);
}

TEST(Admission, AReservationGoesWithItsTask) {
  Queue a({.memory_bytes_max = 100});
  ASSERT_TRUE(a.enqueue(1, 1, 1, taking(60, 50)));
  ASSERT_TRUE(a.enqueue(2, 2, 7, taking(90, 1000)));
  ASSERT_TRUE(a.enqueue(3, 3, 1, taking(20, 100)));
  EXPECT_EQ(a.next(anyReady), 1u);
  EXPECT_EQ(a.next(anyReady), std::nullopt);
  // Its template is not ready any more.
  EXPECT_EQ(a.next([](base::LaneId lane) { return lane != 7; }), 3u);
  a.release(3);
  ASSERT_TRUE(a.enqueue(4, 3, 1, taking(20, 100)));
  EXPECT_EQ(a.next(anyReady), std::nullopt);
  a.withdraw(2);
  EXPECT_EQ(a.next(anyReady), 4u);
}

// A plain simulation: each task ends at a random time within its own longest. A task that was once
// the first that does not fit starts no later than it would if nothing else were started.
TEST(Admission, RandomQueuesStarveNobody) {
  uint64_t reservations = 0, passed = 0;
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
    constexpr uint64_t kMemory = 100;
    Queue q({.boxes_max = 6, .memory_bytes_max = kMemory});
    struct Run {
      uint64_t memory, ends_ns, longest_ns;
    };
    std::map<base::TaskId, Demand> waiting;
    std::map<base::TaskId, Run> running;
    std::optional<std::pair<base::TaskId, uint64_t>> due;  // the reserved task, and by when
    base::TaskId last = 0;
    auto memoryAt = [&](uint64_t at_ns) {
      uint64_t sum = 0;
      for (const auto& [task, run] : running) sum += run.longest_ns > at_ns ? run.memory : 0;
      return sum;
    };
    auto boxesAt = [&](uint64_t at_ns) {
      return std::count_if(running.begin(), running.end(),
                           [&](const auto& run) { return run.second.longest_ns > at_ns; });
    };
    for (q.now_ns = 1; q.now_ns < 3'000; ++q.now_ns) {
      for (auto run = running.begin(); run != running.end();)
        if (run->second.ends_ns <= q.now_ns) {
          q.release(run->first);
          run = running.erase(run);
        } else {
          ++run;
        }
      if (below(14) == 0 && waiting.size() < 20) {
        const Demand d = taking(below(5) == 0 ? 50 + below(50) : 1 + below(20), 1 + below(100));
        ASSERT_TRUE(q.enqueue(++last, below(3), 1, d));
        waiting[last] = d;
      }
      while (auto task = q.next(anyReady)) {
        const Demand d = waiting.at(*task);
        waiting.erase(*task);
        const uint64_t longest_ns = q.now_ns + d.time_ns;
        running[*task] = {d.memory_bytes, q.now_ns + 1 + below(static_cast<uint32_t>(d.time_ns)),
                          longest_ns};
        ASSERT_LE(memoryAt(q.now_ns), kMemory);
        if (!due) continue;
        if (due->first == *task)
          due.reset();
        else
          ++passed;
      }
      if (due) {
        ASSERT_LT(q.now_ns, due->second) << "task " << due->first;
      }
      // The only task that waits is the reserved one.
      if (!due && waiting.size() == 1) {
        const auto& [task, d] = *waiting.begin();
        uint64_t at_ns = q.now_ns;
        while (memoryAt(at_ns) + d.memory_bytes > kMemory || boxesAt(at_ns) >= 6) ++at_ns;
        due.emplace(task, at_ns + 1);
        ++reservations;
      }
    }
  }
  EXPECT_GT(reservations, 1'000u);
  EXPECT_GT(passed, 1'000u);
}

TEST(Admission, TasksTogetherHaveNoMorePseudoTerminalsThanTheHostGrants) {
  Queue a({.ptys_max = 20});
  ASSERT_TRUE(a.enqueue(1, 1, 1, {.ptys = 8}));
  ASSERT_TRUE(a.enqueue(2, 2, 1, {.ptys = 8}));
  ASSERT_TRUE(a.enqueue(3, 3, 1, {.ptys = 8}));
  EXPECT_EQ(a.next(anyReady), 1u);
  EXPECT_EQ(a.next(anyReady), 2u);
  EXPECT_EQ(a.next(anyReady), std::nullopt);
  a.release(1);
  EXPECT_EQ(a.next(anyReady), 3u);
  EXPECT_EQ(a.enqueue(4, 1, 1, {.ptys = 21}).error().code, Code::invalidArgument);
}

TEST(Admission, DemandBeyondTheWholeHostIsRefused) {
  Queue a({.memory_bytes_max = 100, .pids_max = 10});
  EXPECT_EQ(a.enqueue(1, 1, 1, {101, 0, 0}).error().code, Code::invalidArgument);
  EXPECT_EQ(a.enqueue(1, 1, 1, {1, 0, 11}).error().code, Code::invalidArgument);
}

TEST(Admission, TasksOfATemplateThatIsNotReadyArePassedOver) {
  Queue a({});
  ASSERT_TRUE(a.enqueue(1, 1, 7, {}));
  ASSERT_TRUE(a.enqueue(2, 1, 8, {}));
  EXPECT_EQ(a.next([](base::TemplateId t) { return t == 8; }), 2u);
  EXPECT_EQ(a.queuedFor(7), std::vector<base::TaskId>{1});
}

TEST(Admission, WithdrawnTaskLeavesNothingBehind) {
  AccountBounds bounds;
  bounds.setPool(Resource::queuedTasks, 1);
  Queue a({}, bounds);
  ASSERT_TRUE(a.enqueue(1, 1, 1, {}));
  a.withdraw(1);
  a.withdraw(1);
  EXPECT_EQ(a.queued(), 0u);
  EXPECT_EQ(a.next(anyReady), std::nullopt);
  EXPECT_TRUE(a.enqueue(2, 1, 1, {}));
  EXPECT_EQ(a.next(anyReady), 2u);
}

TEST(Admission, MoreTenantsOrConnectionsGiveAUserNoMoreTurns) {
  Queue q({.boxes_max = 1});
  for (base::TaskId t = 1; t <= 4; ++t)
    ASSERT_TRUE(q.admission.enqueue(t, q.of(1, "t" + std::to_string(t)), t, 1, {}));
  for (base::TaskId t = 5; t <= 8; ++t) ASSERT_TRUE(q.admission.enqueue(t, q.of(1), t, 1, {}));
  for (base::TaskId t : {10, 11, 12}) ASSERT_TRUE(q.enqueue(t, 2, 1, {}));
  EXPECT_EQ(q.order(), (std::vector<base::TaskId>{1, 10, 2, 11, 3, 12, 4, 5, 6, 7, 8}));
}

TEST(Admission, AUsersTenantsTakeTurnsAndSoDoATenantsConnections) {
  Queue q({.boxes_max = 1});
  for (base::TaskId t : {1, 2, 3}) ASSERT_TRUE(q.admission.enqueue(t, q.of(1, "a"), 1, 1, {}));
  ASSERT_TRUE(q.admission.enqueue(4, q.of(1, "a"), 2, 1, {}));
  ASSERT_TRUE(q.admission.enqueue(5, q.of(1, "b"), 3, 1, {}));
  ASSERT_TRUE(q.admission.enqueue(6, q.of(1, "b"), 3, 1, {}));
  EXPECT_EQ(q.order(), (std::vector<base::TaskId>{1, 5, 4, 6, 2, 3}));
}

TEST(Admission, OneConnectionLeavesItsUsersOthersRoomInTheQueue) {
  Queue q({.queue_tasks_per_owner_max = 2});
  for (base::TaskId t : {1, 2}) ASSERT_TRUE(q.admission.enqueue(t, q.of(1), 1, 1, {}));
  EXPECT_EQ(q.admission.enqueue(3, q.of(1), 1, 1, {}).error().code, Code::resourceExhausted);
  EXPECT_TRUE(q.admission.enqueue(3, q.of(1), 2, 1, {}));
}

TEST(Admission, OneUserLeavesTheOthersRoomInTheQueue) {
  AccountBounds bounds;
  bounds.of(Resource::queuedTasks) = {.pool_max = 10, .user_max = 3};
  Queue q({}, bounds);
  for (base::TaskId t : {1, 2, 3})
    ASSERT_TRUE(q.admission.enqueue(t, q.of(1, std::to_string(t)), t, 1, {}));
  EXPECT_EQ(q.admission.enqueue(4, q.of(1, "new"), 9, 1, {}).error().code, Code::resourceExhausted);
  EXPECT_TRUE(q.enqueue(4, 2, 1, {}));
}

TEST(Admission, WhoRunsAsManyTasksAsItMayIsPassedOver) {
  AccountBounds bounds;
  bounds.of(Resource::runningTasks) = {.user_max = 2, .tenant_max = 1};
  Queue q({.boxes_max = 100}, bounds);
  for (base::TaskId t : {1, 2}) ASSERT_TRUE(q.admission.enqueue(t, q.of(1, "a"), 1, 1, {}));
  for (base::TaskId t : {3, 4}) ASSERT_TRUE(q.admission.enqueue(t, q.of(1, "b"), 1, 1, {}));
  ASSERT_TRUE(q.enqueue(5, 2, 1, {}));
  EXPECT_EQ(q.next(anyReady), 1u);
  EXPECT_EQ(q.next(anyReady), 5u);
  EXPECT_EQ(q.next(anyReady), 3u);
  EXPECT_EQ(q.next(anyReady), std::nullopt);
  q.release(3);
  EXPECT_EQ(q.next(anyReady), 4u);  // tenant a still runs one
  q.release(1);
  EXPECT_EQ(q.next(anyReady), 2u);
}

TEST(Admission, ATaskPutBackIsNotRefusedByAFullQueue) {
  AccountBounds bounds;
  bounds.setPool(Resource::queuedTasks, 1);
  Queue q({.boxes_max = 1}, bounds);
  ASSERT_TRUE(q.enqueue(1, 1, 1, {}));
  EXPECT_EQ(q.next(anyReady), 1u);
  ASSERT_TRUE(q.enqueue(2, 1, 1, {}));
  q.putBack(1, 1);
  EXPECT_EQ(q.book.usedByAll(Resource::queuedTasks), 2u);
  EXPECT_EQ(q.order(), (std::vector<base::TaskId>{1, 2}));
  EXPECT_EQ(q.book.known(), 0u);
}

// Against the plain rule: of the waiting tasks, the one whose user had its turn longest ago, then
// whose tenant, then whose connection.
TEST(Admission, RandomQueuesKeepTheTurnsOfEveryLevelAndLeaveNothing) {
  struct Wait {
    base::TaskId task;
    std::string user, tenant;
    OwnerId owner;
  };
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
    Queue q({.boxes_max = 3});
    std::vector<Wait> waiting;
    std::vector<base::TaskId> running;
    std::vector<std::string> users, tenants, owners;  // in the order of their turns
    auto keysOf = [](const Wait& w) {
      return std::array{w.user, w.user + "/" + w.tenant,
                        w.user + "/" + w.tenant + "/" + std::to_string(w.owner)};
    };
    std::vector<std::string>* rings[] = {&users, &tenants, &owners};
    auto forget = [&] {
      for (size_t level = 0; level < 3; ++level)
        std::erase_if(*rings[level], [&](const std::string& key) {
          return std::none_of(waiting.begin(), waiting.end(),
                              [&](const Wait& w) { return keysOf(w)[level] == key; });
        });
    };
    base::TaskId last = 0;
    for (int i = 0; i < 200; ++i) {
      if (below(2) == 0) {
        uint32_t uid = below(3), tenant = below(3);
        Wait w{++last, std::to_string(uid), tenant == 0 ? "" : std::to_string(tenant), below(3)};
        ASSERT_TRUE(q.admission.enqueue(w.task, q.of(uid, w.tenant), w.owner, 1, {}));
        waiting.push_back(w);
        for (size_t level = 0; level < 3; ++level)
          if (std::find(rings[level]->begin(), rings[level]->end(), keysOf(w)[level]) ==
              rings[level]->end())
            rings[level]->push_back(keysOf(w)[level]);
      } else if (below(4) == 0 && !waiting.empty()) {
        size_t at = below(static_cast<uint32_t>(waiting.size()));
        q.withdraw(waiting[at].task);
        waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(at));
        forget();
      } else if (below(3) == 0 && !running.empty()) {
        q.release(running.back());
        running.pop_back();
      } else {
        auto task = q.next(anyReady);
        if (waiting.empty() || running.size() == 3) {
          ASSERT_EQ(task, std::nullopt);
          continue;
        }
        auto rank = [&](const Wait& w) {
          std::array<std::ptrdiff_t, 3> place{};
          for (size_t level = 0; level < 3; ++level)
            place[level] = std::find(rings[level]->begin(), rings[level]->end(), keysOf(w)[level]) -
                           rings[level]->begin();
          return place;
        };
        auto due =
            std::min_element(waiting.begin(), waiting.end(),
                             [&](const Wait& a, const Wait& b) { return rank(a) < rank(b); });
        ASSERT_EQ(task, due->task);
        for (size_t level = 0; level < 3; ++level) {
          std::string key = keysOf(*due)[level];
          std::erase(*rings[level], key);
          rings[level]->push_back(key);
        }
        running.push_back(*task);
        waiting.erase(due);
        forget();
      }
      ASSERT_EQ(q.queued(), waiting.size());
      ASSERT_EQ(q.book.usedByAll(Resource::queuedTasks), waiting.size());
      ASSERT_EQ(q.book.usedByAll(Resource::runningTasks), running.size());
      ASSERT_TRUE(q.book.sumsAreRight());
    }
    for (base::TaskId task : running) q.release(task);
    for (const Wait& w : waiting) q.withdraw(w.task);
    ASSERT_EQ(q.book.known(), 0u);
    ASSERT_EQ(q.next(anyReady), std::nullopt);
  }
}

}  // namespace
}  // namespace mayfly::sched
