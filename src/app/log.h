// The daemon's log: stderr, one line per event, made safe to print at the edge.
//
// Layer: app. Core thread (and before it starts).
#pragma once

#include <spdlog/spdlog.h>

#include <string>

#include "base/observer.h"
#include "base/result.h"
#include "base/text.h"

namespace mayfly::app {

inline std::string oneLine(const base::Error& error) {
  return base::printable(error.advice.empty() ? error.message : error.message + ". " + error.advice,
                         2'000);
}

// Says at level debug how each task ended: what the clients of others, and those
// that went away, can't be asked.
class LogObserver : public base::Observer {
 public:
  void taskEnded(std::string_view template_name, base::Verdict verdict, const base::Usage& usage,
                 const base::Phases&) override {
    spdlog::debug("a task of template '{}' ended: {}, {} after its start", template_name,
                  base::name(verdict), base::humanNanos(usage.wall_ns));
  }
};

}  // namespace mayfly::app
