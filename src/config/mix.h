// A mix: the kinds of tasks that a load is made of, from a TOML file. docs/bench.md documents every
// key.
//
// Layer: config. Pure but for loadMix(), which reads one file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace mayfly::config {

inline constexpr size_t kMixBytesMax = 256u << 10;
inline constexpr size_t kMixTasksMax = 32;
inline constexpr size_t kMixFilesMax = 16;
inline constexpr size_t kMixInputSizesMax = 16;
inline constexpr size_t kMixTenantBytesMax = 64;            // as the daemon's bound
inline constexpr uint64_t kMixInputBytesMax = 64ull << 20;  // of one generated input

struct MixTask {
  std::string name;  // in reports
  std::string template_name = "python";
  uint32_t weight = 1;  // its share of the load is weight / sum of all weights
  // Exactly one of these three is set.
  std::string code;
  std::string script;                // a path
  std::vector<std::string> command;  // for templates of mechanism `exec`
  std::vector<std::string> args;
  std::optional<std::string> expect;  // on stdout; absent: anything
  std::string tenant;
  std::vector<std::pair<std::string, std::string>> env;
  std::vector<std::string> files;           // paths; each is /task/<its last part>
  std::vector<uint64_t> input_sizes_bytes;  // each task gets a file `input` of one of these sizes
  bool collect = false;                     // bring the files of /task/out
  std::vector<std::pair<std::string, uint64_t>> limits;  // by LimitField::key
};

struct Mix {
  std::string name;  // the file's, or a text for people
  std::vector<MixTask> tasks;
};

base::Result<Mix> parseMix(std::string_view text, std::string_view file);
// Relative paths in the file are made relative to the file's folder.
base::Result<Mix> loadMix(const std::string& path);

}  // namespace mayfly::config
