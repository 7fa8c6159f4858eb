// Layer: cli. See plan.h.
#include "cli/plan.h"

#include <CLI/CLI.hpp>
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>

#include "base/fd.h"
#include "base/text.h"
#include "cli/pool_replay.h"
#include "cli/report.h"
#include "cli/run.h"
#include "cli/words.h"
#include "config/daemon.h"
#include "config/plan_file.h"
#include "plan/advise.h"
#include "plan/log_trace.h"
#include "plan/render.h"
#include "pool/trace.h"

namespace mayfly::cli {

namespace {

constexpr int kPlanFailed = 1, kWrongUse = 2, kNotMet = 3;
constexpr size_t kLogPiece = 1 << 20;
constexpr uint64_t kWarmUp_ns_most = 30'000'000'000;

constexpr const char* kPlanAbout =
    "Simulates a load on hosts like a measured one, by mayflyd's own rules: how\n"
    "many hosts meet a goal, what binds, which settings. Needs no daemon, no root.\n";
constexpr const char* kPlanFooter = R"(Files (docs/planner.md has every key):
  FILE     TOML: the goal, and the load as [[load]] tables or `trace = "x.csv"`
  host     TOML, written by `mayfly plan calibrate` against a running daemon
  trace    CSV, written by `mayfly trace record` from a log, or your own:
           seconds,template,run_seconds,cpu_seconds,memory_bytes,user,tenant

Exit code: 0; 1 for an error; 2 for a wrong use; 3 if no number of hosts meets
the goal.

Examples:
  mayfly plan calibrate --out host.toml
  journalctl -u mayfly -o cat | mayfly trace record > load.csv
  mayfly plan --host host.toml --trace load.csv --svg plan.svg
  mayfly plan next-year.toml --json | jq .hosts)";

constexpr const char* kCalibrateAbout =
    "Measures this host and a running daemon's templates: runs tasks for about ten\n"
    "seconds a template. Nothing else should use daemon and host meanwhile.\n";
constexpr const char* kRecordAbout =
    "Makes a trace of a daemon's log, or of its journal: a line for each task that\n"
    "ended. Users and tenants become u1, t1 and so on; no id is kept.\n";
constexpr const char* kRecordFooter =
    R"(Refused tasks leave no line in the log, so the trace lacks them.

Examples:
  journalctl -u mayfly -o cat --since yesterday | mayfly trace record > load.csv
  mayfly trace record --out load.csv mayflyd.log)";

// Runs the parser; a text to say, or nothing.
std::optional<PlanText> wordsParsed(CLI::App& app, const std::vector<std::string>& args,
                                    const char* usage) {
  app.get_formatter()->column_width(25);
  app.set_help_flag("-h,--help", "Print this help");
  try {
    app.parse(std::vector<std::string>(args.rbegin(), args.rend()));
  } catch (const CLI::CallForHelp&) {
    std::string text = app.help();
    const size_t at = text.find("Usage: ");
    if (at != std::string::npos) text.replace(at, text.find('\n', at) - at, usage);
    return PlanText{text, 0};
  } catch (const CLI::ParseError& e) {
    return PlanText{fmt::format("{}: {}\n  `{} --help` explains the usage.\n", app.get_name(),
                                whyWrong(app, e), app.get_name()),
                    kWrongUse};
  }
  return std::nullopt;
}

std::variant<PlanOptions, CalibrateOptions, PlanText> parseCalibrate(
    const std::vector<std::string>& args, const std::string& socket) {
  CalibrateOptions out;
  out.socket = socket;
  std::vector<std::string> code;
  CLI::App app(kCalibrateAbout, "mayfly plan calibrate");
  app.add_option("--socket", out.socket, "The daemon's socket")->type_name("PATH");
  app.add_option("--template", out.templates, "Measure this one; repeatable (all)")
      ->type_name("NAME")
      ->expected(1)
      ->take_all();
  app.add_option("--code", code, "A program of a template that prints a line; repeatable")
      ->type_name("NAME=CODE")
      ->expected(1)
      ->take_all();
  app.add_option("--out", out.out, "The host's file (standard output)")->type_name("FILE");
  app.add_option("--seconds", out.seconds, "Of bursts, and of a full host, each (4)")
      ->type_name("N")
      ->check(CLI::Range(0.5, 600.0).description(""));
  app.add_option("--tasks", out.tasks, "Tasks that run one by one (30)")
      ->type_name("N")
      ->check(CLI::Range(5, 10'000).description(""));
  app.add_flag("-q,--quiet", out.quiet, "Say nothing but errors");
  if (auto text = wordsParsed(app, args, "Usage: mayfly plan calibrate [OPTIONS]")) return *text;
  for (const std::string& each : code) {
    const size_t equals = each.find('=');
    if (equals == 0 || equals == std::string::npos)
      return PlanText{fmt::format("mayfly plan calibrate: --code: '{}' is not NAME=CODE\n",
                                  base::printable(each, 60)),
                      kWrongUse};
    out.code.emplace_back(each.substr(0, equals), each.substr(equals + 1));
  }
  return out;
}

base::Status writeOut(const std::string& path, std::string_view text) {
  if (path == "-") {
    writeAll(STDOUT_FILENO, text);
    return base::Unit{};
  }
  MAYFLY_TRY(const base::Fd fd,
             base::openAt(base::FdView(AT_FDCWD), path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  while (!text.empty()) {
    const ssize_t n = ::write(fd.get(), text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return base::failSys(errno, "write", path);
    text.remove_prefix(static_cast<size_t>(n));
  }
  return base::Unit{};
}

base::Result<std::string> readToml(const std::string& path) {
  return base::readSmallFile(base::FdView(AT_FDCWD), path, config::kPlanFileBytesMax);
}

// A file that a scenario names is relative to the scenario's folder.
std::string besideScenario(const std::string& scenario, const std::string& named) {
  const size_t slash = scenario.rfind('/');
  if (named.empty() || named[0] == '/' || slash == std::string::npos) return named;
  return scenario.substr(0, slash + 1) + named;
}

base::Result<config::PlanScenario> readScenario(const PlanOptions& o) {
  config::PlanScenario s;
  if (!o.scenario.empty()) {
    MAYFLY_TRY(const std::string text, readToml(o.scenario));
    MAYFLY_TRY(s, config::parsePlanScenario(text, o.scenario));
    for (std::string* file : {&s.host_file, &s.settings_file, &s.trace_file})
      *file = besideScenario(o.scenario, *file);
  }
  if (!o.host.empty()) s.host_file = o.host;
  if (!o.settings.empty()) s.settings_file = o.settings;
  if (!o.trace.empty()) {
    s.trace_file = o.trace;
    s.loads.clear();
  }
  if (o.seed) s.seed = *o.seed;
  const auto missing = [](const char* what, const char* advice) {
    return base::fail(base::Code::invalidArgument, what, advice);
  };
  if (s.host_file.empty())
    return missing("no host is described",
                   "Give --host FILE; `mayfly plan calibrate --out FILE` writes it.");
  if (s.trace_file.empty() && s.loads.empty())
    return missing("no load is described",
                   "Give --trace FILE, or a scenario with [[load]] tables.");
  return s;
}

base::Result<plan::Input> readInput(const config::PlanScenario& s) {
  plan::Input in;
  MAYFLY_TRY(const std::string host, readToml(s.host_file));
  MAYFLY_TRY(in.host, config::parsePlanHost(host, s.host_file));
  if (!s.settings_file.empty()) {
    MAYFLY_TRY(in.settings, config::loadDaemon(s.settings_file));
  }
  in.seed = s.seed;
  const auto warmUp_ns = [&] {
    const uint64_t tenth_ns = std::min(in.trace.end_ns / 10, kWarmUp_ns_most);
    return s.warm_up_ms ? *s.warm_up_ms * 1'000'000 : tenth_ns;
  };
  if (s.trace_file.empty()) {
    MAYFLY_TRY(in.trace, plan::makeLoad(s, in.host));
    in.warm_up_ns = warmUp_ns();
    return in;
  }
  MAYFLY_TRY(const std::string text, readTrace(s.trace_file));
  MAYFLY_TRY(in.trace, pool::parseTrace(text, s.trace_file, 0, s.seed));
  // A run time that the trace lacks is that of an empty task.
  for (pool::Arrival& a : in.trace.arrivals)
    if (const auto* t = in.host.find(in.trace.templates[a.template_index]); t && a.run_ns == 0)
      a.run_ns = t->task.run_us * 1'000;
  in.warm_up_ns = warmUp_ns();
  return in;
}

}  // namespace

std::variant<PlanOptions, CalibrateOptions, PlanText> parsePlan(
    const std::vector<std::string>& args, const std::string& socket) {
  if (!args.empty() && args[0] == "calibrate")
    return parseCalibrate({args.begin() + 1, args.end()}, socket);
  PlanOptions out;
  CLI::App app(kPlanAbout, "mayfly plan");
  app.footer(kPlanFooter);
  app.add_option("FILE", out.scenario, "The scenario: goal and load");
  app.add_option("--host", out.host, "The host, as it was measured")->type_name("FILE");
  app.add_option("--trace", out.trace, "The load, as it was recorded")->type_name("FILE");
  app.add_option("--config", out.settings, "The daemon's settings (its defaults)")
      ->type_name("FILE");
  app.add_option("--seed", out.seed, "Seed of all random numbers (1)")->type_name("N");
  app.add_option("--svg", out.svg, "Draw load against latency, and what is used")
      ->type_name("FILE");
  app.add_option("--settings", out.settings_out, "Write the settings that this load wants")
      ->type_name("FILE");
  app.add_option("--arrivals", out.arrivals_out, "Write the load as a trace")->type_name("FILE");
  app.add_flag("--json", out.json, "Print JSON");
  if (auto text = wordsParsed(app, args,
                              "Usage: mayfly plan [OPTIONS] [FILE]\n"
                              "       mayfly plan calibrate [OPTIONS]"))
    return *text;
  return out;
}

std::variant<RecordOptions, PlanText> parseTraceVerb(const std::vector<std::string>& args) {
  const bool asks_help = !args.empty() && (args[0] == "-h" || args[0] == "--help");
  if (args.empty() || args[0] != "record") {
    std::string text;
    if (!args.empty() && !asks_help)
      text = fmt::format("mayfly: `mayfly trace` has no verb '{}'; there is `record`\n",
                         base::printable(args[0], 80));
    text += fmt::format(
        "Usage: mayfly trace record [OPTIONS] [FILE]\n\n{}\n"
        "`mayfly trace record --help` lists the options.\n",
        kRecordAbout);
    return PlanText{text, asks_help ? 0 : kWrongUse};
  }
  RecordOptions out;
  CLI::App app(kRecordAbout, "mayfly trace record");
  app.footer(kRecordFooter);
  app.add_option("FILE", out.log, "The log (- or nothing: standard input)");
  app.add_option("--out", out.out, "The trace (standard output)")->type_name("FILE");
  app.add_flag("-q,--quiet", out.quiet, "Say nothing but errors");
  if (auto text = wordsParsed(app, {args.begin() + 1, args.end()},
                              "Usage: mayfly trace record [OPTIONS] [FILE]"))
    return *text;
  return out;
}

base::Result<Planned> plan(const PlanOptions& o) {
  MAYFLY_TRY(const config::PlanScenario scenario, readScenario(o));
  MAYFLY_TRY(plan::Input input, readInput(scenario));
  if (!o.arrivals_out.empty())
    MAYFLY_CHECK(writeOut(o.arrivals_out, pool::writeTrace(input.trace)));
  MAYFLY_TRY(const plan::Advice advice, plan::advise(input, scenario));
  if (!o.svg.empty()) MAYFLY_CHECK(writeOut(o.svg, plan::renderSvg(scenario, advice)));
  if (!o.settings_out.empty()) MAYFLY_CHECK(writeOut(o.settings_out, advice.settings_toml));
  return Planned{o.json ? plan::renderJson(input, scenario, advice)
                        : plan::renderTable(input, scenario, advice),
                 advice.hosts != 0};
}

base::Status record(const RecordOptions& o) {
  base::Fd file;
  base::FdView fd(STDIN_FILENO);
  if (o.log != "-") {
    MAYFLY_TRY(file, base::openAt(base::FdView(AT_FDCWD), o.log, O_RDONLY));
    fd = file.view();
  }
  plan::LogTrace log;
  std::vector<char> piece(kLogPiece);
  std::string rest;
  bool cut = false;  // the line is too long: what is left of it is skipped
  for (;;) {
    const ssize_t n = ::read(fd.get(), piece.data(), piece.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return base::failSys(errno, "read", o.log);
    std::string_view text(piece.data(), static_cast<size_t>(n));
    for (size_t end; (end = text.find('\n')) != std::string_view::npos;) {
      rest += text.substr(0, end);
      text.remove_prefix(end + 1);
      if (!cut) MAYFLY_CHECK(log.line(rest));
      rest.clear();
      cut = false;
    }
    if (rest.size() <= plan::kLogLine_bytes_max)
      rest += text.substr(0, plan::kLogLine_bytes_max + 1 - rest.size());
    else
      cut = true;
    if (n == 0) break;
  }
  if (!cut) MAYFLY_CHECK(log.line(rest));
  MAYFLY_TRY(const pool::Trace trace, log.finish(o.log == "-" ? "the log" : o.log));
  MAYFLY_CHECK(writeOut(o.out, pool::writeTrace(trace)));
  if (!o.quiet)
    fmt::print(stderr,
               "mayfly: {} tasks in {:.0f} s, of {} templates and {} tenants; {} lines skipped\n",
               trace.arrivals.size(), static_cast<double>(trace.end_ns) * 1e-9,
               trace.templates.size(), trace.tenants.size(), log.skipped());
  if (!o.quiet && log.suppressed() != 0)
    fmt::print(stderr,
               "mayfly: the journal dropped {} lines, so the trace lacks tasks: set "
               "a larger LogRateLimitBurst= in the daemon's unit\n",
               log.suppressed());
  return base::Unit{};
}

namespace {

int say(const PlanText& text) {
  fmt::print(text.code == 0 ? stdout : stderr, "{}", text.text);
  return text.code;
}

int sayFailed(const base::Error& error) {
  fmt::print(stderr, "{}", errorText(error));
  return kPlanFailed;
}

}  // namespace

int planMain(const std::string& socket, const std::vector<std::string>& args) {
  const auto options = parsePlan(args, socket);
  if (const auto* text = std::get_if<PlanText>(&options)) return say(*text);
  if (const auto* it = std::get_if<CalibrateOptions>(&options)) {
    const auto text = calibrate(*it);
    if (!text) return sayFailed(text.error());
    const base::Status written = writeOut(it->out.empty() ? "-" : it->out, *text);
    return written ? 0 : sayFailed(written.error());
  }
  const auto planned = plan(std::get<PlanOptions>(options));
  if (!planned) return sayFailed(planned.error());
  writeAll(STDOUT_FILENO, planned->text);
  return planned->met ? 0 : kNotMet;
}

int traceMain(const std::vector<std::string>& args) {
  const auto options = parseTraceVerb(args);
  if (const auto* text = std::get_if<PlanText>(&options)) return say(*text);
  const base::Status done = record(std::get<RecordOptions>(options));
  return done ? 0 : sayFailed(done.error());
}

}  // namespace mayfly::cli
