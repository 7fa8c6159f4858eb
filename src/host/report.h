// The check of the host: which promises it can keep. It is the table of `mayfly doctor`, and gives
// the daemon's reasons to refuse a start.
//
// Harmless checks are tried for real (in a forked child), the others only read. The children are
// forked: call it before the process has threads.
//
// Layer: host. Blocking, some tens of ms. No state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/task.h"

namespace mayfly::host {

enum class HostVerdict : uint8_t {
  ok,
  degraded,  // works, with the drawback that `note` names; costs no promise
  missing,   // costs the promise in `costs`
  unknown,   // this process is not allowed to find out
};
std::string_view name(HostVerdict verdict);

struct HostLine {
  std::string group, what, value;
  HostVerdict verdict = HostVerdict::ok;
  std::string costs;  // if missing: the lost promise, named as in the setting accept_lost_promises
  std::string note;   // the consequence, or what to do
};

// The cgroup version that has a controller.
enum class CgroupPlace : uint8_t { none, v1, v2 };
std::string_view name(CgroupPlace place);

struct CgroupLayout {
  std::string v2_path;  // empty: v2 is not mounted
  CgroupPlace cpu{}, memory{}, pids{};
  std::string cpu_path, memory_path, pids_path;
};
// `v2_controllers`: the text of cgroup.controllers at the v2 root.
CgroupLayout parseCgroupLayout(std::string_view mountinfo, std::string_view v2_controllers);

struct KernelVersion {
  unsigned major = 0, minor = 0;
  auto operator<=>(const KernelVersion&) const = default;
};
KernelVersion parseKernelVersion(std::string_view release);  // 0.0 if it is not a version

// The resources that boxes share.
struct HostBudget {
  uint64_t fds_hard = 0, pids_max = 0, user_namespaces_max = 0;
  uint64_t ptys_max = 0;  // the boxes' part of the kernel's pseudo-terminals; 0: none
  uint64_t memory_total_bytes = 0, memory_available_bytes = 0;
  uint32_t boxes_by_fds = 0;  // parked or running
  uint32_t boxes_by_namespaces = 0;
};
inline constexpr uint32_t kFdsReckonedPerBox = 8;  // the spawner, our largest user, holds 6 of a
                                                   // parked box
inline constexpr uint32_t kFdsReserved = 512;      // listeners, connections, templates
inline constexpr uint32_t kPidsReserved = 2'048;
inline constexpr uint32_t kPtysPerBox = 8;
inline constexpr uint32_t kPtyPercent = 75;  // of the pool; the rest is for other containers
// The boxes' part of the kernel's pseudo-terminals: `limit` and `reserve` are kernel.pty.max and
// .reserve, `used` is kernel.pty.nr. The reserve is the host's own: no box can touch it.
uint64_t boxesPtys(uint64_t limit, uint64_t reserve, uint64_t used);
void countBoxes(HostBudget& budget);  // sets boxes_by_...

// The settings of a daemon that bound its boxes. The defaults are config::Daemon's.
struct BoxSettings {
  uint32_t boxes_max = 0, ptys_max = 0;  // 0: from the host
  uint32_t parked_max = 64, stocked_max = 16;
  uint64_t parked_memory_bytes = 512ull << 20;
  uint32_t connections_max = 256;
  bool broker = false;  // each box then has two descriptors more
};
inline constexpr uint32_t kBoxesMax = 4'096;
inline constexpr uint32_t kTaskBoxesKept = 256;  // pool and stock leave a quarter of all boxes, at
                                                 // most this many, to tasks
inline constexpr uint32_t kMemoryPercentOfHost = 90;  // the sum of all boxes' memory caps
inline constexpr uint32_t kPtyTasksLeast = 16;  // this many tasks at once get pseudo-terminals
inline constexpr uint32_t kDaemonFdsPerBox = 5, kDoorFdsPerBox = 2;
// Blobs and spools, the descriptors that clients may make a daemon hold: at most this many, and an
// eighth of all, of each.
inline constexpr uint32_t kBlobsMax = 4'096, kSpoolsMax = 4'096, kClientFdsShare = 8;

// The parts of a host that a daemon gives to boxes. The sums are hard bounds: a runaway costs one
// task and never the host.
struct Capacity {
  uint32_t boxes_max = 1;  // with a task, beside the parked and the stocked ones
  uint32_t parked_max = 0, stocked_max = 0;
  uint64_t client_fds = 0;  // descriptors that clients may make the daemon hold
  uint64_t fds_max = 0, pids_max = 0, ptys_max = 0, memory_bytes_max = 0;

  // The tasks that fit at once, each at the built-in default caps: the least of these.
  struct Part {
    std::string_view what;  // "memory"
    uint32_t tasks = 0;
  };
  std::vector<Part> parts;
  const Part& binding() const;
  uint32_t tasks() const { return binding().tasks; }
};
Capacity capacityOf(const HostBudget& host, const BoxSettings& settings);

struct HostReport {
  std::vector<HostLine> lines;
  HostBudget budget;
  Capacity capacity;  // of a daemon with default settings
  // Promises that the host cannot keep, each once, in the order of the lines.
  std::vector<std::string> lostPromises() const;
  // The lines to show when the daemon refuses to start: each costs a promise that is not among
  // `accepted`.
  std::vector<HostLine> refusals(const std::vector<std::string>& accepted) const;
};

HostReport hostReport();

// For a terminal of `width` columns (at least 40). Ends in a newline.
std::string renderTable(const HostReport& report, size_t width = 80);

}  // namespace mayfly::host
