// Builds a template's image: packages, the template's files and Mayfly's own programs, packed into
// one read-only file.
//
// The cache directory keeps the root tree of the packages by its hash, so a changed zygote program
// costs seconds, not a bootstrap. A template with a base, or with packages of pip or npm, is locked
// first. If nothing changed, nothing is done.
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

// Maker, exec zygote and zygote library, beside the executable.
std::vector<RuntimeFile> defaultRuntime(const std::string& executable_dir);

// Hash of the files' contents. A daemon serves only images with its own programs.
base::Result<std::string> runtimeKey(const std::vector<RuntimeFile>& runtime);

// Whether to lock the packages (lock.h), beside the manifest.
enum class Locking : uint8_t {
  asNeeded,  // if there is a lock, or the template has a base or packages of pip or npm
  always,
  frozen,  // exactly as locked: a missing lock or one that does not fit is an error
  update,  // lock the newest packages that the manifest allows
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

// The log of the template's last build, if it ran any command.
std::string buildLogPath(const std::string& state_dir, std::string_view template_name);

base::Result<BuildResult> buildImage(const config::Manifest& manifest, const BuildOptions& options);

// /usr/lib/mayfly/template.json of the image.
std::string templateJson(const config::Manifest& manifest);

}  // namespace mayfly::image
