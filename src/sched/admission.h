// Who gets a box next: a bounded queue and the host's budgets.
//
// Users take turns; of a user, its tenants; of a tenant, its connections; within one
// connection it is first come first served. So a user's share does not depend on how many
// tenants it names or connections it opens. Who runs as many tasks as it may is passed over.
//
// The head of the line waits until it fits: a large task is never starved by
// small ones. Tasks of a template that is not ready are passed over.
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

// What one box takes of the host.
struct Demand {
  uint64_t memory_bytes = 0;
  uint32_t fds = 0;  // of the daemon
  uint32_t pids = 0;
  uint32_t ptys = 0;  // pseudo-terminals, of one pool of the kernel's
};

struct Budget {
  uint32_t boxes_max = 64;   // with a task
  uint32_t parked_max = 0;   // without one, beside those; the pool's, not looked at here
  uint32_t stocked_max = 0;  // without a clone either, beside both
  uint32_t queue_tasks_per_owner_max = 1'000;  // of one connection
  uint64_t memory_bytes_max = 16ull << 30;
  uint32_t fds_max = 4'096;
  uint32_t pids_max = 16'384;
  uint32_t ptys_max = 1'024;
};

class Admission {
 public:
  // Counts queued and running tasks in `accounts`, whose bounds hold beside the budget's.
  Admission(const Budget& budget, Accounts& accounts) : budget_(budget), accounts_(accounts) {}

  // resourceExhausted at once where the queue is full; invalidArgument where the
  // demand can never be met.
  base::Status accepts(const AccountRef& account, OwnerId owner, const Demand& demand) const;
  base::Status enqueue(base::TaskId task, const AccountRef& account, OwnerId owner,
                       base::LaneId lane, Demand demand);
  // The next task that may have a box now; it holds a slot until release().
  std::optional<base::TaskId> next(const std::function<bool(base::LaneId)>& ready);
  void withdraw(base::TaskId task);  // leaves the queue; nothing if it is not in it
  void release(base::TaskId task);   // gives its slot back; nothing if it holds none
  // A task that holds a slot gives it back and is the next: of its connection, tenant and user,
  // and they of all. It is not refused, however full the queue is.
  void putBack(base::TaskId task, base::LaneId lane);

  std::vector<base::TaskId> queuedFor(base::LaneId lane) const;
  size_t queued() const { return whose_.size(); }
  size_t held() const { return held_.size(); }
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
    Share running;
  };
  using Line = std::deque<Waiting>;  // of one connection
  using Tenant = Turns<OwnerId, Line>;
  using User = Turns<AccountId, Tenant>;  // the user's own tasks are one of them
  using Users = Turns<AccountId, User>;
  struct Place {
    AccountId user, account;
    OwnerId owner;
  };

  bool fits(const Demand& demand) const;
  bool couldEverFit(const Demand& demand) const;
  const Line* lineOf(const Place& place) const;
  static Place placeOf(const AccountRef& account, OwnerId owner);

  Budget budget_;
  Accounts& accounts_;
  Demand used_;
  Users users_;                                    // without empty entries, on each level
  std::unordered_map<base::TaskId, Place> whose_;  // of each task that waits
  std::unordered_map<base::TaskId, Running> held_;
};

}  // namespace mayfly::sched
