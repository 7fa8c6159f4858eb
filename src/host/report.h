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

// The resources that boxes share, and how many boxes each allows.
struct HostBudget {
  uint64_t fds_hard = 0, pids_max = 0, user_namespaces_max = 0;
  uint64_t ptys_max = 0;  // the boxes' part of the kernel's pseudo-terminals; 0: none
  uint64_t memory_total_bytes = 0, memory_available_bytes = 0;
  uint32_t boxes_by_fds = 0;   // parked or running
  uint32_t boxes_by_pids = 0;  // each at the default cap on processes
  uint32_t boxes_by_namespaces = 0;
  uint32_t boxes_by_memory = 0;  // each at the default cap on memory, all of it reserved
  uint32_t boxes_by_ptys = 0;    // each with a manifest's default number
  uint32_t boxes() const;        // the smallest of them
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
void deriveBudget(HostBudget& budget, const base::Limits& per_box);

struct HostReport {
  std::vector<HostLine> lines;
  HostBudget budget;
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
