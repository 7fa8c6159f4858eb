// Builds a template's image: Debian packages, the template's files and Mayfly's
// own programs, packed into one read-only file.
//
// The root tree that the recipe gives is kept in the cache directory by the
// recipe's hash, so a changed zygote program costs seconds, not a bootstrap.
// Nothing is done where nothing changed.
//
// Layer: image. Blocks for minutes. Needs root. Safe between processes.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "config/manifest.h"
#include "image/store.h"

namespace mayfly::image {

struct RuntimeFile {
  std::string source;  // on the host
  std::string target;  // absolute, in the image
  unsigned mode = 0755;
};

// maker, exec zygote and zygote library as they lie beside the executable.
std::vector<RuntimeFile> defaultRuntime(const std::string& executable_dir);

// Hash of what they hold. A daemon serves only images that hold its own programs.
base::Result<std::string> runtimeKey(const std::vector<RuntimeFile>& runtime);

enum class Fresh : uint8_t { no, yes };  // yes: bootstrap again, whatever is cached

struct BuildOptions {
  std::string state_dir = "/var/lib/mayfly";
  std::string cache_dir = "/var/cache/mayfly";
  std::vector<RuntimeFile> runtime;
  Fresh fresh = Fresh::no;
  std::function<void(std::string_view)> progress;  // one line per step; may be empty
};

struct BuildResult {
  ImageInfo image;
  bool rebuilt = false;
};

base::Result<BuildResult> buildImage(const config::Manifest& manifest, const BuildOptions& options);

// /usr/lib/mayfly/template.json of the image.
std::string templateJson(const config::Manifest& manifest);

}  // namespace mayfly::image
