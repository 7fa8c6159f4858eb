// Layer: cli. See doctor.h.
#include "cli/doctor.h"

#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <string>

#include "base/text.h"
#include "budget/budget.h"
#include "cli/report.h"
#include "cli/template.h"
#include "config/daemon.h"
#include "config/manifest.h"
#include "image/command.h"

namespace mayfly::cli {
namespace {

using host::HostLine;
using host::HostVerdict;
using Json = nlohmann::ordered_json;

constexpr int kUnfit = 1;
constexpr uint32_t kTrialSecondsMax = 600;
constexpr const char* kRestoreGroup = "Restored clones (CRIU)";
constexpr const char* kTrialRow = "dump and restore";
constexpr const char* kRestoreRefused =
    "templates with mechanism \"restore\" are refused; all others work";

HostLine notTried(std::string_view why, std::string note, HostVerdict verdict) {
  return {kRestoreGroup, kTrialRow, fmt::format("not tried: {}", why),
          verdict,       {},        std::move(note)};
}

std::string textOf(const Json& json, const char* key) {
  return json.contains(key) && json[key].is_string()
             ? base::printable(json[key].get<std::string>(), 400)
             : std::string();
}

// The templates to try: those of the settings that restore. False: they name others only.
bool addTemplates(const config::Daemon& settings, const std::vector<std::string>& dirs,
                  std::vector<std::string>* argv) {
  if (settings.templates.empty()) return true;
  const size_t before = argv->size();
  for (const std::string& name : settings.templates)
    if (auto manifest =
            config::findManifest(dirs, name, config::defaultTemplateDirs(executableDir()));
        manifest && manifest->restores())
      argv->push_back(name);
  return argv->size() > before;
}

// A program of its own dumps and restores, because that needs a spawner.
std::vector<HostLine> tryRestore(const DoctorOptions& options, const config::Daemon& settings) {
  if (options.quick) return {notTried("--quick", {}, HostVerdict::unknown)};
  if (::geteuid() != 0)
    return {notTried("a trial needs root", "run it as root", HostVerdict::unknown)};
  std::vector<std::string> dirs = settings.template_dirs;
  if (dirs.empty()) dirs = config::defaultTemplateDirs(executableDir());
  std::string state_dir = settings.state_dir;
  if (const char* set = ::getenv("MAYFLY_STATE_DIR");
      options.config.empty() && set != nullptr && *set != '\0')
    state_dir = set;
  std::vector<std::string> argv{executableDir() + "/mayfly-snapshot", "trial", "--json",
                                "--state-dir", state_dir};
  for (const std::string& dir : dirs) argv.insert(argv.end(), {"--templates", dir});
  if (!addTemplates(settings, dirs, &argv))
    return {notTried("no template here restores", {}, HostVerdict::ok)};
  std::string last;
  const auto ended = image::runCommand(argv, kTrialSecondsMax, [&last](std::string_view line) {
    if (!line.empty() && line.front() == '{') last = line;
  });
  if (!ended)
    return {{kRestoreGroup,
             kTrialRow,
             "does not work here",
             HostVerdict::degraded,
             {},
             fmt::format("{}: {}", ended.error().message, kRestoreRefused)}};
  return restoreLines(last);
}

void printJson(const host::HostReport& report, const std::vector<std::string>& lost) {
  Json json;
  json["lines"] = Json::array();
  for (const auto& line : report.lines)
    json["lines"].push_back({{"group", line.group},
                             {"what", line.what},
                             {"value", line.value},
                             {"verdict", host::name(line.verdict)},
                             {"costs", line.costs},
                             {"note", line.note}});
  json["lostPromises"] = lost;
  json["budget"] = {{"boxes", report.capacity.tasks()},
                    {"binds", std::string(report.capacity.binding().what)},
                    {"boxesByFds", report.budget.boxes_by_fds},
                    {"boxesByNamespaces", report.budget.boxes_by_namespaces},
                    {"parts", Json::array()}};
  for (const host::Capacity::Part& part : report.capacity.parts)
    json["budget"]["parts"].push_back({{"what", std::string(part.what)}, {"tasks", part.tasks}});
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

}  // namespace

std::vector<HostLine> restoreLines(std::string_view printed) {
  const Json json = Json::parse(printed, nullptr, false);
  if (!json.is_object() || !json.contains("works") || !json["works"].is_boolean())
    return {{kRestoreGroup,
             kTrialRow,
             "does not work here",
             HostVerdict::degraded,
             {},
             fmt::format("the trial ended without a word; {}", kRestoreRefused)}};
  const std::string name = textOf(json, "template"), why = textOf(json, "why"),
                    advice = textOf(json, "advice");
  if (json["works"].get<bool>()) {
    const uint64_t ms =
        json.contains("ms") && json["ms"].is_number_unsigned() ? json["ms"].get<uint64_t>() : 0;
    const uint64_t clones = json.contains("clones") && json["clones"].is_number_unsigned()
                                ? json["clones"].get<uint64_t>()
                                : 0;
    return {
        {kRestoreGroup,
         "criu",
         fmt::format("{}, {} in the image of '{}'", textOf(json, "criu"), textOf(json, "path"),
                     name),
         HostVerdict::ok,
         {},
         {}},
        {kRestoreGroup,
         kTrialRow,
         fmt::format("'{}' dumped, and restored in {} clones at once, in {} ms", name, clones, ms),
         HostVerdict::ok,
         {},
         {}}};
  }
  const std::string note = advice.empty() ? why : why + ". " + advice;
  const std::string state = textOf(json, "state");
  if (state == "no template") return {notTried("no template here restores", {}, HostVerdict::ok)};
  if (state == "no image")
    return {notTried("no image of a template that restores is built", note, HostVerdict::unknown)};
  return {{kRestoreGroup,
           kTrialRow,
           fmt::format("does not work here, tried with '{}'", name),
           HostVerdict::degraded,
           {},
           fmt::format("{} ({})", note, kRestoreRefused)}};
}

int doctorMain(const DoctorOptions& options) {
  host::HostReport report = host::hostReport();
  config::Daemon settings;
  if (!options.config.empty()) {
    auto loaded = config::loadDaemon(options.config);
    if (!loaded) {
      fmt::print(stderr, "{}", errorText(loaded.error()));
      return kExitMayfly;
    }
    settings = std::move(*loaded);
    report.capacity = host::capacityOf(report.budget, budget::boxSettings(settings));
  }
  const auto restore = tryRestore(options, settings);
  report.lines.insert(report.lines.end(), restore.begin(), restore.end());
  const auto lost = report.lostPromises();
  if (options.json)
    printJson(report, lost);
  else
    fmt::print("{}", host::renderTable(report));
  const bool works = restore.back().verdict == HostVerdict::ok;
  return !lost.empty() || (options.restore && !works) ? kUnfit : 0;
}

}  // namespace mayfly::cli
