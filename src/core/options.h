// The settings of the core.
//
// Layer: core.
#pragma once

#include <cstdint>
#include <functional>

#include "base/fd.h"
#include "sched/accounts.h"
#include "sched/admission.h"
#include "sched/broker.h"
#include "sched/task_machine.h"

namespace mayfly::core {

// Control, stdin, stdout, stderr, and the task's memfd or spool.
inline constexpr uint32_t kFdsPerBox = 5;
inline constexpr uint32_t kDoorFdsPerBox = 2;  // beside them, if there is a broker
inline constexpr uint32_t kPidsPerBox =
    2;  // the init and the collector; the task's own processes count besides

struct EngineOptions {
  sched::Budget budget;
  sched::Bounds bounds;
  sched::AccountBounds accounts;
  uint32_t collect_ms_max = 5'000;
  uint32_t making_max = 4;                          // boxes of one template being made at a time
  uint64_t parked_memory_bytes_max = 512ull << 20;  // of all parked clones
  // Of a clone, from its making to its word that it is parked: its walls, and a rehearsal.
  uint64_t clone_ready_ns_max = 8'000'000'000;
  uint64_t spawner_ping_ns = 0;  // between two questions whether the spawner lives; 0: none
  // Whether it runs, or waits for a processor or a device: then it does not hang. Empty: never.
  std::function<bool()> spawner_busy;
  sched::Broker* broker = nullptr;  // null: none; boxes then have no doors. Outlives the engine
  uint64_t stop_tasks_ns_max = 5'000'000'000;  // for all tasks to end and be proven gone
  uint64_t stop_templates_ns_max = 3'000'000'000;
};

// What a template's clones are restored from, from now on.
struct NewSnapshot {
  base::Fd folder;
  uint64_t memory_least_bytes = 0;  // see pool::TemplateSpec
  uint32_t processes_least = 0;
};

}  // namespace mayfly::core
