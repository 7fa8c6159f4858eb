// A template's manifest: templates/<name>/manifest.toml as values.
//
// Every key is documented in docs/templates.md. What the file does not say takes
// the defaults below, or what the template's base says; what it should not say is
// an error with file, line and key.
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
inline constexpr size_t kZygoteArgsMax = 8;  // as the spawner's wire
inline constexpr uint32_t kPtysMax = 64;
inline constexpr size_t kZygoteArgBytesMax = 63;  // the same, without its NUL

enum class Mechanism : uint8_t { fork, exec };
std::string_view name(Mechanism mechanism);

struct ImageFile {
  std::string source;       // in `folder`
  std::string target;       // absolute, in the image; of a wheel: empty
  std::string folder = {};  // of the template that brings it; empty when parsed from text
};

// In the order in which it is done: Debian's packages, early_run, pip's, npm's, run.
struct ImageRecipe {
  std::string suite = "trixie";
  std::vector<std::string> packages;   // Debian's; sorted, one per name
  std::vector<std::string> early_run;  // commands of a root template without pip and npm packages
  std::vector<std::string> pip;        // requirements for an index; sorted, one per name
  std::vector<ImageFile> wheels;       // pip's, from a template's folder
  std::vector<std::string> npm;        // sorted, one per name
  std::vector<std::string> npm_without_scripts;  // packages whose install scripts may be left out
  std::vector<std::string> run;  // shell commands in the image's root, at build time
  std::vector<ImageFile> files;  // sorted by target

  bool hasLanguagePackages() const { return !pip.empty() || !wheels.empty() || !npm.empty(); }
};

struct ZygoteSpec {
  std::vector<std::string> argv;  // [0] is a path in the image
  std::string trial;              // a file of `trial_folder`; empty: none
  bool without_trial = false;     // forked clones are served unchecked
  std::string trial_folder;       // of the template that brings it; empty when parsed from text
  std::vector<std::string> preload;
  std::vector<std::pair<std::string, std::string>> env;  // sorted by name
  // What only a new runtime takes: variables, "X*" too, and files of the task's folder.
  std::vector<std::string> fresh_env, fresh_files;
  uint64_t memory_bytes = 512ull << 20;
  uint64_t start_ms_max = 60'000;
  // A successor follows after so many clones or so long, whichever is first; 0: that does not
  // count.
  uint32_t renew_clones = 10'000;
  uint64_t renew_ms = 900'000;
  uint32_t tenants_max =
      0;  // not 0: each tenant's tasks have a zygote of their own, so many at a time
};

struct Manifest {
  // What follows of the mechanism: nothing else asks which one it is.
  bool runsCommands() const { return mechanism == Mechanism::exec; }  // tasks are command lines
  bool preloads() const { return mechanism == Mechanism::fork; }      // before a task comes

  std::string name, description;
  std::string base;  // the template that this one adds to; empty: none
  Mechanism mechanism = Mechanism::fork;
  ImageRecipe image;
  ZygoteSpec zygote;
  std::vector<std::pair<std::string, std::string>> task_env;  // what its tasks find set; sorted
  std::vector<std::string> cpus_env;         // variables that hold a task's number of processors
  uint32_t parked_min = 1, parked_max = 64;  // clones parked ahead while the template is in use
  bool loopback = true;
  uint32_t ptys = 8;  // pseudo-terminals that a task may have open at once; 0: none
  std::vector<std::string> seccomp_allow;  // system calls beyond the common list
  base::Limits defaults, maximum;
  std::string check_wait;  // a program of the runtime that reads its stdin to the end; may be empty
  std::string folder;      // where it was loaded from; empty when parsed from text
};

// All that a task of the template finds set that names nothing else, but for `cpus_env`.
std::vector<std::pair<std::string, std::string>> taskEnvironment(const Manifest& manifest);

bool isTemplateName(std::string_view name);  // [a-z][a-z0-9-]{0,31}

// The template that the manifest names as its base; empty: none.
base::Result<std::string> parseBase(std::string_view text, std::string_view file);
// `file` is used in messages only. With a base, what the text does not say is the
// base's, and what it lists is added to what the base lists.
base::Result<Manifest> parseManifest(std::string_view text, std::string_view file,
                                     const Manifest* base = nullptr);
// Template `name` of the first of `template_dirs` that has one; its folder must bear
// its name. Its base is looked for there too, and then in `base_dirs`.
base::Result<Manifest> findManifest(const std::vector<std::string>& template_dirs,
                                    std::string_view name,
                                    const std::vector<std::string>& base_dirs = {});
// Names of all templates found in `template_dirs`, sorted; the first folder wins.
std::vector<std::string> listTemplates(const std::vector<std::string>& template_dirs);

}  // namespace mayfly::config
