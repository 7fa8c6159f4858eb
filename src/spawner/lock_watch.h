// Record locks (fcntl, lockf) are in no cap, and no limit counts them: 230 MiB of the kernel's
// memory a second, in a box that makes nothing else.
//
// The list of all locks costs whoever takes one while it is read. So it is read only where the
// kernel's own memory has grown, by a child, and not to its end.
//
// Layer: spawner. One small read each 100 ms while a task runs, some 20 us.
#pragma once

#include <stdint.h>

#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "base/task.h"
#include "spawner/poller.h"

namespace mayfly::spawner {

inline constexpr uint32_t kLocksMax = 4'096;              // of a box
inline constexpr uint64_t kGrownBytes = 32 << 20;         // of the kernel's memory, to look at all
inline constexpr size_t kLocksTextBytesMax = 1 << 20;     // some 20,000 lines are looked at
inline constexpr uint32_t kLocksOfTheLargestMin = 1'024;  // where there are more

// Pids by the number of their locks, in lines of /proc/locks.
std::unordered_map<uint32_t, uint32_t> locksByPid(const std::string& text);
// The box of a process, in what /proc/PID/cgroup says; 0: none of the instance's.
base::BoxId boxOf(const std::string& cgroup, const std::string& instance);
// Which boxes have too many. `cut`: there are more locks than were looked at.
std::vector<base::BoxId> tooMany(const std::unordered_map<base::BoxId, uint32_t>& by_box, bool cut);

class LockWatch {
 public:
  using Told = std::function<void(base::BoxId)>;
  LockWatch(Poller& poller, std::string instance, Told told)
      : poller_(poller), instance_(std::move(instance)), told_(std::move(told)) {}

  uint64_t nextTimer(bool tasks_run) const { return tasks_run ? next_ns_ : UINT64_MAX; }
  void runTimer(bool tasks_run);
  void onEvent();  // the child ended
  bool owns(const std::function<bool(const base::Fd&)>& is) const { return is(child_); }

 private:
  void look();

  Poller& poller_;
  std::string instance_;
  Told told_;
  uint64_t next_ns_ = 0;
  uint64_t least_bytes_ = UINT64_MAX;  // of the kernel's memory, since the last look
  base::Fd child_, said_;
};

}  // namespace mayfly::spawner
