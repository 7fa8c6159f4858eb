// Builds a template's image: packages, the template's files and Mayfly's own
// programs, packed into one read-only file.
//
// The root tree that the packages give is kept in the cache directory by its hash,
// so a changed zygote program costs seconds, not a bootstrap. A template with a base,
// or with packages of pip or npm, is locked first. Nothing is done where nothing changed.
//
// Layer: image. Blocks for minutes. Needs root. Safe between processes.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "config/manifest.h"
#include "image/store.h"
#include "image/tree.h"

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

// Whether the packages are locked (lock.h), beside the manifest.
enum class Locking : uint8_t {
  asNeeded,  // where there is a lock, or the template has a base or packages of pip or npm
  always,
  frozen,  // as the lock says: one that is missing or does not fit is an error
  update,  // the newest packages that the manifest allows
};

struct BuildOptions {
  std::string state_dir = "/var/lib/mayfly";
  std::string cache_dir = "/var/cache/mayfly";
  std::vector<RuntimeFile> runtime;
  Fresh fresh = Fresh::no;  // yes: install again, whatever is cached
  Locking locking = Locking::asNeeded;
  std::function<void(std::string_view)> progress;  // one line per step; may be empty
};

struct BuildResult {
  ImageInfo image;
  bool rebuilt = false;
  bool locked_anew = false;                                        // the lock was written
  size_t debian_packages = 0, pip_packages = 0, npm_packages = 0;  // of the lock; 0 without one
};

// Where the last build of the template left its log, if it ran any command.
std::string buildLogPath(const std::string& state_dir, std::string_view template_name);

base::Result<BuildResult> buildImage(const config::Manifest& manifest, const BuildOptions& options);

// /usr/lib/mayfly/template.json of the image.
std::string templateJson(const config::Manifest& manifest);

}  // namespace mayfly::image
