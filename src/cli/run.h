// mayfly run: one task, its output live, its files brought back.
//
// Layer: cli. Blocking; threads: the caller, the client's, one for signals, one
// for stdin where it is forwarded.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "cli/options.h"
#include "cli/report.h"

namespace mayfly::cli {

int runTask(const std::string& socket, const RunOptions& options);

// How a task's end is told, and where its files go.
struct Telling {
  bool json = false, quiet = false;
  base::FdView out_dir;  // empty: its files stay where they are
};
// What it printed is told before, unless by JSON. The exit code.
int tellEnd(Task& task, const TaskResult& result, std::string_view out, std::string_view err,
            const Telling& how);
int sayError(const base::Error& error, bool json);
enum class Wrote : uint8_t { all, nobodyReads };
Wrote writeAll(int fd, std::string_view bytes);

}  // namespace mayfly::cli
