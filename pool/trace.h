// Arrivals of tasks over time, generated or read from a file: the simulator's input.
//
// Layer: pool. Pure: the text of a file and the seed are arguments.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mayfly::pool {

inline constexpr size_t kTraceArrivals_max = 2'000'000;
inline constexpr size_t kTraceTemplates_max = 63;
inline constexpr size_t kTraceText_bytes_max = 128u << 20;
inline constexpr size_t kTraceLine_bytes_max = 256;
inline constexpr double kTraceTime_s_max = 31 * 86'400.0;

// The same on every host, so that a seed determines a trace.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next();   // splitmix64
  double uniform();  // (0, 1)
  double exponential(double mean);
  double normal();  // mean 0, deviation 1

 private:
  uint64_t state_;
};

struct Arrival {
  uint64_t at_ns = 0;
  uint64_t run_ns = 0;          // the task's run time
  uint32_t template_index = 0;  // into Trace::templates
};

struct Trace {
  std::string name;
  std::vector<std::string> templates;
  std::vector<Arrival> arrivals;  // by at_ns
  uint64_t end_ns = 0;            // not before the last arrival
};

struct TraceShape {
  enum class Kind : uint8_t { steady, bursty, onOff };
  Kind kind = Kind::steady;
  double time_s = 600;
  double rate_hz = 20;           // steady; onOff: while on
  double every_s = 10;           // bursty: mean time between batches (exponential)
  double batch = 20;             // bursty: mean size (geometric)
  double spread_s = 0;           // bursty: a batch's tasks come within this time, evenly at random
  double on_s = 10, off_s = 50;  // onOff: mean times (exponential)
  double run_s = 1;              // mean run time of a task (exponential)
  uint64_t seed = 1;
};
base::Result<Trace> makeTrace(const TraceShape& shape);

// Lines `seconds[,template[,run_seconds]]`, in order of time; a first line that begins with
// `seconds`, empty lines and lines that begin with # are skipped. A missing template is `default`;
// a missing run time is drawn as in makeTrace, from run_s and seed. An error names `file` and the
// line.
base::Result<Trace> parseTrace(std::string_view text, std::string_view file, double run_s,
                               uint64_t seed);

}  // namespace mayfly::pool
