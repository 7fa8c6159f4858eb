// mayfly run: one task, its output live, its files brought back.
//
// Layer: cli. Blocking; threads: the caller, the client's, one for signals, one
// for stdin where it is forwarded.
#pragma once

#include <string>

#include "cli/options.h"

namespace mayfly::cli {

int runTask(const std::string& socket, const RunOptions& options);

}  // namespace mayfly::cli
