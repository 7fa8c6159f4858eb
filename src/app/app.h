// The daemon, wired: builds every part in order, runs the core thread, takes all
// down in the reverse order.
//
// Layer: app. The core thread is the one that calls run().
#pragma once

#include <memory>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "config/daemon.h"

namespace mayfly::app {

struct AppOptions {
  config::Daemon settings;
  std::string executable_dir;  // where mayfly-spawner lies
  base::Fd ready;              // gets "ready\n" once the templates are settled
};

// Serves until SIGTERM or SIGINT; 0, or the error for which the daemon ended.
base::Result<int> run(AppOptions options);

}  // namespace mayfly::app
