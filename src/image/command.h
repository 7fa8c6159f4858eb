// Runs one program of the host to its end, within a time bound.
//
// Layer: image. Blocks. For single-threaded callers (the command line).
#pragma once

#include <signal.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mayfly::image {

// The time of every file of an image, and SOURCE_DATE_EPOCH of all commands that make one:
// 2024-01-01 00:00:00 UTC. zip archives hold no time before 1980, in any time zone; and a task's
// files must be newer than the image's.
inline constexpr uint32_t kImageUnixSeconds = 1'704'067'200;

using LineSink = std::function<void(std::string_view)>;

struct Command {
  std::vector<std::string> argv;  // [0] is looked up in the system's own folders
  uint32_t seconds_max = 60;
  LineSink on_line;                      // each line of stdout and stderr
  std::vector<std::string> environment;  // the whole of it; empty: a fixed PATH and locale, and
                                         // the caller's proxy settings
  // Runs in the child, just before its exec, to enter a sandbox. Exits itself on failure.
  std::function<void()> enter;
  bool cleans_up = false;  // runs although a signal asks to end
};

// While it lives, Ctrl-C (SIGINT), SIGTERM and SIGHUP do not end this process. They end the running
// command and refuse later ones (Code::cancelled), so that every caller removes what it made; the
// signal takes effect when the object goes.
class Interrupts {
 public:
  Interrupts();
  Interrupts(const Interrupts&) = delete;
  ~Interrupts();

 private:
  sigset_t before_;
};
// Such a signal has come.
bool interrupted();
base::Error interruption(std::string_view what);

// stdin is empty. A non-zero exit code is an error that quotes the last lines. If this process
// dies, the program gets SIGTERM.
base::Status runCommand(const Command& command);
base::Status runCommand(const std::vector<std::string>& argv, uint32_t seconds_max,
                        const LineSink& on_line = {});
// The same, but returns at most 1 MiB of stdout and stderr.
base::Result<std::string> commandOutput(const std::vector<std::string>& argv, uint32_t seconds_max);

}  // namespace mayfly::image
