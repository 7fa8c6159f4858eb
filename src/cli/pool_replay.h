// mayfly pool replay: the warm pool's sizing in simulated time, compared with other policies.
//
// Layer: cli. Reads one file; needs no daemon.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "pool/compare.h"

namespace mayfly::cli {

struct ReplayOptions {
  std::vector<pool::TraceShape> shapes;  // empty: read the file
  std::string file;                      // "-": standard input
  double run_s = 1;
  uint64_t seed = 1;
  pool::CompareOptions compare;
  double warm_up_s = 0;
  bool json = false;
};
struct ReplayText {  // help, or the error in the use
  std::string text;
  int code = 0;
};
// `args` follow the words `pool replay`.
std::variant<ReplayOptions, ReplayText> parseReplay(const std::vector<std::string>& args);

// The text of a trace's file; "-": standard input. At most kTraceText_bytes_max and a piece.
base::Result<std::string> readTrace(const std::string& path);

// The tables, or one JSON object.
base::Result<std::string> replay(const ReplayOptions& options);

// `args` follow the word `pool`. The exit code: 0, 2 for a wrong use, 1 else.
int poolMain(const std::vector<std::string>& args);

}  // namespace mayfly::cli
