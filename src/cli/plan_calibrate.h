// mayfly plan calibrate: measures a host and its templates against a running daemon.
//
// Layer: cli. Blocking for about ten seconds a template. Runs tasks, reads /proc and the daemon's
// cgroups.
#pragma once

#include <mayfly/client.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace mayfly::cli {

struct CalibrateOptions {
  std::string socket;
  std::vector<std::string> templates;                     // empty: all that are ready
  std::vector<std::pair<std::string, std::string>> code;  // by template
  std::string out;                                        // a file; empty: standard output
  double seconds = 4;                                     // of bursts, and of the full host, each
  uint32_t tasks = 30;                                    // one by one
  bool quiet = false;
};

// The templates to measure, each with a program that prints a line; and words on those that are
// left out. A template that no option names is left out if no program for it is known; one that an
// option names is an error then.
struct Chosen {
  std::vector<std::pair<TemplateInfo, std::string>> templates;
  std::vector<std::string> remarks;
};
base::Result<Chosen> chooseTemplates(const CalibrateOptions& options,
                                     const std::vector<TemplateInfo>& all);

// The host's file, as text.
base::Result<std::string> calibrate(const CalibrateOptions& options);

}  // namespace mayfly::cli
