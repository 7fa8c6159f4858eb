// mayfly task: detached tasks, by id or key.
//
// Layer: cli. Blocking.
#pragma once

#include <string>

#include "cli/options.h"

namespace mayfly::cli {

int taskMain(const std::string& socket, const TaskOptions& options);

}  // namespace mayfly::cli
