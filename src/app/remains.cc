#include "app/remains.h"

#include <stdio.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "base/fd.h"
#include "base/text.h"

namespace mayfly::app {

namespace fs = std::filesystem;

namespace {

constexpr size_t kNamedMax = 8;

bool parse(const std::string& status, Process* p) {
  auto field = [&](const char* key) {
    const size_t at = status.find(key);
    return at == std::string::npos ? "" : status.c_str() + at + std::string_view(key).size();
  };
  const std::string name = field("Name:\t");
  p->name = base::printable(name.substr(0, name.find('\n')), 32);
  unsigned u[4];
  if (::sscanf(field("\nState:\t"), "%c", &p->state) != 1 ||
      ::sscanf(field("\nPPid:\t"), "%u", &p->parent) != 1 ||
      ::sscanf(field("\nUid:\t"), "%u %u %u %u", &u[0], &u[1], &u[2], &u[3]) != 4)
    return false;
  std::copy(std::begin(u), std::end(u), std::begin(p->uids));
  return p->state != 'Z' && p->state != 'X';
}

std::vector<Process> only(std::vector<Process> all, const auto& wanted) {
  std::erase_if(all, [&](const Process& p) { return !wanted(p); });
  return all;
}

}  // namespace

std::vector<Process> livingProcesses(const std::string& proc) {
  std::vector<Process> found;
  std::error_code failed;
  for (fs::directory_iterator at(proc, failed), end; !failed && at != end; at.increment(failed)) {
    const std::string pid = at->path().filename();
    Process p;
    const auto read = std::from_chars(pid.data(), pid.data() + pid.size(), p.pid);
    if (read.ec != std::errc{} || read.ptr != pid.data() + pid.size()) continue;
    if (auto status = base::readSmallFile({}, at->path().string() + "/status");
        status && parse(*status, &p))
      found.push_back(std::move(p));
  }
  return found;
}

std::vector<Process> processesOfUids(uint32_t first, uint32_t count, const std::string& proc) {
  return only(livingProcesses(proc), [&](const Process& p) {
    return std::any_of(std::begin(p.uids), std::end(p.uids),
                       [&](uint32_t uid) { return uid >= first && uid - first < count; });
  });
}

std::vector<Process> childrenOf(uint32_t parent, const std::string& proc) {
  return only(livingProcesses(proc), [&](const Process& p) { return p.parent == parent; });
}

bool isBusy(uint32_t pid, const std::string& proc) {
  Process p;
  auto status = base::readSmallFile({}, proc + "/" + std::to_string(pid) + "/status");
  return status && parse(*status, &p) && (p.state == 'R' || p.state == 'D');
}

std::string describe(const std::vector<Process>& processes) {
  std::string text;
  for (size_t i = 0; i < std::min(processes.size(), kNamedMax); ++i) {
    const Process& p = processes[i];
    text += (i == 0 ? "process " : ", process ") + std::to_string(p.pid) + " (" + p.name +
            ", state " + p.state + ")";
  }
  if (processes.size() > kNamedMax)
    text += " and " + std::to_string(processes.size() - kNamedMax) + " more";
  return text;
}

}  // namespace mayfly::app
