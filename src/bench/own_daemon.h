// A daemon of our own, from a run folder of its own, for a measurement that needs other settings
// than the operator's daemon has.
//
// Layer: bench. Needs root. Blocks.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace mayfly::bench {

struct OwnDaemonOptions {
  std::string program;   // mayflyd's path
  std::string purpose;   // in the names of its instance and folder
  std::string settings;  // TOML
  std::vector<std::string> templates;
  std::vector<std::string> template_dirs;  // empty: its own
  std::string state_dir;
  uint64_t start_ms_max = 60'000;
  std::string hopeless;  // once its log has this text, start() waits no longer; empty: none
};

class OwnDaemon {
 public:
  OwnDaemon() = default;
  OwnDaemon(const OwnDaemon&) = delete;
  ~OwnDaemon();  // stops it; removes its folders

  // Returns when it serves, or its log is `hopeless`.
  base::Status start(const OwnDaemonOptions& options);
  std::string socket() const { return folder_ + "/mayfly.sock"; }
  std::string log() const;
  // The end of its log, for an error.
  std::string lastWords() const;

 private:
  void stop();

  std::string folder_, state_folder_;
  pid_t pid_ = -1;
};

}  // namespace mayfly::bench
