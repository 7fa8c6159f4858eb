// mayfly-snapshot: makes, lists, checks and removes the snapshots of templates whose mechanism is
// `restore`. `mayfly snapshot` executes it.
//
// Layer: builder. `mayfly snapshot --help` is its documentation.
#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/text.h"
#include "builder/build.h"
#include "config/daemon.h"
#include "config/manifest.h"
#include "snapshot/store.h"

namespace mayfly::builder {
namespace {

constexpr int kFailed = 1;

struct Arguments {
  std::string state_dir = "/var/lib/mayfly", runtime_dir;
  std::vector<std::string> template_dirs, names;
  bool json = false, again = false;
};

int say(const base::Error& error) {
  fmt::print(stderr, "mayfly: {}\n", error.message);
  if (!error.advice.empty()) fmt::print(stderr, "{}\n", error.advice);
  return kFailed;
}

std::string executableDir() {
  char self[4'096];
  const ssize_t n = ::readlink("/proc/self/exe", self, sizeof self - 1);
  std::string path(self, n > 0 ? static_cast<size_t>(n) : 0);
  return path.substr(0, path.find_last_of('/'));
}

std::vector<std::string> templateDirs(const Arguments& a) {
  return a.template_dirs.empty() ? config::defaultTemplateDirs(executableDir()) : a.template_dirs;
}

nlohmann::ordered_json jsonOf(const snapshot::Info& info) {
  return {{"template", info.template_name},
          {"key", info.key},
          {"image", info.image_digest},
          {"kernel", info.kernel},
          {"built_unix_s", info.built_unix_s},
          {"built_ms", info.built_ms},
          {"bytes", info.bytes()},
          {"files", info.files.size()},
          {"in_use", info.in_use}};
}

// The names that were given, or every template whose mechanism is `restore`.
std::vector<std::string> namesToBuild(const Arguments& a) {
  if (!a.names.empty()) return a.names;
  std::vector<std::string> names;
  for (const std::string& name : config::listTemplates(templateDirs(a)))
    if (auto manifest = config::findManifest(templateDirs(a), name);
        manifest && manifest->restores())
      names.push_back(name);
  return names;
}

int build(const Arguments& a) {
  BuildOptions options;
  options.executable_dir = a.runtime_dir.empty() ? executableDir() : a.runtime_dir;
  options.state_dir = a.state_dir;
  options.template_dirs = templateDirs(a);
  options.base_dirs = config::defaultTemplateDirs(executableDir());
  if (a.again) options.present = BuildOptions::Present::replace;
  options.progress = [](std::string_view line) { fmt::print(stderr, "{}\n", line); };
  int code = 0;
  auto all = nlohmann::ordered_json::array();
  for (const std::string& name : namesToBuild(a)) {
    auto built = builder::build(name, options);
    if (!built) {
      code = say(built.error());
      continue;
    }
    auto json = jsonOf(built->info);
    json["built"] = built->built;
    json["criu"] = built->criu;
    all.push_back(std::move(json));
    if (!a.json)
      fmt::print(
          "{}  {}  {}{}\n", name, built->info.key.substr(0, 12),
          base::humanBytes(built->info.bytes()),
          built->built ? fmt::format("  made in {} ms", built->info.built_ms) : "  is there");
  }
  if (a.json) fmt::print("{}\n", all.dump(2));
  return code;
}

// Whether this host can dump and restore: shown by doing it, with a template's image.
int trial(const Arguments& a) {
  BuildOptions options;
  options.executable_dir = a.runtime_dir.empty() ? executableDir() : a.runtime_dir;
  options.state_dir = a.state_dir;
  options.template_dirs = templateDirs(a);
  options.base_dirs = config::defaultTemplateDirs(executableDir());
  options.outcome = BuildOptions::Outcome::onlyTry;
  base::Error last{base::Code::notFound, "no template here restores", {}, 0, 0};
  for (const std::string& name : namesToBuild(a)) {
    auto tried = builder::build(name, options);
    if (tried) {
      fmt::print(
          "restore  criu {} of the image of '{}': dumped, and restored in several clones at "
          "once, in {} ms\n",
          tried->criu.empty() ? "?" : tried->criu, name, tried->info.built_ms);
      return 0;
    }
    last = std::move(tried).error();
  }
  fmt::print(
      "restore  does not work here; templates with mechanism \"restore\" are refused, all "
      "others work\n");
  return say(last);
}

int list(const Arguments& a) {
  auto all = snapshot::list(a.state_dir);
  if (!all) return say(all.error());
  if (a.json) {
    auto json = nlohmann::ordered_json::array();
    for (const auto& info : *all) json.push_back(jsonOf(info));
    fmt::print("{}\n", json.dump(2));
    return 0;
  }
  for (const auto& info : *all)
    fmt::print("{:<16} {}  {:>10}  {}{}\n",
               info.template_name.empty() ? "(damaged)" : info.template_name,
               info.key.substr(0, 12), base::humanBytes(info.bytes()), info.kernel,
               info.in_use ? "  in use" : "");
  return 0;
}

int check(const Arguments& a) {
  auto all = snapshot::list(a.state_dir);
  if (!all) return say(all.error());
  int code = 0;
  size_t checked = 0;
  for (const auto& info : *all) {
    const bool named = a.names.empty() || std::find(a.names.begin(), a.names.end(),
                                                    info.template_name) != a.names.end();
    if (!named) continue;
    ++checked;
    auto folder = snapshot::open(a.state_dir, info);
    auto sound = folder ? snapshot::verify(folder->view(), info)
                        : base::Status(base::fail(std::move(folder).error()));
    if (!sound) {
      code = say(sound.error());
    } else {
      fmt::print("{} {}: sound, {} files, {}\n", info.template_name, info.key.substr(0, 12),
                 info.files.size(), base::humanBytes(info.bytes()));
    }
  }
  if (checked == 0 && !a.names.empty())
    return say({base::Code::notFound, "there is no such snapshot",
                "`mayfly snapshot list` shows all.", 0, 0});
  return code;
}

int remove(const Arguments& a) {
  int code = 0;
  for (const std::string& name : a.names) {
    auto removed = snapshot::remove(a.state_dir, name);
    if (!removed) code = say(removed.error());
  }
  return code;
}

}  // namespace
}  // namespace mayfly::builder

int main(int argc, char** argv) {
  using namespace mayfly::builder;
  Arguments a;
  if (const char* state = ::getenv("MAYFLY_STATE_DIR"); state != nullptr && *state != '\0')
    a.state_dir = state;
  CLI::App cli{
      "mayfly snapshot: dumped zygotes, from which templates with mechanism \"restore\" "
      "make their clones"};
  cli.name("mayfly snapshot");
  cli.require_subcommand(1);
  const auto verb = [&](const char* name, const char* text) {
    CLI::App* sub = cli.add_subcommand(name, text);
    sub->add_option("--state-dir", a.state_dir, "the folder of images and snapshots")
        ->capture_default_str();
    return sub;
  };
  CLI::App* build_verb = verb("build", "make what is missing, for a template's present image");
  build_verb->add_option("TEMPLATE", a.names, "templates; without one, all that restore");
  build_verb->add_option("--templates", a.template_dirs, "folders of templates")
      ->allow_extra_args(false);
  build_verb->add_option("--runtime-dir", a.runtime_dir, "the folder of Mayfly's own programs");
  build_verb->add_flag("--again", a.again, "make it anew, even if it is there");
  build_verb->add_flag("--json", a.json, "print JSON");
  CLI::App* trial_verb = verb("trial", "dump and restore once, and keep nothing");
  trial_verb->add_option("TEMPLATE", a.names, "templates; without one, the first that works");
  trial_verb->add_option("--templates", a.template_dirs, "folders of templates")
      ->allow_extra_args(false);
  trial_verb->add_option("--runtime-dir", a.runtime_dir, "the folder of Mayfly's own programs");
  CLI::App* list_verb = verb("list", "all snapshots");
  list_verb->add_flag("--json", a.json, "print JSON");
  CLI::App* check_verb = verb("check", "compare every file with its checksum");
  check_verb->add_option("TEMPLATE", a.names, "templates; without one, all");
  CLI::App* remove_verb = verb("remove", "remove snapshots that no daemon uses");
  remove_verb->add_option("TEMPLATE|KEY", a.names, "a template, or the beginning of a key")
      ->required();
  CLI11_PARSE(cli, argc, argv);
  if (*build_verb) return build(a);
  if (*trial_verb) return trial(a);
  if (*list_verb) return list(a);
  if (*check_verb) return check(a);
  return remove(a);
}
