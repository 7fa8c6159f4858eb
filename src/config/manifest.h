// A template's manifest: templates/<name>/manifest.toml as values.
//
// docs/templates.md documents every key. Keys that the file leaves out take the defaults below, or
// the values of the template's base; unknown keys are errors with file, line and key.
//
// Layer: config. Pure but for findManifest() and listTemplates(), which read files.
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
inline constexpr size_t kZygoteArgsMax = 8;  // the limit of the wire to the spawner
inline constexpr uint32_t kPtysMax = 64;
inline constexpr size_t kZygoteArgBytesMax = 63;  // the same, without the NUL

enum class Mechanism : uint8_t { fork, restore, exec };
std::string_view name(Mechanism mechanism);

struct ImageFile {
  std::string source;       // in `folder`
  std::string target;       // absolute, in the image; empty for a wheel
  std::string folder = {};  // of the template that brings it; empty when parsed from text
};

// In build order: Debian's packages, early_run, pip's, npm's, run.
struct ImageRecipe {
  std::string suite = "trixie";
  std::vector<std::string> packages;   // Debian's; sorted, one per name
  std::vector<std::string> early_run;  // commands of a root template without pip and npm packages
  std::vector<std::string> pip;        // requirements for an index; sorted, one per name
  std::vector<ImageFile> wheels;       // pip's, from a template's folder
  // Where pip looks besides the machine's own configuration: instead of its index, if not empty;
  // after its further indexes.
  std::string pip_index;
  std::vector<std::string> pip_extra_index;
  std::vector<std::string> npm;                  // sorted, one per name
  std::vector<std::string> npm_without_scripts;  // packages that work without their install scripts
  std::vector<std::string> run;  // shell commands in the image's root, at build time
  std::vector<ImageFile> files;  // sorted by target

  bool hasLanguagePackages() const { return !pip.empty() || !wheels.empty() || !npm.empty(); }
};

struct ZygoteSpec {
  std::vector<std::string> argv;  // [0] is a path in the image
  std::string trial;              // a file in `trial_folder`; empty: none
  bool without_trial = false;     // forked or restored clones are served without a trial
  std::string trial_folder;  // of the template that brings the trial; empty when parsed from text
  std::vector<std::string> preload;
  std::vector<std::pair<std::string, std::string>> env;  // sorted by name
  // Things that only a new runtime reads: variables, "X*" too, and files of the task's folder.
  std::vector<std::string> fresh_env, fresh_files;
  uint64_t memory_bytes = 512ull << 20;
  uint64_t start_ms_max = 60'000;
  // A successor replaces the zygote after this many clones or this time, whichever is first; 0: no
  // limit.
  uint32_t renew_clones = 10'000;
  uint64_t renew_ms = 900'000;
  uint32_t tenants_max =
      0;  // not 0: each tenant has a zygote of its own, at most this many at once
};

struct Manifest {
  // Consequences of the mechanism: no other code asks which one it is.
  bool runsCommands() const { return mechanism == Mechanism::exec; }  // tasks are command lines
  bool preloads() const { return !runsCommands(); }  // the zygote loads modules before a task comes
  bool restores() const { return mechanism == Mechanism::restore; }  // clones come from a snapshot

  std::string name, description;
  std::string base;  // the base template; empty: none
  Mechanism mechanism = Mechanism::fork;
  ImageRecipe image;
  ZygoteSpec zygote;
  std::vector<std::pair<std::string, std::string>> task_env;  // the tasks' environment; sorted
  std::vector<std::string> cpus_env;  // variables set to a task's number of processors
  bool runs_modules = false;  // tasks may name a module, an archive or a folder, as after python3
  uint32_t parked_min = 1, parked_max = 64;  // clones parked ahead while the template is in use
  bool loopback = true;
  uint32_t ptys = 8;  // pseudo-terminals that a task may have open at once; 0: none
  std::vector<std::string> seccomp_allow;  // system calls beyond the common list
  base::Limits defaults, maximum;
  std::string
      check_wait;  // a program that reads its stdin to the end, for `template check`; may be empty
  std::string folder;  // the manifest's folder; empty when parsed from text
};

// The environment of a task that names no variables itself, without `cpus_env`.
std::vector<std::pair<std::string, std::string>> taskEnvironment(const Manifest& manifest);

bool isTemplateName(std::string_view name);  // [a-z][a-z0-9-]{0,31}
// No template may have the name: metrics call every name that no template has "other".
bool isReservedTemplateName(std::string_view name);

// The name of the manifest's base; empty: none.
base::Result<std::string> parseBase(std::string_view text, std::string_view file);
// `file` is used in messages only. With a base, missing keys take the base's values, and lists are
// added to the base's lists.
base::Result<Manifest> parseManifest(std::string_view text, std::string_view file,
                                     const Manifest* base = nullptr);
// Finds template `name` in the first of `template_dirs` that has it; its folder must have the same
// name. Its base is looked up there, too, then in `base_dirs`.
base::Result<Manifest> findManifest(const std::vector<std::string>& template_dirs,
                                    std::string_view name,
                                    const std::vector<std::string>& base_dirs = {});
// Names of all templates found in `template_dirs`, sorted; the first folder wins.
std::vector<std::string> listTemplates(const std::vector<std::string>& template_dirs);

}  // namespace mayfly::config
