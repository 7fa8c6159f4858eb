// mayfly bench: load, and what it shows.
//
// Layer: cli. Prints; blocks.
#pragma once

#include <string>
#include <vector>

namespace mayfly::cli {

// `args` follow the word `bench`. The exit code: see bench_options.cc.
int benchMain(const std::string& socket, const std::vector<std::string>& args);

}  // namespace mayfly::cli
