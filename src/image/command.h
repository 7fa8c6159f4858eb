// Runs one program of the host's to its end, within a time bound.
//
// Layer: image. Blocks. For single-threaded callers (the command line).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mayfly::image {

// The time of every file of an image, and SOURCE_DATE_EPOCH of all that is run to make
// one: 2024-01-01 00:00:00 UTC. zip archives hold no time before 1980, in any time zone;
// and a file that a task makes must be newer than the image's.
inline constexpr uint32_t kImageUnixSeconds = 1'704'067'200;

using LineSink = std::function<void(std::string_view)>;

struct Command {
  std::vector<std::string> argv;  // [0] is looked up in the system's own folders
  uint32_t seconds_max = 60;
  LineSink on_line;                      // each line of stdout and stderr
  std::vector<std::string> environment;  // all of it; empty: a fixed PATH and locale, and the
                                         // caller's proxy settings
  // In the child, just before its exec: where it runs. Exits by itself where that fails.
  std::function<void()> enter;
};

// stdin is empty. Another exit code than 0 is an error that quotes the last lines.
// If we die, it gets SIGTERM.
base::Status runCommand(const Command& command);
base::Status runCommand(const std::vector<std::string>& argv, uint32_t seconds_max,
                        const LineSink& on_line = {});
// The same, and gives its stdout and stderr, at most 1 MiB of it.
base::Result<std::string> commandOutput(const std::vector<std::string>& argv, uint32_t seconds_max);

}  // namespace mayfly::image
