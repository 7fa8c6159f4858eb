// Layer: cli. See template.h.
#include "cli/template.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <climits>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/text.h"
#include "cli/template_check.h"
#include "cli/words.h"
#include "config/daemon.h"
#include "image/build.h"
#include "image/lock.h"

namespace mayfly::cli {
namespace {

constexpr const char* kTemplateAbout =
    "mayfly template: your own packages in a template.\n\n"
    "  mayfly template init NAME           write a folder with a commented manifest\n"
    "  mayfly template build NAME...       lock the packages by hash, build the image (root)\n"
    "  mayfly template check NAME          start its real zygote and measure it (root)\n\n"
    "NAME is looked up in --templates, else in the current folder and the default ones;\n"
    "it may also be a folder's path. Every key of a manifest: docs/templates.md.";

// Prints the error; the reasons of apt, pip and npm take several lines.
int complain(const base::Error& error) {
  for (std::string_view text : {std::string_view(error.message), std::string_view(error.advice)}) {
    std::string_view before = text.data() == error.message.data() ? "mayfly: " : "  ";
    while (!text.empty()) {
      const size_t end = std::min(text.find('\n'), text.size());
      fmt::print(stderr, "{}{}\n", before, base::printable(text.substr(0, end), 1'000));
      text.remove_prefix(std::min(end + 1, text.size()));
      before = "  ";
    }
  }
  return 1;
}

std::string currentDir() {
  char path[PATH_MAX];
  return ::getcwd(path, sizeof path) ? path : ".";
}

std::string absolute(const std::string& path) {
  return path.empty() || path[0] == '/' ? path : currentDir() + "/" + path;
}

int init(const TemplateArgs& a) {
  const Place place = placeOf(a, a.names[0]);
  if (!config::isTemplateName(place.name)) {
    return complain({base::Code::invalidArgument,
                     fmt::format("'{}' is no template name", base::printable(place.name)),
                     "Lower-case letters, digits and '-', a letter first, at most 32.", 0, 0});
  }
  if (config::isReservedTemplateName(place.name)) {
    return complain({base::Code::invalidArgument,
                     fmt::format("the template name '{}' is reserved", place.name),
                     "Metrics call every unknown template so. Take another name.", 0, 0});
  }
  std::vector<std::string> base_dirs = place.dirs;
  for (std::string& dir : config::defaultTemplateDirs(executableDir())) base_dirs.push_back(dir);
  auto base = config::findManifest(base_dirs, a.base);
  if (!base) return complain(base.error());
  const std::string folder = place.dirs[0] + "/" + place.name, file = folder + "/manifest.toml";
  if (::mkdir(folder.c_str(), 0755) != 0) return complain(base::sysError(errno, "mkdir", folder));
  std::ofstream out(file);
  out << newManifest(place.name, *base);
  out.close();
  if (!out) return complain(base::sysError(errno, "write", file));
  fmt::print("{}\n", file);
  fmt::print(stderr,
             "Edit it, then:\n  mayfly template build {0}\n  mayfly template check {0}\n"
             "A daemon serves it when its template_dirs (or --templates) name {1}.\n",
             a.names[0].find('/') == std::string::npos ? place.name : folder, place.dirs[0]);
  return 0;
}

base::Result<image::BuildResult> buildOne(const TemplateArgs& a, const config::Manifest& manifest,
                                          image::Locking locking) {
  image::BuildOptions options;
  options.state_dir = a.state_dir;
  options.cache_dir = a.cache_dir;
  options.fresh = a.fresh ? image::Fresh::yes : image::Fresh::no;
  options.locking = locking;
  options.runtime = image::defaultRuntime(a.runtime_dir.empty() ? executableDir() : a.runtime_dir);
  const uint64_t start = base::monotonicNs();
  options.progress = [start](std::string_view line) {
    fmt::print(stderr, "[{:4.0f} s] {}\n", static_cast<double>(base::monotonicNs() - start) / 1e9,
               line);
  };
  return image::buildImage(manifest, options);
}

int build(const TemplateArgs& a) {
  const auto locking = a.frozen   ? image::Locking::frozen
                       : a.update ? image::Locking::update
                                  : image::Locking::always;
  int code = 0;
  for (const std::string& name : a.names) {
    const Place place = placeOf(a, name);
    auto manifest =
        config::findManifest(place.dirs, place.name, config::defaultTemplateDirs(executableDir()));
    auto result = manifest ? buildOne(a, *manifest, locking)
                           : base::Result<image::BuildResult>(base::fail(manifest.error()));
    if (!result) {
      code = complain(result.error());
      continue;
    }
    if (a.json) {
      nlohmann::ordered_json json;
      json["template"] = manifest->name;
      json["digest"] = result->image.digest;
      json["bytes"] = result->image.bytes;
      json["rebuilt"] = result->rebuilt;
      json["lock"] = manifest->folder + "/" + image::kLockFile;
      json["lockedAnew"] = result->locked_anew;
      json["missing"] = missingJson(result->image.missing);
      json["packages"] = {{"debian", result->debian_packages},
                          {"pip", result->pip_packages},
                          {"npm", result->npm_packages}};
      fmt::print("{}\n", json.dump());
    } else {
      fmt::print("{}  {}  {}  {}; {} packages of Debian, {} of pip, {} of npm {}\n",
                 result->image.digest.substr(0, 12), manifest->name,
                 base::humanBytes(result->image.bytes), result->rebuilt ? "built" : "unchanged",
                 result->debian_packages, result->pip_packages, result->npm_packages,
                 result->locked_anew ? "locked anew" : "as locked");
      // A build that did something said so by itself.
      for (const image::Missing& missing : result->image.missing)
        if (!result->rebuilt) fmt::print(stderr, "missing library: {}\n", missingText(missing));
    }
    ::fflush(stdout);
  }
  return code;
}

int check(const TemplateArgs& a) {
  const Place place = placeOf(a, a.names[0]);
  auto manifest =
      config::findManifest(place.dirs, place.name, config::defaultTemplateDirs(executableDir()));
  if (!manifest) return complain(manifest.error());
  auto built = buildOne(a, *manifest, image::Locking::asNeeded);
  if (!built) return complain(built.error());
  auto report = checkTemplate(*manifest, built->image, a, place.dirs);
  if (!report) return complain(report.error());
  fmt::print("{}", a.json ? checkJson(*report) : checkText(*report));
  return report->refused.empty() ? 0 : 1;
}

}  // namespace

std::string executableDir() {
  char path[PATH_MAX];
  const ssize_t n = ::readlink("/proc/self/exe", path, sizeof path);
  const std::string text(path, n > 0 ? static_cast<size_t>(n) : 0);
  return text.substr(0, text.find_last_of('/'));
}

Place placeOf(const TemplateArgs& args, std::string name) {
  while (name.size() > 1 && name.back() == '/') name.pop_back();
  if (const size_t slash = name.find_last_of('/'); slash != std::string::npos) {
    const std::string dir = absolute(name.substr(0, slash));
    return {{dir.empty() ? "/" : dir}, name.substr(slash + 1)};
  }
  Place place{{}, name};
  for (const std::string& dir : args.template_dirs) place.dirs.push_back(absolute(dir));
  if (!place.dirs.empty()) return place;
  place.dirs = config::defaultTemplateDirs(executableDir());
  place.dirs.insert(place.dirs.begin(), currentDir());
  return place;
}

std::string newManifest(const std::string& name, const config::Manifest& base) {
  const bool python =
      std::any_of(base.zygote.argv.begin(), base.zygote.argv.end(),
                  [](const std::string& word) { return word.find("python") != std::string::npos; });
  const std::string preload = python                ? "\"yaml\", \"requests.adapters\""
                              : base.name == "node" ? "\"lodash\""
                                                    : "\"List::Util\"";
  return fmt::format(
      R"toml(# A template of Mayfly. Keys that it leaves out come from its base. Every key: docs/templates.md.
name = "{0}"
description = "{1}, with packages of our own"
base = "{2}"

[image]
# Debian's packages (release {3}): names, or name=version.
packages = []

# Python's packages: as for `pip install`, or the path of a .whl file in this folder.
# Wheels only: nothing is compiled, and no package's code runs.
{4}pip = ["pyyaml", "requests>=2.31,<3"]
# Further indexes of pip, besides the machine's own; without user name and password.
# pip_extra_index = ["https://packages.example/simple"]

# Node's packages, put into /node_modules; "nodejs" must be among the Debian packages.
# npm = ["lodash@^4.17"]

# Shell commands, run as root in the image after all packages, without network.
# run = ["fc-cache -f"]

# Files of this folder: "/path/in/the/image" = "path/in/this/folder".
# [image.files]
# "/usr/local/share/{0}/data.csv" = "data.csv"
{5}
# The tasks' environment.
# [task.env]
# DATA = "/usr/local/share/{0}"

# Pseudo-terminals that a task may have open at once; 0: none.
# [terminal]
# ptys = {8}

# Caps of a task that names none, and the highest caps that it may ask for.
# [limits.default]
# memory = "{6}MiB"
# [limits.maximum]
# memory = "{7}MiB"
)toml",
      name, base.name, base.name, base.image.suite, python ? "" : "# ",
      base.preloads()
          ? fmt::format(
                "\n[zygote]\n# Loaded before a task comes, after the base's modules. A module must "
                "leave "
                "no thread, child,\n# socket or open file: `mayfly template check` names one that "
                "does.\n{}preload = [{}]\n# memory = \"512MiB\"  # cap of the "
                "zygote itself\n",
                python ? "" : "# ", preload)
          : std::string(),
      base.defaults.memory_bytes >> 20, base.maximum.memory_bytes >> 20, base.ptys);
}

int templateMain(const std::vector<std::string>& words) {
  TemplateArgs a;
  a.state_dir = config::Daemon{}.state_dir;
  if (const char* dir = ::getenv("MAYFLY_STATE_DIR")) a.state_dir = dir;
  a.cache_dir = image::BuildOptions{}.cache_dir;
  CLI::App app(kTemplateAbout, "mayfly template");
  app.require_subcommand(1);
  const auto places = [&](CLI::App* verb) {
    verb->add_option("--templates", a.template_dirs, "Folders of templates; repeatable")
        ->type_name("DIR")
        ->allow_extra_args(false);
  };
  const auto building = [&](CLI::App* verb) {
    places(verb);
    verb->add_option("--state-dir", a.state_dir, "The folder of the images (MAYFLY_STATE_DIR)")
        ->type_name("DIR")
        ->capture_default_str();
    verb->add_option("--cache-dir", a.cache_dir, "Downloads and root trees of earlier builds")
        ->type_name("DIR")
        ->capture_default_str();
    verb->add_option("--runtime-dir", a.runtime_dir, "The folder of mayfly-maker and its like")
        ->type_name("DIR");
    verb->add_flag("--json", a.json, "Print JSON");
  };
  CLI::App* init_verb = app.add_subcommand("init", "Write a folder with a commented manifest");
  init_verb->add_option("NAME", a.names, "The new template's name, or its folder's path")
      ->required()
      ->expected(1);
  init_verb->add_option("--base", a.base, "The template that it adds to")
      ->type_name("NAME")
      ->capture_default_str();
  places(init_verb);
  CLI::App* build_verb =
      app.add_subcommand("build", "Lock the packages by hash and build the image");
  build_verb->add_option("NAME", a.names, "Templates, or their folders")->required();
  auto* update =
      build_verb->add_flag("--update", a.update, "Take the newest packages, and lock those");
  build_verb->add_flag("--frozen", a.frozen, "Fail if the lock is missing or does not fit")
      ->excludes(update);
  build_verb->add_flag("--fresh", a.fresh, "Install all packages again");
  building(build_verb);
  CLI::App* check_verb =
      app.add_subcommand("check", "Build a stale image, start the real zygote, and measure it");
  check_verb->add_option("NAME", a.names, "The template, or its folder")->required()->expected(1);
  check_verb->add_option("--clones", a.clones, "Number of clones to measure")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  building(check_verb);
  check_verb->footer("Exit code: 0 if the template is fit, 1 if it is refused.");
  std::vector<std::string> reversed(words.rbegin(), words.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    const CLI::App* shown = &app;
    for (const CLI::App* sub : app.get_subcommands()) shown = sub;
    fmt::print("{}", shown->help());
    return 0;
  } catch (const CLI::ParseError& e) {
    fmt::print(stderr, "mayfly template: {}\n  `mayfly template --help` explains the usage.\n",
               whyWrong(app, e));
    return 2;
  }
  for (std::string* dir : {&a.state_dir, &a.cache_dir, &a.runtime_dir}) *dir = absolute(*dir);
  if (init_verb->parsed()) return init(a);
  return build_verb->parsed() ? build(a) : check(a);
}

}  // namespace mayfly::cli
