// Layer: cli. See template_check.h.
#include "cli/template_check.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <mayfly/client.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <future>
#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "base/text.h"
#include "bench/own_daemon.h"

namespace mayfly::cli {
namespace {

using base::Code;
using base::fail;
using base::Phase;

constexpr uint64_t kDaemonStartMsMax = 30'000;  // besides the zygote's own start time
constexpr uint64_t kSnapshotMsMax = 180'000;    // the same: a dump, and its trial
constexpr uint64_t kTaskWallMs = 30'000;
constexpr size_t kSaidBytesMax = 2'000;
constexpr size_t kSaidLinesMax = 20;
constexpr size_t kLineBytesMax = 400;
constexpr std::string_view kCannotServe = "the zygote can't serve: ";
constexpr std::string_view kNotDumped = "the zygote was not dumped: ";
// Of a clone in its box.
constexpr int kForkedPid = 2, kRestoredPid = 1'000;
constexpr size_t kProcBytesMax = 64u << 10;

std::string linkOf(const std::string& path) {
  char target[128];
  const ssize_t n = ::readlink(path.c_str(), target, sizeof target);
  return std::string(target, n > 0 ? static_cast<size_t>(n) : 0);
}

// The clone of the box whose init is `init`: the process `pid` of its pid namespace.
std::optional<std::string> cloneOf(uint32_t init, int pid) {
  const std::string box = linkOf(fmt::format("/proc/{}/ns/pid", init));
  DIR* dir = box.empty() ? nullptr : ::opendir("/proc");
  if (!dir) return std::nullopt;
  std::optional<std::string> found;
  const std::string last = fmt::format("\t{}\n", pid);
  while (dirent* entry = ::readdir(dir)) {
    const std::string name = entry->d_name;
    if (name.find_first_not_of("0123456789") != std::string::npos || name == std::to_string(init) ||
        linkOf("/proc/" + name + "/ns/pid") != box)
      continue;
    auto status =
        base::readSmallFile(base::FdView(AT_FDCWD), "/proc/" + name + "/status", kProcBytesMax);
    if (status && status->find(last, status->find("NSpid:")) != std::string::npos) found = name;
  }
  ::closedir(dir);
  return found;
}

TaskSpec specOf(const config::Manifest& manifest) {
  TaskSpec spec;
  spec.template_name = manifest.name;
  spec.limits.wall_time_ms = std::min<uint64_t>(kTaskWallMs, manifest.maximum.wall_time_ms);
  if (manifest.runsCommands()) {
    spec.kind = CodeKind::command;
    spec.args = {"true"};
  } else {
    spec.kind = CodeKind::string;
    spec.code = manifest.check_wait;  // ends at once: its stdin is empty
  }
  return spec;
}

// An exception's last line says more than the exit code.
void noteFailure(const TaskResult& result, CheckReport& report) {
  if (result.verdict == base::Verdict::succeeded) return;
  report.said = lastLines(result.captured[1]);
  report.refused =
      fmt::format("a task that does nothing ends as {}: {}{}", base::name(result.verdict),
                  base::printable(result.reason, kLineBytesMax),
                  report.said.empty() ? std::string() : ": " + report.said.back());
}

// The zygote's own words, without the daemon's count of its deaths.
std::string refusalOf(std::string_view text) {
  for (std::string_view before : {kCannotServe, kNotDumped})
    if (const size_t at = text.rfind(before); at != std::string_view::npos)
      text = text.substr(at + before.size());
  return base::printable(text.substr(0, text.find('\n')), kSaidBytesMax);
}

base::Status measureClones(Client& client, const config::Manifest& manifest, uint32_t clones,
                           CheckReport& report) {
  for (uint32_t i = 0; i < clones; ++i) {
    MAYFLY_TRY(TaskResult result, client.run(specOf(manifest)));
    noteFailure(result, report);
    if (!report.refused.empty()) return base::Unit{};
    const auto at = [&](Phase phase) { return result.phases[static_cast<size_t>(phase)]; };
    if (at(Phase::box) != 0 && at(Phase::clone) > at(Phase::box))
      report.clone_ns.push_back(at(Phase::clone) - at(Phase::box));
  }
  std::sort(report.clone_ns.begin(), report.clone_ns.end());
  return base::Unit{};
}

// Measures a clone that has printed its line and waits for input.
base::Status measureMemory(Client& client, const config::Manifest& manifest, CheckReport& report) {
  TaskSpec spec = specOf(manifest);
  spec.stdin_open = true;
  if (manifest.runsCommands()) {
    spec.args = {"sh", "-c", "echo; exec cat"};
  } else if (manifest.check_wait.empty()) {
    report.no_memory_text = "give 'check.wait' in the manifest";
    return base::Unit{};
  }
  auto said = std::make_shared<std::promise<void>>();
  auto once = std::make_shared<bool>(false);
  const auto signal = [said, once] {
    if (!std::exchange(*once, true)) said->set_value();
  };
  Callbacks callbacks;
  callbacks.on_output = [signal](Stream, std::string_view) { signal(); };
  callbacks.on_result = [signal](const auto&) { signal(); };
  MAYFLY_TRY(Task task, client.submit(std::move(spec), std::move(callbacks)));
  said->get_future().wait();
  MAYFLY_TRY(auto tasks, client.tasks());
  for (const TaskInfo& t : tasks) {
    if (t.id != task.id() || t.pid_host == 0) continue;
    const auto clone = cloneOf(t.pid_host, manifest.restores() ? kRestoredPid : kForkedPid);
    auto rollup =
        clone ? base::readSmallFile(base::FdView(AT_FDCWD), "/proc/" + *clone + "/smaps_rollup",
                                    kProcBytesMax)
              : base::Result<std::string>(fail(Code::notFound, "its process is not visible"));
    if (rollup)
      report.unique_bytes = uniqueBytes(*rollup);
    else
      report.no_memory_text = rollup.error().message;
  }
  if (!report.unique_bytes && report.no_memory_text.empty())
    report.no_memory_text = "the program of 'check.wait' did not wait";
  (void)task.closeStdin();
  MAYFLY_CHECK(task.wait());
  return base::Unit{};
}

uint64_t median(const std::vector<uint64_t>& sorted) { return sorted[sorted.size() / 2]; }

std::string spread(const std::vector<uint64_t>& sorted) {
  return fmt::format("{}, median of {} ({} to {})", base::humanNanos(median(sorted)), sorted.size(),
                     base::humanNanos(sorted.front()), base::humanNanos(sorted.back()));
}

}  // namespace

std::optional<PreloadReport> parsePreloads(std::string_view log, std::string_view template_name) {
  const std::string before = fmt::format("zygote of '{}' says: preloaded ", template_name);
  const size_t at = log.rfind(before);
  if (at == std::string_view::npos) return std::nullopt;
  std::string line(log.substr(at + before.size()));
  line = line.substr(0, line.find('\n'));
  PreloadReport report;
  int end = 0;
  if (::sscanf(line.c_str(), "%u in %lf ms%n", &report.count, &report.ms, &end) != 2 || end == 0)
    return std::nullopt;
  for (size_t from = static_cast<size_t>(end); from < line.size();) {
    char name[100];
    double ms = 0;
    if (::sscanf(line.c_str() + from, "%*[;,] %99s %lf ms%n", name, &ms, &end) != 2) break;
    report.longest.emplace_back(name, ms);
    from += static_cast<size_t>(end);
  }
  return report;
}

std::vector<std::string> lastLines(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty() && lines.size() < kSaidLinesMax) {
    const size_t end = text.find_last_of('\n');
    const std::string_view line = end == std::string_view::npos ? text : text.substr(end + 1);
    text = text.substr(0, end == std::string_view::npos ? 0 : end);
    if (line.find_first_not_of(" \t\r") != std::string_view::npos)
      lines.push_back(base::printable(line, kLineBytesMax));
  }
  std::reverse(lines.begin(), lines.end());
  return lines;
}

std::vector<std::string> zygoteWords(std::string_view log, std::string_view template_name) {
  const std::string before = fmt::format("zygote of '{}' says: ", template_name);
  std::string words;
  for (size_t at = log.find(before); at != std::string_view::npos; at = log.find(before, at)) {
    at += before.size();
    const std::string_view line = log.substr(at, log.find('\n', at) - at);
    if (line.rfind("Traceback ", 0) == 0) words.clear();
    // The report of preloads, and the refusal, which the check shows anyway.
    if (line.rfind("preloaded ", 0) != 0 && line.rfind("cannot serve: ", 0) != 0)
      words.append(line) += '\n';
  }
  return lastLines(words);
}

std::optional<uint64_t> uniqueBytes(std::string_view rollup) {
  uint64_t sum = 0;
  int found = 0;
  for (const char* key : {"\nPrivate_Clean:", "\nPrivate_Dirty:"}) {
    const size_t at = rollup.find(key);
    if (at == std::string_view::npos) continue;
    sum += ::strtoull(std::string(rollup.substr(at + strlen(key), 40)).c_str(), nullptr, 10) << 10;
    ++found;
  }
  return found == 2 ? std::optional(sum) : std::nullopt;
}

base::Result<CheckReport> checkTemplate(const config::Manifest& manifest,
                                        const image::ImageInfo& image, const TemplateArgs& args,
                                        const std::vector<std::string>& template_dirs) {
  if (::geteuid() != 0)
    return fail(Code::permissionDenied, "the check starts a daemon, which needs root");
  CheckReport report;
  report.name = manifest.name;
  report.image = image;
  bench::OwnDaemon daemon;
  bench::OwnDaemonOptions own;
  own.program = executableDir() + "/mayflyd";
  own.purpose = "check";
  // No parked clones: each clone is made when its task comes, and that time is measured.
  own.settings = "parked_max = 0\n";
  own.templates = {manifest.name};
  own.template_dirs = template_dirs;
  own.state_dir = args.state_dir;
  own.start_ms_max =
      manifest.zygote.start_ms_max + kDaemonStartMsMax + (manifest.restores() ? kSnapshotMsMax : 0);
  // A zygote that refuses itself would do so again: the first refusal is enough.
  own.hopeless = kCannotServe;
  MAYFLY_CHECK(daemon.start(own));
  ConnectOptions connect;
  connect.client_name = "mayfly template check";
  MAYFLY_TRY(auto client, Client::connect(daemon.socket(), connect));
  MAYFLY_TRY(auto templates, client->templates());
  for (const TemplateInfo& t : templates)
    if (t.name == manifest.name && t.state != "ready")
      report.refused = refusalOf(t.state_text.empty() ? daemon.log() : t.state_text);
  if (!report.refused.empty()) {
    report.said = zygoteWords(daemon.log(), manifest.name);
  } else {
    MAYFLY_CHECK(measureClones(*client, manifest, args.clones, report));
    if (report.refused.empty()) MAYFLY_CHECK(measureMemory(*client, manifest, report));
  }
  report.preload = parsePreloads(daemon.log(), manifest.name);
  return report;
}

std::string checkText(const CheckReport& r) {
  std::string text = fmt::format("template   {}\nimage      {}, {}\n", r.name,
                                 base::humanBytes(r.image.bytes), r.image.digest.substr(0, 12));
  for (const image::Missing& missing : r.image.missing)
    text += fmt::format("missing    {}\n", missingText(missing));
  if (r.preload) {
    text += fmt::format("preload    {:.1f} ms for {}", r.preload->ms, r.preload->count);
    for (size_t i = 0; i < r.preload->longest.size(); ++i)
      text +=
          fmt::format("{}{} {:.1f} ms", i == 0 ? "; longest: " : ", ",
                      base::printable(r.preload->longest[i].first), r.preload->longest[i].second);
    text += '\n';
  }
  if (!r.clone_ns.empty()) text += fmt::format("clone      {}\n", spread(r.clone_ns));
  if (r.unique_bytes)
    text += fmt::format("memory     {} of a clone's own\n", base::humanBytes(*r.unique_bytes));
  else if (!r.no_memory_text.empty())
    text += fmt::format("memory     not known: {}\n", r.no_memory_text);
  if (r.refused.empty()) return text + "fit        yes\n";
  text += fmt::format("refused    {}\n", r.refused);
  for (const std::string& line : r.said) text += fmt::format("  | {}\n", line);
  return text;
}

nlohmann::ordered_json missingJson(const std::vector<image::Missing>& missing) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const image::Missing& m : missing) {
    nlohmann::ordered_json one;
    one["library"] = m.library;
    one["version"] = m.version;
    one["file"] = m.file;
    one["files"] = m.files;
    one["package"] = m.package;
    list.push_back(std::move(one));
  }
  return list;
}

std::string checkJson(const CheckReport& r) {
  nlohmann::ordered_json json;
  json["template"] = r.name;
  json["fit"] = r.refused.empty();
  json["refused"] = r.refused;
  json["said"] = r.said;
  json["image"] = {{"digest", r.image.digest}, {"bytes", r.image.bytes}};
  json["missing"] = missingJson(r.image.missing);
  json["preload"] = nullptr;
  if (r.preload) {
    json["preload"] = {{"count", r.preload->count}, {"ms", r.preload->ms}};
    json["preload"]["longest"] = nlohmann::ordered_json::array();
    for (const auto& [name, ms] : r.preload->longest)
      json["preload"]["longest"].push_back({{"name", name}, {"ms", ms}});
  }
  const auto times = [](const std::vector<uint64_t>& sorted) -> nlohmann::ordered_json {
    if (sorted.empty()) return nullptr;
    return {{"median", median(sorted)},
            {"least", sorted.front()},
            {"most", sorted.back()},
            {"count", sorted.size()}};
  };
  json["cloneNs"] = times(r.clone_ns);
  json["uniqueBytes"] = nullptr;
  if (r.unique_bytes) json["uniqueBytes"] = *r.unique_bytes;
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace mayfly::cli
