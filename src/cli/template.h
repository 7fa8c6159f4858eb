// mayfly template init|build|check: a template with packages of your own.
//
// Layer: cli. Prints; blocks for minutes. Single-threaded while it builds.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "config/manifest.h"

namespace mayfly::cli {

struct TemplateArgs {
  std::string verb;
  std::vector<std::string> names;          // or paths of folders
  std::string base = "python";             // init
  std::vector<std::string> template_dirs;  // empty: the current folder, then the default ones
  std::string state_dir, cache_dir, runtime_dir;
  bool update = false, frozen = false, fresh = false, json = false;
  uint32_t clones = 20;  // check
};

// Where to look up `name`: the given folders, and the name without its path.
struct Place {
  std::vector<std::string> dirs;
  std::string name;
};
Place placeOf(const TemplateArgs& args, std::string name);

// A commented manifest, ready to be built. Pure.
std::string newManifest(const std::string& name, const config::Manifest& base);

// `args` follow the word `template`. The exit code: 0, 2 for a wrong use, 1 else.
int templateMain(const std::vector<std::string>& args);

std::string executableDir();

}  // namespace mayfly::cli
