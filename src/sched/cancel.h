// How a task is cancelled.
//
// Layer: sched. Pure.
#pragma once

#include <cstdint>

namespace mayfly::sched {

// Whether the task has its grace (base::Limits::grace_ms).
enum class Cancel : uint8_t {
  soft,    // SIGTERM first; a second cancel ends the grace
  atOnce,  // nobody wants its result
};

}  // namespace mayfly::sched
