#include "base/task.h"

namespace mayfly::base {

std::string_view name(Verdict verdict) {
  constexpr std::string_view names[kVerdicts] = {
      "succeeded", "failed", "signaled",  "wallTime",   "cpuTime",        "memory",   "processes",
      "output",    "disk",   "cancelled", "clientGone", "daemonStopping", "internal", "queueTime"};
  auto i = static_cast<size_t>(verdict);
  return i < kVerdicts ? names[i] : "internal";
}

std::string_view name(Phase phase) {
  constexpr std::string_view names[kPhases] = {"queued",  "box",     "boxReady",  "clone",
                                               "claimed", "started", "firstByte", "exited",
                                               "reaped",  "receipt"};
  return names[static_cast<size_t>(phase) % kPhases];
}

}  // namespace mayfly::base
