// mayfly template check: starts a template's real zygote, in a daemon of its own that serves
// nothing else, and measures it.
//
// Layer: cli. Needs root. Blocks.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "cli/template.h"
#include "config/manifest.h"
#include "image/store.h"

namespace mayfly::cli {

// "preloaded 3 in 41.5 ms; json 20.1 ms, re 9.0 ms", the line of the zygote library.
struct PreloadReport {
  uint32_t count = 0;
  double ms = 0;
  std::vector<std::pair<std::string, double>> longest;
};
std::optional<PreloadReport> parsePreloads(std::string_view daemon_log,
                                           std::string_view template_name);
// The last lines that the zygote wrote, from its last trace on, without its report of preloads.
std::vector<std::string> zygoteWords(std::string_view daemon_log, std::string_view template_name);
// The last lines of a text, without empty ones, safe to print.
std::vector<std::string> lastLines(std::string_view text);
// Private pages in the text of a /proc/PID/smaps_rollup, in bytes.
std::optional<uint64_t> uniqueBytes(std::string_view smaps_rollup);

struct CheckReport {
  std::string name;
  image::ImageInfo image;
  std::string
      refused;  // why the zygote does not serve, or its tasks fail; empty: the template is fit
  std::vector<std::string> said;  // the zygote's or the task's last lines, if it is refused
  std::optional<PreloadReport> preload;
  std::vector<uint64_t>
      clone_ns;  // sorted; each from the request of a box to its clone behind all walls
  std::optional<uint64_t> unique_bytes;
  std::string no_memory_text;  // why unique_bytes is unknown
};

base::Result<CheckReport> checkTemplate(const config::Manifest& manifest,
                                        const image::ImageInfo& image, const TemplateArgs& args,
                                        const std::vector<std::string>& template_dirs);
std::string checkText(const CheckReport& report);
std::string checkJson(const CheckReport& report);
nlohmann::ordered_json missingJson(const std::vector<image::Missing>& missing);

}  // namespace mayfly::cli
