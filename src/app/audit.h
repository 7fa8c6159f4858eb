// The audit: does the host show the boxes that the ledger knows, and no other?
//
// The cgroups of an instance carry the boxes' numbers; anybody may list them.
//
// Layer: app. Core thread; a short read of a virtual file system.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/task.h"

namespace mayfly::app {

inline constexpr uint64_t kAuditPeriodMs = 30'000;
inline constexpr size_t kAuditEntriesMax = 100'000;

// Where the instance's v2 cgroup lies, by /proc/self/mountinfo.
base::Result<std::string> instanceCgroup(const std::string& instance);
// The numbers of the boxes that have a cgroup below it: <template>/b<number>.
std::vector<base::BoxId> boxesOnHost(const std::string& instance_cgroup);

}  // namespace mayfly::app
