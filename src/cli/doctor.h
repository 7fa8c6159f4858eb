// `mayfly doctor`: what the host offers, whether clones can be restored on it, and what is missing.
//
// Layer: cli. Blocking: the trial of a restore takes seconds.
#pragma once

#include <string_view>
#include <vector>

#include "cli/options.h"
#include "host/report.h"

namespace mayfly::cli {

// The rows about restored clones, from what `mayfly-snapshot trial --json` printed: its last line
// that is JSON. They cost no promise: without a restore, templates that restore are refused.
std::vector<host::HostLine> restoreLines(std::string_view printed);

int doctorMain(const DoctorOptions& options);

}  // namespace mayfly::cli
