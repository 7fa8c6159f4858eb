// The simulator's queue for the planner: the daemon's sched::Admission and sched::Accounts, with
// the budget that a daemon takes of the host. It also notes which bound is full while tasks wait.
//
// Layer: plan. Pure: time is an argument.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "pool/sim.h"
#include "sched/accounts.h"
#include "sched/admission.h"

namespace mayfly::plan {

// The bounds on admitted tasks.
enum class Bound : uint8_t { boxes, memory, descriptors, processes, terminals, share };
inline constexpr size_t kBounds = 6;
std::string_view name(Bound bound);  // "memory (the sum of the tasks' caps)"

// Of one bound, over the counted time.
struct Use {
  double mean = 0, most = 0, of = 0;  // `of` is 0 for a share: it differs for each user
  double full_share = 0;              // of the time: tasks waited because of it
};

class HostAdmission final : public pool::SimQueue {
 public:
  // `demands`: one for each template of the trace, whose tenants are `tenants`.
  HostAdmission(const sched::Budget& budget, const sched::AccountBounds& bounds,
                std::vector<sched::Demand> demands, std::vector<pool::TraceTenant> tenants,
                uint64_t count_from_ns, uint64_t count_to_ns);

  bool enqueue(base::TaskId task, const pool::Arrival& arrival, uint64_t now_ns) override;
  std::optional<base::TaskId> next(uint64_t now_ns) override;
  void release(base::TaskId task, uint64_t now_ns) override;

  std::array<Use, kBounds> uses() const;  // call once the simulation is over
  uint32_t ownersMade() const { return static_cast<uint32_t>(tenants_.size()); }

 private:
  std::array<double, kBounds> used() const;
  std::optional<Bound> full() const;
  void pass(uint64_t now_ns);

  sched::Budget budget_;
  sched::Accounts accounts_;
  sched::Admission admission_;  // after accounts_: its shares end first
  std::vector<sched::Demand> demands_;
  std::vector<pool::TraceTenant> tenants_;
  sched::Demand least_;                // of each resource, the least that any template takes
  sched::Demand used_;                 // of the admitted tasks
  std::vector<uint32_t> template_of_;  // by task
  uint64_t count_from_ns_, count_to_ns_, passed_ns_ = 0;
  std::optional<Bound> full_;
  std::array<Use, kBounds> uses_;
};

}  // namespace mayfly::plan
