// A template's costs, from tasks that ran and from the time of processors that they took.
//
// Times are of tasks that came one by one to an idle host. Work is of a host kept full of tasks:
// each took one clone, so the machine's time, divided by the tasks, is what one making and one task
// cost together; the refills of the pool after bursts tell the making's part.
//
// How late a first byte comes is a distribution: what the kernel lets run first is no constant.
//
// Layer: plan. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "config/plan_file.h"

namespace mayfly::plan {

struct TaskSample {
  base::Phases phases{};
  uint64_t cpu_ns = 0, memory_bytes = 0;
  uint64_t first_byte_ns = 0;  // from the submit, as the client sees it; 0: none came
};

// Whether the task found a parked clone.
bool foundParked(const TaskSample& sample);

// Time of processors, over an interval.
struct CpuTotals {
  uint64_t elapsed_ns = 0;
  uint64_t machine_ns = 0;  // of all programs
  uint64_t daemon_ns = 0, spawner_ns = 0, client_ns = 0;
  uint64_t boxes_ns = 0;  // of the tasks that ended, as their boxes count it
  uint64_t tasks = 0, makes = 0;
  uint64_t others_ns = 0;  // of programs that are neither the daemon's nor the client's

  CpuTotals& operator+=(const CpuTotals& o);
};

struct Measured {
  std::vector<TaskSample> quiet;  // one by one
  std::vector<TaskSample> busy;   // one by one, while other tasks keep every processor busy
  std::vector<TaskSample> burst;  // several at once: some found no clone
  CpuTotals full, refills;
  double background = 0;     // processors that other programs keep busy while nothing runs
  uint64_t clone_bytes = 0;  // 0: not seen
};

inline constexpr size_t kLateQuantiles = 21;
inline constexpr size_t kQuietLeast = 5, kMissedLeast = 3;
inline constexpr uint64_t kFullLeast = 20, kMakesLeast = 10;

// Sets mechanism-independent costs of `out`. failedPrecondition: too few tasks of a kind.
base::Status setCosts(const Measured& m, config::PlanTemplate& out);

}  // namespace mayfly::plan
