// mayfly plan: how many hosts a load needs, how large, and what binds. mayfly trace record: the
// load of a running daemon, from its log.
//
// Layer: cli. Reads and writes files; only `plan calibrate` needs a daemon.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "cli/plan_calibrate.h"

namespace mayfly::cli {

struct PlanOptions {
  std::string scenario;                         // a file; empty: the defaults
  std::string host, trace, settings;            // files; empty: those that the scenario names
  std::string svg, settings_out, arrivals_out;  // files to write; empty: none; "-": stdout
  std::optional<uint64_t> seed;
  bool json = false;
};
struct RecordOptions {
  std::string log = "-", out = "-";  // "-": standard input, standard output
  bool quiet = false;
};
struct PlanText {  // help, or the error in the use
  std::string text;
  int code = 0;
};
// `args` follow the word `plan`; `socket` is the daemon's, unless --socket names another.
std::variant<PlanOptions, CalibrateOptions, PlanText> parsePlan(
    const std::vector<std::string>& args, const std::string& socket);
// `args` follow the word `trace`.
std::variant<RecordOptions, PlanText> parseTraceVerb(const std::vector<std::string>& args);

struct Planned {
  std::string text;  // the tables, or JSON
  bool met = false;  // some number of hosts meets the goal
};
base::Result<Planned> plan(const PlanOptions& options);
base::Status record(const RecordOptions& options);

// Exit codes: 0; 2 for a wrong use; 3 if no number of hosts meets the goal; 1 else.
int planMain(const std::string& socket, const std::vector<std::string>& args);
int traceMain(const std::vector<std::string>& args);

}  // namespace mayfly::cli
