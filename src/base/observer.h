// What the daemon tells whoever measures it. The core knows this interface and
// nothing of the metrics behind it.
//
// Layer: base. Called on the core thread only; an implementation must not block.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/task.h"

namespace mayfly::base {

// Of one template: its clones and boxes that have no task yet.
struct PoolState {
  uint32_t parked = 0, parked_target = 0;    // clones that wait for a task
  uint32_t stocked = 0, stocked_target = 0;  // boxes whose walls wait for a clone
  uint32_t making = 0;                       // clones
  uint32_t waiting = 0;                      // tasks without a clone
  uint32_t zygotes = 0;           // alive: those that serve, start, and whose last boxes end
  uint32_t renewals = 0;          // zygotes replaced by a successor
  uint64_t hits = 0, misses = 0;  // tasks that found a clone parked, and that did not
};

class Observer {
 public:
  virtual ~Observer() = default;
  virtual void taskAccepted(std::string_view /*template_name*/) {}
  virtual void taskRefused(std::string_view /*template_name*/, std::string_view /*code*/) {}
  virtual void taskPhase(TaskId, Phase, uint64_t /*at_ns*/) {}
  virtual void taskEnded(std::string_view /*template_name*/, Verdict, const Usage&, const Phases&) {
  }
  virtual void receipt(std::string_view /*template_name*/, const Receipt&) {}
  virtual void boxesAlive(uint32_t /*count*/) {}
  virtual void queueLength(uint32_t /*count*/) {}
  // At most once for all that happened at one time.
  virtual void poolState(std::string_view /*template_name*/, const PoolState&) {}
  // From the asking to the clone's word that it is ready: a clone of no stocked box.
  virtual void cloneMade(std::string_view /*template_name*/, uint64_t /*make_ns*/) {}
  virtual void templateState(std::string_view /*template_name*/, std::string_view /*state*/) {}
};

}  // namespace mayfly::base
