// What the daemon tells whoever measures it. The core knows this interface and
// nothing of the metrics behind it.
//
// Layer: base. Called on the core thread only; an implementation must not block.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/task.h"

namespace mayfly::base {

class Observer {
 public:
  virtual ~Observer() = default;
  virtual void taskAccepted(std::string_view /*template_name*/) {}
  virtual void taskRefused(std::string_view /*template_name*/, std::string_view /*code*/) {}
  virtual void taskPhase(TaskId, Phase, uint64_t /*at_ns*/) {}
  virtual void taskEnded(std::string_view /*template_name*/, Verdict, const Usage&, const Phases&) {}
  virtual void receipt(std::string_view /*template_name*/, const Receipt&) {}
  virtual void boxesAlive(uint32_t /*count*/) {}
  virtual void queueLength(uint32_t /*count*/) {}
  virtual void templateState(std::string_view /*template_name*/, std::string_view /*state*/) {}
};

}  // namespace mayfly::base
