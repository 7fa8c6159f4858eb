// mayfly run: one task, its output live, its files brought back.
//
// Layer: cli. Blocking. Threads: the caller, the client's, one for signals, one for stdin if it is
// forwarded.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "cli/options.h"
#include "cli/report.h"

namespace mayfly::cli {

int runTask(const std::string& socket, const RunOptions& options);

// How to report a task's end, and where to write its files.
struct Telling {
  bool json = false, quiet = false;
  base::FdView out_dir;  // empty: its files are not fetched
};
// Prints the result and returns the exit code; the task's live output is already printed, except
// with JSON.
int tellEnd(Task& task, const TaskResult& result, std::string_view out, std::string_view err,
            const Telling& how);
int sayError(const base::Error& error, bool json);
enum class Wrote : uint8_t { all, nobodyReads };
Wrote writeAll(int fd, std::string_view bytes);

}  // namespace mayfly::cli
