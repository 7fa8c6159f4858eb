// Layer: cli. See bench.h.
#include "cli/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include <vector>

#include "base/fd.h"
#include "bench/environment.h"
#include "bench/output.h"
#include "cli/bench_options.h"
#include "cli/options.h"
#include "cli/report.h"
#include "image/command.h"

namespace mayfly::cli {
namespace {

constexpr int kNothingMeasured = 1, kDiffers = 1, kCannotCompare = 2;

// The watch says what is measured on stderr, and asks whether Ctrl-C was pressed.
bench::Watch watchOf(const BenchOutput& output) {
  bench::Watch watch;
  watch.stopped = image::interrupted;
  watch.tell = [quiet = output.quiet](const std::string& line) {
    if (!quiet) fmt::print(stderr, "mayfly bench: {}\n", line);
  };
  return watch;
}

using Reports = std::vector<bench::BenchReport>;

base::Result<Reports> measure(const BenchCommand& command) {
  const bench::Watch watch = watchOf(command.output);
  if (auto* it = std::get_if<bench::RunVerb>(&command.verb)) return bench::run(*it, watch);
  auto one = [&]() -> base::Result<bench::BenchReport> {
    if (auto* it = std::get_if<bench::SweepVerb>(&command.verb)) return bench::sweep(*it, watch);
    if (auto* it = std::get_if<bench::LadderVerb>(&command.verb)) return bench::ladder(*it, watch);
    return bench::isolation(std::get<bench::IsolationVerb>(command.verb), watch);
  }();
  if (!one) return base::fail(std::move(one).error());
  Reports out;
  out.push_back(std::move(*one));
  return out;
}

std::string jsonText(const bench::Json& json) {
  return json.dump(1, ' ', false, bench::Json::error_handler_t::replace) + "\n";
}

// One report goes into the folder, two into `a` and `b` below it.
base::Status writeAllReports(const Reports& reports, const std::string& folder,
                             double start_unix_s) {
  if (folder.empty()) return base::Unit{};
  if (reports.size() == 1) return bench::writeReport(folder, reports[0], start_unix_s);
  if (::mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST)
    return base::failSys(errno, "mkdir", folder);
  MAYFLY_CHECK(bench::writeReport(folder + "/a", reports[0], start_unix_s));
  return bench::writeReport(folder + "/b", reports[1], start_unix_s);
}

// Two daemons' reports and their difference; exits like `diff`.
int tellBoth(const Reports& reports, const BenchOutput& output) {
  auto a = bench::readReport(jsonText(bench::toJson(reports[0])), "--socket");
  auto b = bench::readReport(jsonText(bench::toJson(reports[1])), "--against");
  auto diff = a && b ? bench::diff(*a, *b, {}) : base::fail(a ? b.error() : a.error());
  if (output.json)
    fmt::print("{}", jsonText({{"a", bench::toJson(reports[0])},
                               {"b", bench::toJson(reports[1])},
                               {"diff", diff ? bench::diffJson(*diff, *a, *b) : bench::Json()}}));
  else
    fmt::print("{}\n{}\n{}", reports[0].table, reports[1].table,
               diff ? bench::diffTable(*diff, *a, *b, {}) : "");
  if (diff) return diff->differs() ? kDiffers : 0;
  fmt::print(stderr, "{}", errorText(diff.error()));
  return kCannotCompare;
}

int report(const BenchCommand& command) {
  // A signal takes effect when this goes: then nothing of ours is left.
  const image::Interrupts interrupts;
  ::signal(SIGPIPE, SIG_IGN);
  const double start_unix_s = bench::unixNow_s();
  auto reports = measure(command);
  if (!reports) {
    fmt::print(stderr, "{}", errorText(reports.error()));
    return kExitMayfly;
  }
  for (bench::BenchReport& each : *reports)
    if (each.interrupted) each.table += "interrupted: this is what was measured until then\n";
  if (auto written = writeAllReports(*reports, command.output.folder, start_unix_s); !written) {
    fmt::print(stderr, "{}", errorText(std::move(written).error().in("--out")));
    return kExitMayfly;
  }
  const bench::BenchReport& first = reports->front();
  int code = kNothingMeasured;
  if (reports->size() == 2) {
    code = tellBoth(*reports, command.output);
  } else {
    fmt::print("{}", command.output.json ? jsonText(bench::toJson(first)) : first.table);
    for (const bench::Series& s : first.series)
      if (s.total().latency.count() != 0) code = 0;
  }
  ::fflush(stdout);
  return first.interrupted ? kExitCancelled : code;
}

base::Result<bench::Measured> readOne(const std::string& path) {
  MAYFLY_TRY(std::string text,
             base::readSmallFile(base::FdView(AT_FDCWD), path, bench::kReportBytesMax));
  return bench::readReport(text, path);
}

int compare(const DiffVerb& verb, bool json) {
  auto a = readOne(verb.a), b = readOne(verb.b);
  for (const auto* each : {&a, &b})
    if (!*each) {
      fmt::print(stderr, "{}", errorText(each->error()));
      return kCannotCompare;
    }
  auto diff = bench::diff(*a, *b, verb.options);
  if (!diff) {
    fmt::print(stderr, "{}", errorText(diff.error()));
    return kCannotCompare;
  }
  fmt::print("{}", json ? bench::diffJson(*diff, *a, *b).dump(1) + "\n"
                        : bench::diffTable(*diff, *a, *b, verb.options));
  return diff->differs() ? kDiffers : 0;
}

}  // namespace

int benchMain(const std::string& socket, const std::vector<std::string>& args) {
  const BenchCommand command = parseBench(args, socket);
  if (auto* it = std::get_if<BenchText>(&command.verb)) {
    fmt::print(it->code == 0 ? stdout : stderr, "{}", it->text);
    return it->code;
  }
  if (auto* it = std::get_if<DiffVerb>(&command.verb)) return compare(*it, command.output.json);
  return report(command);
}

}  // namespace mayfly::cli
