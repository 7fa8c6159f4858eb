// Finds the boxes that hold too many record locks (fcntl, lockf), which no cap and no other limit
// counts. A box that makes only locks takes 230 MiB of the kernel's memory a second.
//
// Reading the list of all locks delays every process that takes a lock meanwhile. So the list is
// read only after the kernel's own memory has grown, by a child, and not to its end.
//
// Layer: spawner. While a task runs, one small read each 100 ms, some 20 us.
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
inline constexpr uint64_t kGrownBytes = 32 << 20;         // growth of the kernel's memory
inline constexpr size_t kLocksTextBytesMax = 1 << 20;     // some 20,000 lines are read
inline constexpr uint32_t kLocksOfTheLargestMin = 1'024;  // of the largest box, if the list is cut

// The number of locks by pid, from lines of /proc/locks.
std::unordered_map<uint32_t, uint32_t> locksByPid(const std::string& text);
// The box of a process, from its /proc/PID/cgroup; 0: no box of the instance.
base::BoxId boxOf(const std::string& cgroup, const std::string& instance);
// The boxes that have too many locks. `cut`: there are more locks than were read.
std::vector<base::BoxId> tooMany(const std::unordered_map<base::BoxId, uint32_t>& by_box, bool cut);

class LockWatch {
 public:
  using Told = std::function<void(base::BoxId)>;  // called with each box that tooMany() finds
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
