// What the core and the edge may hold and for how long, from the host's limits and the settings.
//
// Layer: app. Pure.
#pragma once

#include "base/result.h"
#include "config/daemon.h"
#include "core/options.h"
#include "host/report.h"
#include "rpc/server.h"
#include "sched/accounts.h"
#include "sched/admission.h"

namespace mayfly::app {

inline constexpr uint32_t kBlobMemoryShare = 8;      // at most 1/8 of the host's memory
inline constexpr uint32_t kOutFilesMemoryShare = 8;  // the same, for collected output files
inline constexpr uint32_t kOwnFdsLeast = 64;         // of the daemon without a client or a box

// Refuses a limit on open files that leaves no box any.
base::Status checkOpenFiles(const host::HostBudget& host, const config::Daemon& settings);
host::BoxSettings boxSettings(const config::Daemon& settings);
sched::Budget deriveBudget(const host::HostBudget& host, const config::Daemon& settings);
// The number of pseudo-terminals, at most `wished`, that a task gets so that kPtyTasksLeast tasks,
// or the largest possible number of boxes, fit at once.
uint32_t grantPtys(const sched::Budget& budget, uint32_t wished);
// The bounds on what users may hold of each resource.
sched::AccountBounds deriveAccountBounds(const host::HostBudget& host,
                                         const config::Daemon& settings);
// All that the settings say to the core, and to the edge but who may connect.
core::EngineOptions engineOptions(const host::HostBudget& host, const config::Daemon& settings);
rpc::Options edgeOptions(const config::Daemon& settings);

}  // namespace mayfly::app
