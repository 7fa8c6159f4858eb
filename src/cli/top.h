// mayfly top: the daemon's dashboard in a terminal.
//
// Layer: cli. One thread: the terminal, the signals and the connection take turns on it.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "cli/http_feed.h"
#include "cli/options.h"
#include "cli/top_view.h"

namespace mayfly::cli {

struct TopOptions {
  std::string address;     // empty: the settings', else MAYFLY_HTTP
  std::string config;      // mayflyd's settings
  std::string token_file;  // empty: the settings'
  bool once = false, json = false, no_color = false;
  TopState state;  // to begin with
};
std::variant<TopOptions, SayAndExit> parseTop(const std::vector<std::string>& args);

// Where the daemon answers. `from_environment`: MAYFLY_HTTP, or empty.
base::Result<HttpAddress> addressOf(const TopOptions& options, std::string_view from_environment);

// A message as a value; an error if it is none, or nested deeper than any message of ours.
base::Result<nlohmann::json> messageOf(std::string_view text);

// The exit code.
int topMain(const std::vector<std::string>& args);

}  // namespace mayfly::cli
