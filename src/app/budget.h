// What the core and the edge may hold and for how long, from the host's limits and the settings.
//
// Layer: app. Pure.
#pragma once

#include "base/result.h"
#include "budget/budget.h"
#include "config/daemon.h"
#include "core/options.h"
#include "host/report.h"
#include "rpc/server.h"

namespace mayfly::app {

using budget::boxSettings;
using budget::deriveAccountBounds;
using budget::deriveBudget;
using budget::grantPtys;

inline constexpr uint32_t kOwnFdsLeast = 64;  // of the daemon without a client or a box

// Refuses a limit on open files that leaves no box any.
base::Status checkOpenFiles(const host::HostBudget& host, const config::Daemon& settings);
// All that the settings say to the core, and to the edge but who may connect.
core::EngineOptions engineOptions(const host::HostBudget& host, const config::Daemon& settings);
rpc::Options edgeOptions(const config::Daemon& settings);

}  // namespace mayfly::app
