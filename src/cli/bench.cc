// Layer: cli. See bench.h.
#include "cli/bench.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <stdio.h>

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

base::Result<bench::BenchReport> measure(const BenchCommand& command) {
  const bench::Watch watch = watchOf(command.output);
  if (auto* it = std::get_if<bench::RunVerb>(&command.verb)) return bench::run(*it, watch);
  if (auto* it = std::get_if<bench::SweepVerb>(&command.verb)) return bench::sweep(*it, watch);
  if (auto* it = std::get_if<bench::LadderVerb>(&command.verb)) return bench::ladder(*it, watch);
  return bench::isolation(std::get<bench::IsolationVerb>(command.verb), watch);
}

int report(const BenchCommand& command) {
  // A signal takes effect when this goes: then nothing of ours is left.
  const image::Interrupts interrupts;
  ::signal(SIGPIPE, SIG_IGN);
  const double start_unix_s = bench::unixNow_s();
  auto report = measure(command);
  if (!report) {
    fmt::print(stderr, "{}", errorText(report.error()));
    return kExitMayfly;
  }
  if (report->interrupted) report->table += "interrupted: this is what was measured until then\n";
  if (!command.output.folder.empty()) {
    if (auto written = bench::writeReport(command.output.folder, *report, start_unix_s); !written) {
      fmt::print(stderr, "{}", errorText(std::move(written).error().in("--out")));
      return kExitMayfly;
    }
  }
  fmt::print("{}", command.output.json ? bench::toJson(*report).dump(
                                             1, ' ', false, bench::Json::error_handler_t::replace) +
                                             "\n"
                                       : report->table);
  ::fflush(stdout);
  if (report->interrupted) return kExitCancelled;
  for (const bench::Series& s : report->series)
    if (s.total().latency.count() != 0) return 0;
  return kNothingMeasured;
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
