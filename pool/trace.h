// Arrivals of tasks over time, generated, recorded or read from a file: the simulator's input.
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
inline constexpr size_t kTraceTenants_max = 1'000;
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
  uint32_t tenant_index = 0;    // into Trace::tenants, if there are any
  uint64_t cpu_ns = 0;          // of its box, on processors; 0: unknown
  uint64_t memory_bytes = 0;    // its box's peak; 0: unknown
};

struct TraceTenant {
  std::string user, tenant;  // tenant may be empty: the user itself
  bool operator==(const TraceTenant&) const = default;
};

struct Trace {
  std::string name;
  std::vector<std::string> templates;
  std::vector<Arrival> arrivals;     // by at_ns
  uint64_t end_ns = 0;               // not before the last arrival
  std::vector<TraceTenant> tenants;  // empty: one, without a name
};

struct TraceShape {
  enum class Kind : uint8_t { steady, bursty, onOff, constant };
  // How run times are spread around their mean.
  enum class Runs : uint8_t { exponential, constant, lognormal, pareto };
  Kind kind = Kind::steady;
  double time_s = 600;
  double rate_hz = 20;           // steady, constant; onOff: while on
  double every_s = 10;           // bursty: mean time between batches (exponential)
  double batch = 20;             // bursty: mean size (geometric)
  double spread_s = 0;           // bursty: a batch's tasks come within this time, evenly at random
  double on_s = 10, off_s = 50;  // onOff: mean times (exponential)
  double run_s = 1;              // mean run time of a task; none is longer than an hour
  Runs runs = Runs::exponential;
  double run_spread = 1;  // lognormal: of the logarithm; pareto: the tail's exponent, above 1
  uint64_t seed = 1;
};
base::Result<Trace> makeTrace(const TraceShape& shape);

// All arrivals of several traces in order of time; templates and tenants of one name are one. Ends
// with the last of them.
base::Result<Trace> mergeTraces(const std::vector<Trace>& traces, std::string name);

// The fields of a line, in this order.
inline constexpr std::string_view kTraceFields =
    "seconds,template,run_seconds,cpu_seconds,memory_bytes,user,tenant";

// Lines `seconds[,template[,run_seconds[,cpu_seconds[,memory_bytes[,user[,tenant]]]]]]`, in order
// of time; a field may be empty. A first line that begins with `seconds`, empty lines and lines
// that begin with # are skipped. A missing template is `default`; a missing run time is drawn as in
// makeTrace, from run_s and seed. An error names `file` and the line.
base::Result<Trace> parseTrace(std::string_view text, std::string_view file, double run_s,
                               uint64_t seed);
// The same lines, with a head; times in whole microseconds.
std::string writeTrace(const Trace& trace);

}  // namespace mayfly::pool
