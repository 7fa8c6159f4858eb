#include "bench/output.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/fd.h"
#include "load/hdr.h"

namespace mayfly::bench {
namespace {

constexpr size_t kNameBytesMax = 64;

// A reader of the old file keeps it whole, and a crash leaves no half of the new one.
base::Status replaceFile(base::FdView dir, const std::string& name, std::string_view text) {
  const std::string fresh = name + ".new";
  MAYFLY_TRY(base::Fd file,
             base::openAt(dir, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0644));
  while (!text.empty()) {
    const ssize_t n = ::write(file.get(), text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return base::failSys(errno, "write", fresh);
    text.remove_prefix(static_cast<size_t>(n));
  }
  if (::renameat(dir.get(), fresh.c_str(), dir.get(), name.c_str()) != 0)
    return base::failSys(errno, "rename", fresh);
  return base::Unit{};
}

base::Status writeHdr(base::FdView dir, const BenchReport& report, double start_unix_s,
                      const char* name, const load::Histogram load::Report::*of) {
  std::vector<load::HdrInterval> intervals;
  uint64_t first_ns = UINT64_MAX;
  for (const Series& s : report.series)
    for (const load::Report& r : s.rounds)
      if (r.began_ns != 0) first_ns = std::min(first_ns, r.began_ns);
  for (const Series& s : report.series) {
    const load::Report sum = s.total();
    if ((sum.*of).count() == 0) continue;
    const std::string tag = fileName(s.name);
    MAYFLY_CHECK(replaceFile(dir, fmt::format("{}-{}.hgrm", name, tag),
                             load::HdrCounts(sum.*of).percentileTable()));
    for (const load::Report& r : s.rounds) {
      if ((r.*of).count() == 0) continue;
      const double start_s = static_cast<double>(r.began_ns - std::min(r.began_ns, first_ns)) / 1e9;
      const double length_s =
          static_cast<double>(r.ended_ns - std::min(r.ended_ns, r.began_ns)) / 1e9;
      intervals.push_back({tag, start_s, length_s, &(r.*of)});
    }
  }
  if (intervals.empty()) return base::Unit{};
  std::stable_sort(intervals.begin(), intervals.end(),
                   [](const auto& x, const auto& y) { return x.start_s < y.start_s; });
  return replaceFile(dir, fmt::format("{}.hlog", name),
                     load::hdrLog(intervals, start_unix_s,
                                  fmt::format("mayfly bench {}: {}, in ns", report.verb, name)));
}

}  // namespace

std::string fileName(const std::string& text) {
  std::string out;
  for (char c : text.substr(0, kNameBytesMax)) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '.';
    if (plain)
      out += c;
    else if (out.empty() || out.back() != '-')
      out += '-';
  }
  return out;
}

base::Status writeReport(const std::string& folder, const BenchReport& report,
                         double start_unix_s) {
  if (::mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST)
    return base::failSys(errno, "mkdir", folder);
  MAYFLY_TRY(base::Fd dir, base::openAt(base::FdView(AT_FDCWD), folder, O_RDONLY | O_DIRECTORY));
  const std::string json = toJson(report).dump(1, ' ', false, Json::error_handler_t::replace);
  MAYFLY_CHECK(replaceFile(dir.view(), "report.json", json + "\n"));
  MAYFLY_CHECK(replaceFile(dir.view(), "table.txt", report.table));
  for (const auto& [name, text] : report.plots)
    MAYFLY_CHECK(replaceFile(dir.view(), fileName(name) + ".svg", text));
  MAYFLY_CHECK(writeHdr(dir.view(), report, start_unix_s, "receipt", &load::Report::latency));
  return writeHdr(dir.view(), report, start_unix_s, "first-byte", &load::Report::first_byte);
}

}  // namespace mayfly::bench
