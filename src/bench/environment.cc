#include "bench/environment.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "base/fd.h"
#include "base/text.h"
#include "image/command.h"

namespace mayfly::bench {
namespace {

constexpr size_t kProcFileBytesMax = 1u << 20;
constexpr uint32_t kGitSecondsMax = 10;

std::string textOf(const std::string& path) {
  auto text = base::readSmallFile(base::FdView(AT_FDCWD), path, kProcFileBytesMax);
  return text ? *text : std::string();
}

std::string_view lineAfter(std::string_view text, std::string_view before) {
  const size_t at = text.find(before);
  if (at == std::string_view::npos) return {};
  text.remove_prefix(at + before.size());
  return text.substr(0, text.find('\n'));
}

std::string trimmed(std::string_view text) {
  constexpr std::string_view kAround = " \t\":\n";
  while (!text.empty() && kAround.find(text.front()) != std::string_view::npos)
    text.remove_prefix(1);
  while (!text.empty() && kAround.find(text.back()) != std::string_view::npos)
    text.remove_suffix(1);
  return base::printable(text);
}

std::string timeText(time_t now) {
  tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  ::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

// All ticks, and the stolen ones.
std::pair<uint64_t, uint64_t> cpuTicks() {
  const std::string stat = textOf("/proc/stat");
  uint64_t all = 0, stolen = 0;
  std::string_view line = lineAfter(stat, "cpu ");
  for (int i = 0; i < 8 && !line.empty(); ++i) {
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    uint64_t value = 0;
    std::from_chars(line.data(), line.data() + line.size(), value);
    line.remove_prefix(std::min(line.find(' '), line.size()));
    all += value;
    if (i == 7) stolen = value;
  }
  return {all, stolen};
}

std::string cgroupMode() {
  const std::string mounts = textOf("/proc/self/mountinfo");
  const bool v2 = mounts.find(" - cgroup2 ") != std::string::npos;
  const bool v1 = mounts.find(" - cgroup ") != std::string::npos;
  return v1 && v2 ? "hybrid" : v2 ? "v2" : "v1";
}

Json loads() {
  double each[3] = {};
  if (::getloadavg(each, 3) < 0) return nullptr;
  return {each[0], each[1], each[2]};
}

// The checkout that this program was built from, if it is still there: git's words, or "unknown".
void addCommit(Json& out) {
  const std::string top = MAYFLY_SOURCE_DIR;
  out["commit"] = "unknown";
  out["dirty"] = nullptr;
  if (::access((top + "/.git").c_str(), F_OK) != 0) return;
  auto commit = image::commandOutput({"git", "-C", top, "rev-parse", "HEAD"}, kGitSecondsMax);
  if (!commit) return;
  out["commit"] = trimmed(*commit);
  auto changed = image::commandOutput(
      {"git", "-C", top, "status", "--porcelain", "--untracked-files=no"}, kGitSecondsMax);
  if (changed) out["dirty"] = !changed->empty();
}

}  // namespace

Environment::Environment() {
  utsname host{};
  ::uname(&host);
  const std::string cpu = textOf("/proc/cpuinfo"), release = textOf("/etc/os-release");
  began_ = {{"time", timeText(::time(nullptr))}};
  addCommit(began_);
  began_.update({{"compiler", MAYFLY_COMPILER},
                 {"build", MAYFLY_BUILD_TYPE},
                 {"kernel", base::printable(host.release)},
                 {"system", trimmed(lineAfter(release, "PRETTY_NAME="))},
                 {"machine", base::printable(host.machine)},
                 {"cpu", trimmed(lineAfter(cpu, "model name"))},
                 {"cores", ::sysconf(_SC_NPROCESSORS_ONLN)},
                 {"memory_bytes", static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                                      static_cast<uint64_t>(::sysconf(_SC_PAGE_SIZE))},
                 {"cgroups", cgroupMode()},
                 {"load_before", loads()}});
  std::tie(ticks_, stolen_) = cpuTicks();
}

void Environment::addDaemon(const std::string& role, const ServerInfo& server,
                            const std::vector<TemplateInfo>& templates) {
  Json out = {{"version", base::printable(server.version)},
              {"instance", base::printable(server.instance)},
              {"protocol", server.protocol},
              {"tasks_max", server.tasks_max},
              {"tasks_per_connection_max", server.tasks_per_connection_max},
              {"connections_max", server.connections_max}};
  Json& all = out["templates"] = Json::array();
  for (const TemplateInfo& t : templates)
    all.push_back({{"name", base::printable(t.name)},
                   {"mechanism", base::printable(t.mechanism)},
                   {"image", base::printable(t.image_digest).substr(0, 12)},
                   {"parked_target", t.parked_target},
                   {"stocked_target", t.stocked_target},
                   {"hits", t.hits},
                   {"misses", t.misses}});
  daemons_[role] = std::move(out);
}

Json Environment::stamp() const {
  const auto [ticks, stolen] = cpuTicks();
  Json out = began_;
  out["ended"] = timeText(::time(nullptr));
  out["load_after"] = loads();
  out["stolen_share"] =
      ticks > ticks_ ? static_cast<double>(stolen - stolen_) / static_cast<double>(ticks - ticks_)
                     : 0.0;
  out["daemons"] = daemons_;
  return out;
}

uint64_t ownCpu_ns() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  auto ns = [](const timeval& t) {
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u +
           static_cast<uint64_t>(t.tv_usec) * 1'000u;
  };
  return ns(used.ru_utime) + ns(used.ru_stime);
}

double unixNow_s() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace mayfly::bench
