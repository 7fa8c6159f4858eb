// Makes a template's snapshot: starts its zygote in a box, has it dumped, tries the dump out, and
// publishes it only then.
//
// Layer: builder. Needs root. Blocks for seconds.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "snapshot/store.h"

namespace mayfly::builder {

inline constexpr size_t kTrialClones = 4;  // restored at once

struct BuildOptions {
  std::string executable_dir;  // of the spawner and of the programs that images hold
  std::string state_dir;
  std::vector<std::string> template_dirs, base_dirs;
  enum class Present : uint8_t { keep, replace } present = Present::keep;
  enum class Outcome : uint8_t { publish, onlyTry } outcome = Outcome::publish;
  std::function<void(std::string_view)> progress;  // one line per step; may be empty
};

struct BuildResult {
  snapshot::Info info;
  bool built = false;  // false: it was there
  std::string criu;    // its version
};

base::Result<BuildResult> build(const std::string& template_name, const BuildOptions& options);

}  // namespace mayfly::builder
