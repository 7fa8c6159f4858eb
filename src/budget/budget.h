// How much of a host a daemon gives to boxes and to its users, from the host's limits and the
// settings: for the daemon itself, and for those that predict it.
//
// Layer: budget. Pure.
#pragma once

#include <cstdint>

#include "config/daemon.h"
#include "host/report.h"
#include "sched/accounts.h"
#include "sched/admission.h"

namespace mayfly::budget {

inline constexpr uint32_t kBlobMemoryShare = 8;      // at most 1/8 of the host's memory
inline constexpr uint32_t kOutFilesMemoryShare = 8;  // the same, for collected output files
inline constexpr uint32_t kPidsPerBox = 2;           // beside the task's own processes

host::BoxSettings boxSettings(const config::Daemon& settings);
sched::Budget deriveBudget(const host::HostBudget& host, const config::Daemon& settings);
// The number of pseudo-terminals, at most `wished`, that a task gets so that kPtyTasksLeast tasks,
// or the largest possible number of boxes, fit at once.
uint32_t grantPtys(const sched::Budget& budget, uint32_t wished);
// The bounds on what users may hold of each resource.
sched::AccountBounds deriveAccountBounds(const host::HostBudget& host,
                                         const config::Daemon& settings);

}  // namespace mayfly::budget
