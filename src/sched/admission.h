// Which task gets the next box: a bounded queue and the host's budgets.
//
// Users take turns; of a user, its tenants; of a tenant, its connections; a connection's tasks go
// in the order of their arrival. So a user's share does not depend on how many tenants it names or
// connections it opens. An account that already runs as many tasks as it may is skipped.
//
// The first task in the queue that does not fit gets a reservation: the time by which enough of the
// running tasks have ended, because each has a wall time cap. Until then tasks behind it go first
// if they end before that time, or need only what it leaves. So a large task holds nobody up
// without need, and small tasks never starve a large one. Tasks of a template that is not ready are
// skipped.
//
// Layer: sched. Pure. Core thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "sched/accounts.h"
#include "sched/core.h"
#include "sched/turns.h"

namespace mayfly::sched {

// The part of the host that one box takes.
struct Demand {
  uint64_t memory_bytes = 0;
  uint32_t fds = 0;  // the daemon's
  uint32_t pids = 0;
  uint32_t ptys = 0;              // pseudo-terminals, of the kernel's one pool
  uint64_t time_ns = UINT64_MAX;  // the longest time that the task may take from next() on
  uint32_t cpu_milli = 0;         // its cap; counted for reports, and bounded by nobody

  Demand& operator+=(const Demand& d);  // adds all but the times
  Demand& operator-=(const Demand& d);
};

struct Budget {
  uint32_t boxes_max = 64;   // boxes with a task
  uint32_t parked_max = 0;   // boxes without a task, besides; the pool's bound, not checked here
  uint32_t stocked_max = 0;  // boxes without a clone, besides; not checked here
  uint32_t queue_tasks_per_owner_max = 1'000;  // of one connection
  uint64_t memory_bytes_max = 16ull << 30;
  uint32_t fds_max = 4'096;
  uint32_t pids_max = 16'384;
  uint32_t ptys_max = 1'024;
};

class Admission {
 public:
  // Counts queued and running tasks in `accounts`, whose bounds apply besides the budget's.
  Admission(const Budget& budget, Accounts& accounts) : budget_(budget), accounts_(accounts) {}

  // Refuses at once with resourceExhausted if the queue is full, with invalidArgument if the demand
  // can never be met.
  base::Status accepts(const AccountRef& account, OwnerId owner, const Demand& demand) const;
  base::Status enqueue(base::TaskId task, const AccountRef& account, OwnerId owner,
                       base::LaneId lane, Demand demand);
  // The next task that may have a box; it holds a slot until release().
  std::optional<base::TaskId> next(uint64_t now_ns, const std::function<bool(base::LaneId)>& ready);
  void withdraw(base::TaskId task);  // leaves the queue; no effect if not queued
  void release(base::TaskId task);   // returns its slot; no effect if it holds none
  // Requeues a task that holds a slot, and returns the slot. The task comes next: first in its
  // connection, tenant and user, and before all other users. It is never refused, however full the
  // queue is.
  void putBack(base::TaskId task, base::LaneId lane);

  std::vector<base::TaskId> queuedFor(base::LaneId lane) const;
  size_t queued() const { return whose_.size(); }
  size_t held() const { return held_.size(); }
  const Demand& used() const { return used_; }  // of all tasks that hold a slot
  const Budget& budget() const { return budget_; }

 private:
  struct Waiting {
    base::TaskId task;
    base::LaneId lane;
    Demand demand;
    Share queued;
  };
  struct Running {
    Demand demand;
    OwnerId owner;
    uint64_t until_ns;  // its latest end
    Share running;
  };
  using Line = std::deque<Waiting>;  // of one connection
  using Tenant = Turns<OwnerId, Line>;
  using User = Turns<AccountId, Tenant>;  // the user's own tasks count as one tenant
  using Users = Turns<AccountId, User>;
  struct Place {
    AccountId user, account;
    OwnerId owner;
  };

  // The host's boxes, and what they take.
  struct Sum {
    size_t boxes = 0;
    Demand demand;
  };
  // Of a task that waits for room: when it can start at the latest, and what is taken from then on.
  struct Reservation {
    uint64_t at_ns = 0;
    Sum taken;
  };

  bool fits(const Sum& taken, const Demand& demand) const;
  Reservation reserve(const Demand& demand, uint64_t now_ns) const;
  Line::iterator waiting(const Place& place, base::TaskId task);
  base::TaskId start(const Place& place, Line::iterator waiting, uint64_t now_ns);
  bool couldEverFit(const Demand& demand) const;
  const Line* lineOf(const Place& place) const;
  static Place placeOf(const AccountRef& account, OwnerId owner);

  Budget budget_;
  Accounts& accounts_;
  Demand used_;
  base::TaskId reserved_ = 0;                      // the waiting task with the reservation; 0: none
  Users users_;                                    // no level has empty entries
  std::unordered_map<base::TaskId, Place> whose_;  // of each waiting task
  std::unordered_map<base::TaskId, Running> held_;
};

}  // namespace mayfly::sched
