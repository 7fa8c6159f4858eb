// The daemon's log: stderr, one line per event, made safe to print at the edge.
//
// Layer: app. Core thread (and before it starts).
#pragma once

#include <spdlog/spdlog.h>

#include <string>

#include "base/result.h"
#include "base/text.h"

namespace mayfly::app {

inline std::string oneLine(const base::Error& error) {
  return base::printable(error.advice.empty() ? error.message : error.message + ". " + error.advice,
                         2'000);
}

}  // namespace mayfly::app
