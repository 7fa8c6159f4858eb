// What the host offers for the promises: the table of `mayfly doctor`, and the
// reasons for which the daemon refuses to start.
//
// Each line was tried where trying is harmless (in a forked child), else read.
// A child forks: call it before the process has threads.
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
  missing,   // costs the promise named in `costs`
  unknown,   // this process may not find out
};
std::string_view name(HostVerdict verdict);

struct HostLine {
  std::string group, what, value;
  HostVerdict verdict = HostVerdict::ok;
  std::string costs;  // missing: a promise as the setting accept_lost_promises names it
  std::string note;   // what follows from it, or what to do
};

// Where a controller is found.
enum class CgroupPlace : uint8_t { none, v1, v2 };
std::string_view name(CgroupPlace place);

struct CgroupLayout {
  std::string v2_path;  // empty: none is mounted
  CgroupPlace cpu{}, memory{}, pids{};
  std::string cpu_path, memory_path, pids_path;
};
// `v2_controllers` is what cgroup.controllers of the v2 root says.
CgroupLayout parseCgroupLayout(std::string_view mountinfo, std::string_view v2_controllers);

struct KernelVersion {
  unsigned major = 0, minor = 0;
  auto operator<=>(const KernelVersion&) const = default;
};
KernelVersion parseKernelVersion(std::string_view release);  // 0.0 where it is no version

// What the boxes share out, and how many of them each part allows.
struct HostBudget {
  uint64_t fds_hard = 0, pids_max = 0, user_namespaces_max = 0;
  uint64_t ptys_max =
      0;  // pseudo-terminals that the boxes may have of the kernel's one pool; 0: none
  uint64_t memory_total_bytes = 0, memory_available_bytes = 0;
  uint32_t boxes_by_fds = 0;   // parked or running
  uint32_t boxes_by_pids = 0;  // each at the default cap on processes
  uint32_t boxes_by_namespaces = 0;
  uint32_t boxes_by_memory = 0;  // each at the default cap on memory, all of it reserved
  uint32_t boxes_by_ptys = 0;    // each with as many as a manifest gives by default
  uint32_t boxes() const;        // the least of them
};
inline constexpr uint32_t kFdsReckonedPerBox =
    8;  // the busiest of our processes: the spawner holds 6 of a parked box
inline constexpr uint32_t kFdsReserved = 512;  // listeners, connections, templates
inline constexpr uint32_t kPidsReserved = 2'048;
inline constexpr uint32_t kPtysPerBox = 8;
inline constexpr uint32_t kPtyPercent = 75;  // of the pool; the rest is other containers'
// The part of the kernel's pool that is the boxes': `limit` and `reserve` are kernel.pty.max and
// .reserve, `used` is kernel.pty.nr. The reserve is the host's own: no box can touch it.
uint64_t boxesPtys(uint64_t limit, uint64_t reserve, uint64_t used);
void deriveBudget(HostBudget& budget, const base::Limits& per_box);

struct HostReport {
  std::vector<HostLine> lines;
  HostBudget budget;
  // Promises that the host cannot keep, each once, in the order of the lines.
  std::vector<std::string> lostPromises() const;
  // The lines to show when the daemon refuses to start: what costs a promise
  // that is not among `accepted`.
  std::vector<HostLine> refusals(const std::vector<std::string>& accepted) const;
};

HostReport hostReport();

// For a terminal of `width` columns (at least 40). Ends in a newline.
std::string renderTable(const HostReport& report, size_t width = 80);

}  // namespace mayfly::host
