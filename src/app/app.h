// The daemon, wired: builds every part in order, runs the core thread, takes all parts down in
// reverse order.
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
  std::string executable_dir;  // the folder of mayfly-spawner
  base::FdView log;            // lines about refused system calls go there
  base::Fd ready;              // gets "ready\n" once every template is ready or has failed
  base::Fd notify;             // gets kNotifyReady then
};

// Serves until SIGTERM or SIGINT; returns 0, or the error that ended the daemon.
base::Result<int> run(AppOptions options);

}  // namespace mayfly::app
