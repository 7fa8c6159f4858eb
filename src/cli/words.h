// Says which word of a command line is wrong, and the nearest that is right.
//
// Layer: cli. Pure.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace mayfly::cli {

// The reason why `app` did not take its words. Call it after app.parse() threw `e`.
std::string whyWrong(const CLI::App& app, const CLI::ParseError& e);

}  // namespace mayfly::cli
