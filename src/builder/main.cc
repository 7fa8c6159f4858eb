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
#include "builder/refresh.h"
#include "config/daemon.h"
#include "config/manifest.h"
#include "config/units.h"
#include "image/store.h"
#include "snapshot/store.h"

namespace mayfly::builder {
namespace {

constexpr int kFailed = 1;

struct Arguments {
  std::string state_dir = "/var/lib/mayfly", run_dir = "/run/mayfly", runtime_dir;
  std::string drain_time = "60s", config;
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
          {"memory_least_bytes", info.memoryLeast()},
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

BuildOptions buildOptions(const Arguments& a) {
  BuildOptions options;
  options.executable_dir = a.runtime_dir.empty() ? executableDir() : a.runtime_dir;
  options.state_dir = a.state_dir;
  options.template_dirs = templateDirs(a);
  options.base_dirs = config::defaultTemplateDirs(executableDir());
  options.progress = [](std::string_view line) { fmt::print(stderr, "{}\n", line); };
  return options;
}

int build(const Arguments& a) {
  BuildOptions options = buildOptions(a);
  if (a.again) options.present = BuildOptions::Present::replace;
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

// Whether this host can dump and restore: shown by doing it, with a template's image. `state` names
// what was missing before anything could be tried.
struct Tried {
  std::string name, state;
  base::Result<BuildResult> result =
      base::fail(base::Code::notFound, "no template here has mechanism \"restore\"");
};

Tried tryTemplates(const Arguments& a) {
  BuildOptions options = buildOptions(a);
  options.progress = {};
  options.outcome = BuildOptions::Outcome::onlyTry;
  Tried worst;
  worst.state = "no template";
  for (const std::string& name : namesToBuild(a)) {
    Tried one;
    one.name = name;
    one.result = builder::build(name, options);
    if (one.result) return one;
    const bool no_image = one.result.error().code == base::Code::notFound;
    one.state = no_image ? "no image" : "failed";
    // A dump that failed says more than an image that is not there.
    if (!no_image || worst.state == "no template") worst = std::move(one);
  }
  return worst;
}

int trialJson(const Tried& tried) {
  nlohmann::ordered_json json{
      {"works", tried.result.has_value()}, {"template", tried.name}, {"state", tried.state}};
  if (tried.result) {
    json["criu"] = tried.result->criu;
    json["path"] = snapshot::kCriuPath;
    json["clones"] = kTrialClones;
    json["ms"] = tried.result->info.built_ms;
  } else {
    json["why"] = tried.result.error().message;
    json["advice"] = tried.result.error().advice;
  }
  fmt::print("{}\n", json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  return 0;
}

int trial(const Arguments& a) {
  const Tried tried = tryTemplates(a);
  if (a.json) return trialJson(tried);
  if (tried.result) {
    fmt::print(
        "restore  criu {} ({}) of the image of '{}': dumped, and restored in {} clones at once, in "
        "{} ms\n",
        tried.result->criu.empty() ? "?" : tried.result->criu, snapshot::kCriuPath, tried.name,
        kTrialClones, tried.result->info.built_ms);
    return 0;
  }
  fmt::print(
      "restore  does not work here; templates with mechanism \"restore\" are refused, all "
      "others work\n");
  return say(tried.result.error());
}

// One line for a daemon. False: it goes on with the old snapshot.
bool tellDaemon(const std::string& name, const Daemon& daemon, nlohmann::ordered_json* json) {
  const bool elsewhere = !daemon.outcome && daemon.outcome.error().code == base::Code::notFound;
  const std::string why = daemon.outcome ? std::string() : daemon.outcome.error().message;
  json->push_back(
      {{"instance", daemon.instance}, {"serves", daemon.outcome.has_value()}, {"why", why}});
  if (elsewhere) return true;
  if (daemon.outcome) {
    fmt::print(stderr, "{}: instance '{}' makes its clones from it\n", name, daemon.instance);
    return true;
  }
  fmt::print(stderr, "mayfly: instance '{}' does not serve the new snapshot of '{}': {}\n",
             daemon.instance, name, why);
  if (!daemon.outcome.error().advice.empty())
    fmt::print(stderr, "{}\n", daemon.outcome.error().advice);
  return false;
}

// Folders and templates of a daemon's settings. False: the settings name templates, and none of
// them restores.
base::Result<bool> takeSettings(Arguments& a) {
  if (a.config.empty()) return true;
  MAYFLY_TRY(const config::Daemon settings, config::loadDaemon(a.config));
  a.state_dir = settings.state_dir;
  a.run_dir = settings.run_dir;
  a.template_dirs = settings.template_dirs;
  for (const std::string& name : settings.templates)
    if (auto manifest = config::findManifest(templateDirs(a), name);
        manifest && manifest->restores())
      a.names.push_back(name);
  return settings.templates.empty() || !a.names.empty();
}

int refresh(Arguments a) {
  auto any = takeSettings(a);
  if (!any) return say(any.error());
  if (!*any) return 0;
  RefreshOptions options;
  options.build = buildOptions(a);
  options.run_dir = a.run_dir;
  auto drain_ms = config::parseDurationMs(a.drain_time);
  if (!drain_ms || *drain_ms > kDrainMsMax)
    return say({base::Code::invalidArgument, "--drain-time '" + a.drain_time + "' is no time",
                "Give \"0s\" to \"24h\".", 0, 0});
  options.drain_ms = *drain_ms;
  int code = 0;
  auto all = nlohmann::ordered_json::array();
  for (const std::string& name : namesToBuild(a)) {
    // Of all templates, those that nobody has built are nobody's.
    if (a.names.empty() && !image::findImage(a.state_dir, name)) continue;
    auto done = builder::refresh(name, options);
    if (!done) {
      code = say(done.error());
      continue;
    }
    auto json = jsonOf(done->built.info);
    json["daemons"] = nlohmann::ordered_json::array();
    json["stillUsed"] = done->still_used;
    for (const Daemon& daemon : done->daemons)
      if (!tellDaemon(name, daemon, &json["daemons"])) code = kFailed;
    if (done->still_used > 0)
      fmt::print(stderr,
                 "{}: boxes still use {} older snapshot(s); the next refresh removes them\n", name,
                 done->still_used);
    all.push_back(std::move(json));
    if (!a.json)
      fmt::print("{}  {}  {}  made in {} ms\n", name, done->built.info.key.substr(0, 12),
                 base::humanBytes(done->built.info.bytes()), done->built.info.built_ms);
  }
  if (a.json) fmt::print("{}\n", all.dump(2));
  return code;
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
  const auto addFolders = [&](CLI::App* sub) {
    sub->add_option("--templates", a.template_dirs, "folders of templates")
        ->allow_extra_args(false);
    sub->add_option("--runtime-dir", a.runtime_dir, "the folder of Mayfly's own programs");
  };
  CLI::App* build_verb = verb("build", "make what is missing, for a template's present image");
  build_verb->add_option("TEMPLATE", a.names, "templates; without one, all that restore");
  addFolders(build_verb);
  build_verb->add_flag("--again", a.again, "make it anew, even if it is there");
  build_verb->add_flag("--json", a.json, "print JSON");
  CLI::App* refresh_verb =
      verb("refresh", "make snapshots anew, for running daemons too, and remove the old ones");
  refresh_verb->add_option("TEMPLATE", a.names,
                           "templates; without one, all that restore and have an image");
  refresh_verb->add_option(
      "--config", a.config,
      "a daemon's settings, which name folders and templates in place of flags");
  refresh_verb->add_option("--run-dir", a.run_dir, "the daemons' folder of sockets")
      ->capture_default_str();
  refresh_verb
      ->add_option("--drain-time", a.drain_time, "how long to wait for the boxes of the old one")
      ->capture_default_str();
  addFolders(refresh_verb);
  refresh_verb->add_flag("--json", a.json, "print JSON");
  CLI::App* trial_verb = verb("trial", "dump and restore once, and keep nothing");
  trial_verb->add_option("TEMPLATE", a.names, "templates; without one, the first that works");
  addFolders(trial_verb);
  trial_verb->add_flag("--json", a.json, "print one line of JSON; exit code 0 in any case");
  CLI::App* list_verb = verb("list", "all snapshots");
  list_verb->add_flag("--json", a.json, "print JSON");
  CLI::App* check_verb = verb("check", "compare every file with its checksum");
  check_verb->add_option("TEMPLATE", a.names, "templates; without one, all");
  CLI::App* remove_verb = verb("remove", "remove snapshots that no daemon uses");
  remove_verb->add_option("TEMPLATE|KEY", a.names, "a template, or the beginning of a key")
      ->required();
  CLI11_PARSE(cli, argc, argv);
  if (*build_verb) return build(a);
  if (*refresh_verb) return refresh(a);
  if (*trial_verb) return trial(a);
  if (*list_verb) return list(a);
  if (*check_verb) return check(a);
  return remove(a);
}
