// A template's manifest: templates/<name>/manifest.toml as values.
//
// Every key is documented in docs/templates.md. What the file does not say takes
// the defaults below; what it should not say is an error with file, line and key.
//
// Layer: config. Pure but for loadManifest(), which reads one file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/task.h"

namespace mayfly::config {

inline constexpr size_t kManifestBytesMax = 256u << 10;
inline constexpr size_t kZygoteArgsMax = 8;       // as the spawner's wire
inline constexpr size_t kZygoteArgBytesMax = 63;  // the same, without its NUL

enum class Mechanism : uint8_t { fork, exec };
std::string_view name(Mechanism mechanism);

struct ImageFile {
  std::string source;  // in the template's folder
  std::string target;  // absolute, in the image
};

struct ImageRecipe {
  std::string suite = "trixie";
  std::vector<std::string> packages;  // sorted, without duplicates
  std::vector<std::string> run;       // shell commands in the image's root, at build time
  std::vector<ImageFile> files;       // sorted by target
};

struct ZygoteSpec {
  std::vector<std::string> argv;  // [0] is a path in the image
  std::string trial;  // a file of the template's folder; empty: none
  std::vector<std::string> preload;
  std::vector<std::pair<std::string, std::string>> env;  // sorted by name
  uint64_t memory_bytes = 512ull << 20;
  uint64_t start_ms_max = 60'000;
};

struct Manifest {
  std::string name, description;
  Mechanism mechanism = Mechanism::fork;
  ImageRecipe image;
  ZygoteSpec zygote;
  std::vector<std::pair<std::string, std::string>> task_env;  // what its tasks find set; sorted
  uint32_t parked_min = 1, parked_max = 64;  // clones parked ahead while the template is in use
  bool loopback = true;
  std::vector<std::string> seccomp_allow;  // system calls beyond the common list
  base::Limits defaults, maximum;
  std::string folder;  // where it was loaded from; empty when parsed from text
};

bool isTemplateName(std::string_view name);  // [a-z][a-z0-9-]{0,31}

// `file` is used in messages only.
base::Result<Manifest> parseManifest(std::string_view text, std::string_view file);
// Reads <folder>/manifest.toml; the folder's name must be the template's.
base::Result<Manifest> loadManifest(const std::string& folder);
// The folder of template `name` in the first of `template_dirs` that has one.
base::Result<Manifest> findManifest(const std::vector<std::string>& template_dirs,
                                    std::string_view name);
// Names of all templates found in `template_dirs`, sorted; the first folder wins.
std::vector<std::string> listTemplates(const std::vector<std::string>& template_dirs);

}  // namespace mayfly::config
