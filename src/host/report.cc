// The parts of the host report that need no host: parsing, budgets, the table.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "base/text.h"
#include "host/report.h"

namespace mayfly::host {
namespace {

bool hasWord(std::string_view list, std::string_view word, char separator) {
  while (!list.empty()) {
    size_t end =
        list.find_first_of(separator == ' ' ? std::string_view(" \n") : std::string_view(","));
    if (list.substr(0, end) == word) return true;
    if (end == std::string_view::npos) return false;
    list.remove_prefix(end + 1);
  }
  return false;
}

// Breaks at spaces; a longer word is cut at the width. Never empty.
std::vector<std::string> wrap(std::string_view text, size_t width) {
  std::vector<std::string> lines(1);
  std::istringstream words{std::string(text)};
  for (std::string word; words >> word;) {
    if (!lines.back().empty() && lines.back().size() + 1 + word.size() > width)
      lines.emplace_back();
    if (!lines.back().empty()) lines.back() += ' ';
    lines.back() += word;
    while (lines.back().size() > width) {
      std::string rest = lines.back().substr(width);
      lines.back().resize(width);
      lines.push_back(std::move(rest));
    }
  }
  return lines;
}

uint32_t clamp32(uint64_t value) {
  return static_cast<uint32_t>(std::min<uint64_t>(value, 1'000'000));
}

}  // namespace

std::string_view name(HostVerdict verdict) {
  switch (verdict) {
    case HostVerdict::ok:
      return "ok";
    case HostVerdict::degraded:
      return "degraded";
    case HostVerdict::missing:
      return "MISSING";
    case HostVerdict::unknown:
      return "unknown";
  }
  return "?";
}

std::string_view name(CgroupPlace place) {
  switch (place) {
    case CgroupPlace::none:
      return "none";
    case CgroupPlace::v1:
      return "v1";
    case CgroupPlace::v2:
      return "v2";
  }
  return "?";
}

CgroupLayout parseCgroupLayout(std::string_view mountinfo, std::string_view v2_controllers) {
  CgroupLayout layout;
  struct V1 {
    std::string path, options;
  };
  std::vector<V1> v1;
  std::istringstream lines{std::string(mountinfo)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string id, parent, device, root, path, word, type, source, options;
    words >> id >> parent >> device >> root >> path;
    while (words >> word && word != "-") {
    }
    words >> type >> source >> options;
    if (root != "/") continue;  // a bind mount of a subtree is not ours to use
    if (type == "cgroup2" && layout.v2_path.empty()) layout.v2_path = path;
    if (type == "cgroup") v1.push_back({path, options});
  }
  auto place = [&](std::string_view controller, CgroupPlace& where, std::string& path) {
    if (!layout.v2_path.empty() && hasWord(v2_controllers, controller, ' ')) {
      where = CgroupPlace::v2, path = layout.v2_path;
      return;
    }
    for (const V1& hierarchy : v1)
      if (hasWord(hierarchy.options, controller, ',')) {
        where = CgroupPlace::v1, path = hierarchy.path;
        return;
      }
  };
  place("cpu", layout.cpu, layout.cpu_path);
  place("memory", layout.memory, layout.memory_path);
  place("pids", layout.pids, layout.pids_path);
  return layout;
}

KernelVersion parseKernelVersion(std::string_view release) {
  KernelVersion version;
  const char* end = release.data() + release.size();
  auto major = std::from_chars(release.data(), end, version.major);
  if (major.ec != std::errc() || major.ptr == end || *major.ptr != '.') return {};
  auto minor = std::from_chars(major.ptr + 1, end, version.minor);
  return minor.ec == std::errc() ? version : KernelVersion{};
}

uint32_t HostBudget::boxes() const {
  return std::min(
      {boxes_by_fds, boxes_by_pids, boxes_by_namespaces, boxes_by_memory, boxes_by_ptys});
}

uint64_t boxesPtys(uint64_t limit, uint64_t reserve, uint64_t used) {
  // The kernel refuses the terminal that would make the number reach `limit` - `reserve`.
  const uint64_t pool = limit > reserve ? limit - reserve - 1 : 0;
  return std::min(pool * kPtyPercent / 100, pool - std::min(pool, used));
}

void deriveBudget(HostBudget& b, const base::Limits& per_box) {
  auto left = [](uint64_t all, uint64_t reserved) { return all > reserved ? all - reserved : 0; };
  b.boxes_by_fds = clamp32(left(b.fds_hard, kFdsReserved) / kFdsReckonedPerBox);
  // A box's processes, and its init.
  b.boxes_by_pids = clamp32(left(b.pids_max, kPidsReserved) / (uint64_t{per_box.processes} + 1));
  b.boxes_by_namespaces = clamp32(left(b.user_namespaces_max, 64));
  // Without terminals, their number does not bound the boxes.
  b.boxes_by_ptys = clamp32(b.ptys_max == 0 ? ~0ull : b.ptys_max / kPtysPerBox);
  // A tenth, at least 512 MiB, stays for the host, the daemon and the zygotes.
  uint64_t reserved = std::max<uint64_t>(b.memory_total_bytes / 10, 512ull << 20);
  b.boxes_by_memory = clamp32(left(b.memory_available_bytes, reserved) /
                              std::max<uint64_t>(per_box.memory_bytes, 1));
}

std::vector<std::string> HostReport::lostPromises() const {
  std::vector<std::string> lost;
  for (const HostLine& line : lines)
    if (line.verdict == HostVerdict::missing && !line.costs.empty() &&
        std::find(lost.begin(), lost.end(), line.costs) == lost.end())
      lost.push_back(line.costs);
  return lost;
}

std::vector<HostLine> HostReport::refusals(const std::vector<std::string>& accepted) const {
  std::vector<HostLine> out;
  for (const HostLine& line : lines)
    if (line.verdict == HostVerdict::missing &&
        std::find(accepted.begin(), accepted.end(), line.costs) == accepted.end())
      out.push_back(line);
  return out;
}

std::string renderTable(const HostReport& report, size_t width) {
  constexpr size_t kWhat = 20, kVerdict = 8;
  width = std::max<size_t>(width, 40);
  size_t value_width = width - kWhat - kVerdict - 2;
  std::string out, group;
  auto row = [&](const HostLine& line) {
    if (line.group != group) {
      group = line.group;
      out += fmt::format("{}{}\n", out.empty() ? "" : "\n", group);
    }
    auto value = wrap(base::printable(line.value), value_width);
    for (size_t i = 0; i < value.size(); ++i) {
      std::string text = fmt::format("{:<{}} {:<{}} {}", i ? "" : "  " + line.what, kWhat, value[i],
                                     value_width, i ? std::string_view() : name(line.verdict));
      text.erase(text.find_last_not_of(' ') + 1);
      out += text + "\n";
    }
    std::string note = base::printable(line.note, 400);
    if (!line.costs.empty() && line.verdict == HostVerdict::missing)
      note = "costs the promise '" + line.costs + "'" + (note.empty() ? "" : ": " + note);
    if (!note.empty() && line.verdict != HostVerdict::ok)
      for (const std::string& part : wrap(note, width - 6)) out += "      " + part + "\n";
  };
  for (const HostLine& line : report.lines) row(line);
  const HostBudget& b = report.budget;
  const std::string budget = fmt::format("Budget of boxes ({} fit)", b.boxes());
  row({budget, "descriptors",
       fmt::format("{} hard limit, {} a box: {} boxes", b.fds_hard, kFdsReckonedPerBox,
                   b.boxes_by_fds)});
  row({budget, "processes",
       fmt::format("{} on the host: {} boxes at the default cap", b.pids_max, b.boxes_by_pids)});
  row({budget, "user namespaces",
       fmt::format("{}: {} boxes", b.user_namespaces_max, b.boxes_by_namespaces)});
  row({budget, "memory",
       fmt::format("{} of {} free: {} boxes at the default cap",
                   base::humanBytes(b.memory_available_bytes),
                   base::humanBytes(b.memory_total_bytes), b.boxes_by_memory)});
  row({budget, "terminals",
       b.ptys_max == 0 ? "none: boxes have no pseudo-terminals"
                       : fmt::format("{} of kernel.pty.max: {} boxes at the default of {}",
                                     b.ptys_max, b.boxes_by_ptys, kPtysPerBox)});
  auto lost = report.lostPromises();
  if (lost.empty()) {
    out += "\nThis host can keep every promise.\n";
  } else {
    std::string names;
    for (const std::string& one : lost) names += (names.empty() ? "" : ", ") + one;
    out += "\n";
    for (const std::string& part :
         wrap("This host cannot keep: " + names +
                  ". The daemon starts only where its setting accept_lost_promises names them.",
              width))
      out += part + "\n";
  }
  return out;
}

}  // namespace mayfly::host
