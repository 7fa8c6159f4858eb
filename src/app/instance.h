// What makes a daemon the only one of its name on the host: the instance's lock
// and its range of uids.
//
// Both locks are also held by the spawner: while it still ends the boxes of a
// daemon that died, nobody else gets the name or the uids.
//
// Layer: app. Called once, at start, as root.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::app {

inline constexpr uint32_t kUidSlots = 64;
inline constexpr char kSlotsDir[] = "/run/mayfly-slots";
inline constexpr uint64_t kLockWaitMsMax = 8'000;  // a dead daemon's spawner takes less

// <run_dir>/<instance>.lock, locked. Waits for the spawner of a daemon that died;
// a living one is an error at once.
base::Result<base::Fd> lockInstance(const std::string& run_dir, const std::string& instance);

struct UidSlot {
  uint32_t number = 0;
  base::Fd lock;
};
// One of 64 ranges of 64 x 65536 uids that no other daemon of the host uses.
base::Result<UidSlot> takeUidSlot(const std::string& slots_dir);

// The daemon's own uid and gid: the first of its slot's last range, in which no
// template is published.
uint32_t daemonUid(uint32_t slot);

// Makes `path` and its parents, mode 0755, or says why not.
base::Status makeFolders(const std::string& path);

}  // namespace mayfly::app
