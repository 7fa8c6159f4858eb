// Layer: cli. See template_check.h.
#include "cli/template_check.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <mayfly/client.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <future>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/fd.h"
#include "base/text.h"

namespace mayfly::cli {
namespace {

using base::Code;
using base::fail;
using base::Phase;

constexpr size_t kLogBytesMax = 4u << 20;
constexpr uint64_t kDaemonStartMsMax = 30'000;  // besides the zygote's own start time
constexpr int kDaemonStopMsMax = 20'000;
constexpr uint64_t kTaskWallMs = 30'000;
constexpr size_t kSaidBytesMax = 2'000;
constexpr size_t kSaidLinesMax = 20;
constexpr size_t kLineBytesMax = 400;
constexpr int kLookMs = 100;  // between looks at the daemon's log
constexpr std::string_view kCannotServe = "the zygote can't serve: ";
constexpr size_t kProcBytesMax = 64u << 10;

base::Status writeFile(const std::string& path, std::string_view text) {
  MAYFLY_TRY(base::Fd fd,
             base::openAt(base::FdView(AT_FDCWD), path, O_WRONLY | O_CREAT | O_EXCL, 0644));
  if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return base::failSys(errno, "write", path);
  return base::Unit{};
}

// A daemon that serves one template, from a run folder of its own.
class OwnDaemon {
 public:
  OwnDaemon() = default;
  OwnDaemon(const OwnDaemon&) = delete;
  ~OwnDaemon() {
    stop();
    std::error_code ignored;
    if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  }

  base::Status start(const config::Manifest& manifest, const TemplateArgs& args,
                     const std::vector<std::string>& template_dirs);
  std::string socket() const { return folder_ + "/mayfly.sock"; }
  std::string log() const {
    auto text = base::readSmallFile(base::FdView(AT_FDCWD), folder_ + "/log", kLogBytesMax);
    return text ? *text : std::string();
  }
  // The end of its log, for an error.
  std::string lastWords() const {
    const std::string text = log();
    return text.substr(text.size() > kSaidBytesMax ? text.size() - kSaidBytesMax : 0);
  }

 private:
  void stop();

  std::string folder_;
  pid_t pid_ = -1;
};

base::Status OwnDaemon::start(const config::Manifest& manifest, const TemplateArgs& args,
                              const std::vector<std::string>& template_dirs) {
  std::string folder = "/run/mayfly-check-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) return base::failSys(errno, "mkdtemp", folder);
  folder_ = folder;
  // The daemon drops root, but its socket is in this folder.
  if (::chmod(folder_.c_str(), 0755) != 0) return base::failSys(errno, "chmod", folder_);
  MAYFLY_TRY(base::Pipe ready, base::makePipe());
  MAYFLY_TRY(base::Fd log, base::openAt(base::FdView(AT_FDCWD), folder_ + "/log",
                                        O_WRONLY | O_CREAT | O_APPEND, 0600));
  MAYFLY_TRY(base::Fd null, base::openAt(base::FdView(AT_FDCWD), "/dev/null", O_RDONLY));
  // No parked clones: each clone is made when its task comes, and that time is measured.
  MAYFLY_CHECK(writeFile(folder_ + "/config", "parked_max = 0\n"));
  std::vector<std::string> words = {executableDir() + "/mayflyd",
                                    "--config",
                                    folder_ + "/config",
                                    "--instance",
                                    fmt::format("check-{}", ::getpid()),
                                    "--socket",
                                    socket(),
                                    "--run-dir",
                                    folder_,
                                    "--state-dir",
                                    args.state_dir,
                                    "--template",
                                    manifest.name,
                                    "--ready-fd",
                                    "3"};
  for (const std::string& dir : template_dirs) {
    words.push_back("--templates");
    words.push_back(dir);
  }
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) return base::failSys(errno, "fork", words[0]);
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(126);
    ::setsid();  // we handle Ctrl-C and stop the daemon
    ::dup2(null.get(), 0);
    ::dup2(log.get(), 1);
    ::dup2(log.get(), 2);
    if (ready.write.get() == 3)
      ::fcntl(3, F_SETFD, 0);
    else
      ::dup2(ready.write.get(), 3);
    ::execv(argv[0], argv.data());
    dprintf(2, "cannot run '%s': %s\n", argv[0], strerror(errno));
    ::_exit(127);
  }
  ready.write.reset();
  pollfd p{ready.read.get(), POLLIN, 0};
  const uint64_t late_ns =
      base::monotonicNs() + (manifest.zygote.start_ms_max + kDaemonStartMsMax) * 1'000'000;
  int n = 0;
  while (n <= 0 && base::monotonicNs() < late_ns) {
    n = ::poll(&p, 1, kLookMs);
    // A zygote that refuses itself would do so again: the first refusal is enough.
    if (n == 0 && this->log().find(kCannotServe) != std::string::npos) return base::Unit{};
  }
  char word[8];
  if (n > 0 && ::read(ready.read.get(), word, sizeof word) > 0) return base::Unit{};
  return fail(Code::failedPrecondition,
              fmt::format("the daemon for the check {}; it said:\n{}",
                          n == 0 ? "did not get ready" : "did not start", lastWords()),
              "`mayfly doctor` shows what this host offers.");
}

void OwnDaemon::stop() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGTERM);
  int status = 0;
  for (int ms = 0; ms < kDaemonStopMsMax; ms += 10) {
    if (::waitpid(pid_, &status, WNOHANG) != 0) {
      pid_ = -1;
      return;
    }
    ::usleep(10'000);
  }
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
}

std::string linkOf(const std::string& path) {
  char target[128];
  const ssize_t n = ::readlink(path.c_str(), target, sizeof target);
  return std::string(target, n > 0 ? static_cast<size_t>(n) : 0);
}

// The clone of the box whose init is `init`: the second process of its pid namespace.
std::optional<std::string> cloneOf(uint32_t init) {
  const std::string box = linkOf(fmt::format("/proc/{}/ns/pid", init));
  DIR* dir = box.empty() ? nullptr : ::opendir("/proc");
  if (!dir) return std::nullopt;
  std::optional<std::string> found;
  while (dirent* entry = ::readdir(dir)) {
    const std::string name = entry->d_name;
    if (name.find_first_not_of("0123456789") != std::string::npos || name == std::to_string(init) ||
        linkOf("/proc/" + name + "/ns/pid") != box)
      continue;
    auto status =
        base::readSmallFile(base::FdView(AT_FDCWD), "/proc/" + name + "/status", kProcBytesMax);
    if (status && status->find("\t2\n", status->find("NSpid:")) != std::string::npos) found = name;
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
  if (const size_t at = text.rfind(kCannotServe); at != std::string_view::npos)
    text = text.substr(at + kCannotServe.size());
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
    const auto clone = cloneOf(t.pid_host);
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
  OwnDaemon daemon;
  MAYFLY_CHECK(daemon.start(manifest, args, template_dirs));
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
