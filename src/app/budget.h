// How many boxes at once: from the host's limits and the settings.
//
// Layer: app. Pure.
#pragma once

#include "host/report.h"
#include "config/daemon.h"
#include "rpc/blob_store.h"
#include "sched/admission.h"

namespace mayfly::app {

inline constexpr uint32_t kBoxesMax = 4'096;
inline constexpr uint32_t kTaskBoxesKept =
    256;  // a quarter of all boxes, and at most so many, never stand ahead
inline constexpr uint32_t kMemoryPercentOfHost = 90;  // the sum of all boxes' memory caps
inline constexpr uint32_t kBlobMemoryShare = 8;       // at most one of so many parts of the host's
inline constexpr uint32_t kOutFilesMemoryShare = 8;   // the same, of collected output files
inline constexpr uint32_t kPtyTasksLeast = 16;        // so many at once have pseudo-terminals
inline constexpr uint32_t kBlobFdsShare = 8;          // the same, of our descriptors

// The sums are hard: a runaway costs one task and never the host.
sched::Budget deriveBudget(const host::HostBudget& host, const config::Daemon& settings);
// How many pseudo-terminals a task gets of the `wished` ones, so that kPtyTasksLeast, or as many as
// there can be boxes, fit at once.
uint32_t grantPtys(const sched::Budget& budget, uint32_t wished);
// What collected output files may take of the host.
uint64_t deriveOutFilesHeld(const host::HostBudget& host, const config::Daemon& settings);
// What the blobs may take of the host.
rpc::BlobBounds deriveBlobBounds(const host::HostBudget& host, const config::Daemon& settings);

}  // namespace mayfly::app
