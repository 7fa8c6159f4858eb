// Makes a daemon the only one of its name on the host: the instance's lock and its range of uids.
//
// The spawner holds both locks, too: while it still ends the boxes of a dead daemon, no other
// daemon gets the name or the uids.
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
inline constexpr uint64_t kLockWaitMsMax = 8'000;  // longer than a dead daemon's spawner takes

// <run_dir>/<instance>.lock, locked. Waits for the spawner of a dead daemon; if a living daemon
// holds the lock, fails at once.
base::Result<base::Fd> lockInstance(const std::string& run_dir, const std::string& instance);

struct UidSlot {
  uint32_t number = 0;
  base::Fd lock;
};
// One of 64 ranges of 64 x 65536 uids; no other daemon of the host uses it, and no process has one
// of its uids (`proc` names them): what an earlier daemon could not end keeps its uid to itself.
base::Result<UidSlot> takeUidSlot(const std::string& slots_dir, const std::string& proc = "/proc");

// The daemon's own uid and gid: the first of its slot's last range, which no template gets.
uint32_t daemonUid(uint32_t slot);

// The ids of the broker's processes, each its own, in the same range.
struct BrokerUids {
  uint32_t front = 0, vault = 0;
  uint32_t commands = 0;  // that print secrets
};
BrokerUids brokerUids(uint32_t slot);

// Makes `path` and its parents, mode 0755.
base::Status makeFolders(const std::string& path);

}  // namespace mayfly::app
