// The stamp of a report: what was measured, on which machine, and how busy that was.
//
// Layer: bench. Short blocking calls; starts git, if the program's own checkout is there.
#pragma once

#include <mayfly/client.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bench/report.h"

namespace mayfly::bench {

class Environment {
 public:
  Environment();       // before the measurement
  Json stamp() const;  // after it
  // The daemon's version and bounds, and its templates' settings. Call it once for each daemon.
  void addDaemon(const std::string& role, const ServerInfo& server,
                 const std::vector<TemplateInfo>& templates);

 private:
  Json began_;
  Json daemons_ = Json::object();
  uint64_t ticks_ = 0, stolen_ = 0;  // of /proc/stat
};

// This process's user and system time.
uint64_t ownCpu_ns();
double unixNow_s();

}  // namespace mayfly::bench
