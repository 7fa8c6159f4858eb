// Makes a trace of the daemon's log: one line for each task's end becomes one arrival.
//
//   2026-11-30T01:14:42.123 info task id=... template=python mechanism=fork user=uid:0
//   tenant="a" verdict=succeeded queue_ms=0.031 ... run_ms=5.120 ... whole_ms=8.9 cpu_ms=4.3 ...
//
// A task arrived `whole_ms` before its line. The trace is anonymous: users become u1, u2, ...,
// tenants t1, t2, ... in the order of their first task; no id, verdict or clock time is kept.
//
// Layer: plan. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "pool/trace.h"

namespace mayfly::plan {

inline constexpr size_t kLogLine_bytes_max = 8'192;

class LogTrace {
 public:
  // A line of the log, of its journal, or of another program. invalidArgument: there are more tasks
  // or names than a trace may have.
  base::Status line(std::string_view text);
  // The arrivals in order, the first one at 0.
  base::Result<pool::Trace> finish(std::string_view name);

  uint64_t tasks() const { return tasks_.size(); }
  // Lines of tasks that could not be read, or whose tasks never had a box.
  uint64_t skipped() const { return skipped_; }
  // Lines that the journal says it dropped ("Suppressed N messages from UNIT"): it takes so many a
  // unit in a time and no more. The tasks of these are missing.
  uint64_t suppressed() const { return suppressed_; }

 private:
  struct Seen {
    int64_t at_us;
    pool::Arrival arrival;  // its tenant is an index into whose_
  };

  std::vector<Seen> tasks_;
  std::map<std::string, uint32_t, std::less<>> templates_;
  std::map<std::pair<std::string, std::string>, uint32_t> whose_;
  uint64_t skipped_ = 0, suppressed_ = 0;
};

}  // namespace mayfly::plan
