// The command lines of `mayfly bench`, as values.
//
// Layer: cli. Reads the files that the words name: mixes and traces.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "bench/diff.h"
#include "bench/isolation.h"
#include "bench/ladder.h"
#include "bench/run.h"
#include "bench/sweep.h"

namespace mayfly::cli {

struct DiffVerb {
  std::string a, b;  // files
  bench::DiffOptions options;
};
struct BenchText {  // help, or the error in the use
  std::string text;
  int code = 0;
};
// Where the report goes.
struct BenchOutput {
  std::string folder;  // empty: nowhere
  bool json = false, quiet = false;
};
struct BenchCommand {
  std::variant<BenchText, bench::RunVerb, bench::SweepVerb, bench::LadderVerb, bench::IsolationVerb,
               DiffVerb>
      verb;
  BenchOutput output;
};

// `args` follow the word `bench`.
BenchCommand parseBench(const std::vector<std::string>& args, const std::string& socket);

}  // namespace mayfly::cli
