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

uint64_t left(uint64_t all, uint64_t reserved) { return all > reserved ? all - reserved : 0; }

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

uint64_t boxesPtys(uint64_t limit, uint64_t reserve, uint64_t used) {
  // The kernel refuses the terminal that would make the number reach `limit` - `reserve`.
  const uint64_t pool = limit > reserve ? limit - reserve - 1 : 0;
  return std::min(pool * kPtyPercent / 100, pool - std::min(pool, used));
}

void countBoxes(HostBudget& b) {
  b.boxes_by_fds = clamp32(left(b.fds_hard, kFdsReserved) / kFdsReckonedPerBox);
  b.boxes_by_namespaces = clamp32(left(b.user_namespaces_max, 64));
}

const Capacity::Part& Capacity::binding() const {
  static constexpr Part kNone{"nothing", 0};
  const auto least = std::min_element(
      parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.tasks < b.tasks; });
  return least == parts.end() ? kNone : *least;
}

Capacity capacityOf(const HostBudget& host, const BoxSettings& s) {
  Capacity c;
  const uint64_t share = host.fds_hard / kClientFdsShare;
  c.client_fds = s.connections_max + std::min<uint64_t>(kBlobsMax, share) +
                 std::min<uint64_t>(kSpoolsMax, share);
  uint32_t boxes = std::min({kBoxesMax, host.boxes_by_fds, host.boxes_by_namespaces});
  const bool by_setting = s.boxes_max != 0 && s.boxes_max < boxes;
  if (by_setting) boxes = s.boxes_max;
  boxes = std::max(boxes, 1u);
  const uint32_t ahead_max = boxes - std::min((boxes + 3) / 4, kTaskBoxesKept);
  c.parked_max = std::min(s.parked_max, ahead_max);
  c.stocked_max = std::min(s.stocked_max, ahead_max - c.parked_max);
  c.boxes_max = boxes - c.parked_max - c.stocked_max;
  const uint32_t fds_per_box = kDaemonFdsPerBox + (s.broker ? kDoorFdsPerBox : 0);
  const uint64_t fds =
      std::max<uint64_t>(left(host.fds_hard, kFdsReserved + c.client_fds), fds_per_box);
  c.fds_max = std::min(fds, uint64_t{c.boxes_max} * fds_per_box);
  c.pids_max = left(host.pids_max, kPidsReserved);
  c.ptys_max = s.ptys_max != 0 ? std::min<uint64_t>(host.ptys_max, s.ptys_max) : host.ptys_max;
  c.memory_bytes_max = host.memory_total_bytes / 100 * kMemoryPercentOfHost;
  if (c.parked_max + c.stocked_max > 0)
    c.memory_bytes_max -= std::min(c.memory_bytes_max / 2, s.parked_memory_bytes);

  const base::Limits each;
  const auto part = [&](std::string_view what, uint64_t tasks) {
    c.parts.push_back({what, clamp32(tasks)});
  };
  part("memory", c.memory_bytes_max / each.memory_bytes);
  const uint32_t ahead = c.parked_max + c.stocked_max;
  part("descriptors", std::min<uint64_t>(fds / fds_per_box, left(host.boxes_by_fds, ahead)));
  part("processes", c.pids_max / (uint64_t{each.processes} + 1));  // a box's, and its init
  part("namespaces", left(host.boxes_by_namespaces, ahead));
  // With few terminals a task has fewer; without any, they do not bound the boxes.
  const uint64_t granted =
      std::min<uint64_t>(kPtysPerBox, c.ptys_max / std::min(c.boxes_max, kPtyTasksLeast));
  if (granted > 0) part("terminals", c.ptys_max / granted);
  if (by_setting)
    part("the setting boxes_max", c.boxes_max);
  else
    part("the built-in maximum", left(kBoxesMax, ahead));
  return c;
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
  const Capacity& c = report.capacity;
  const std::string budget =
      fmt::format("Budget of boxes ({} tasks fit; {} binds)", c.tasks(), c.binding().what);
  const auto detail = [&](std::string_view what) -> std::string {
    if (what == "memory")
      return fmt::format("{} of {} ({} free now)", base::humanBytes(c.memory_bytes_max),
                         base::humanBytes(b.memory_total_bytes),
                         base::humanBytes(b.memory_available_bytes));
    if (what == "descriptors") return fmt::format("{} hard limit", b.fds_hard);
    if (what == "processes") return fmt::format("{} of {}", c.pids_max, b.pids_max);
    if (what == "namespaces") return fmt::format("{}", b.user_namespaces_max);
    if (what == "terminals") return fmt::format("{} for boxes", c.ptys_max);
    return fmt::format("{} parked and {} stocked boxes besides", c.parked_max, c.stocked_max);
  };
  for (const Capacity::Part& part : c.parts)
    row({budget,
         std::string(part.what == "the setting boxes_max"  ? "boxes_max"
                     : part.what == "the built-in maximum" ? "boxes"
                                                           : part.what),
         fmt::format("{}: {} tasks at the default caps", detail(part.what), part.tasks)});
  if (c.ptys_max == 0) row({budget, "terminals", "none: boxes have no pseudo-terminals"});
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
