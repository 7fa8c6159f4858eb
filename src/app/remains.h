// The states of a daemon's processes, by /proc: who outlives it (none may get their uids, and an
// error names them), and who is busy.
//
// Layer: app. Reads /proc, some milliseconds on a full host.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mayfly::app {

struct Process {
  uint32_t pid = 0, parent = 0;
  uint32_t uids[4] = {};  // real, effective, saved, of files
  char state = '?';       // as in ps
  std::string name;
};

// All that have not ended.
std::vector<Process> livingProcesses(const std::string& proc = "/proc");
std::vector<Process> processesOfUids(uint32_t first, uint32_t count,
                                     const std::string& proc = "/proc");
std::vector<Process> childrenOf(uint32_t parent, const std::string& proc = "/proc");
// Runs, or waits for a processor or a device.
bool isBusy(uint32_t pid, const std::string& proc = "/proc");
// "process 71 (mayfly-helper, state D), process 72 (...) and 3 more"
std::string describe(const std::vector<Process>& processes);

}  // namespace mayfly::app
