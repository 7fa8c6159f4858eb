// Layer: cli. See bench_options.h.
#include "cli/bench_options.h"

#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <optional>

#include "base/fd.h"
#include "base/text.h"
#include "cli/template.h"
#include "cli/words.h"
#include "config/daemon.h"
#include "config/mix.h"
#include "config/units.h"

namespace mayfly::cli {
namespace {

using bench::LoadShape;

constexpr const char* kBenchAbout =
    "mayfly bench: measures a daemon under load.\n\n"
    "  mayfly bench run [OPTIONS]          one load, in rounds\n"
    "  mayfly bench sweep [OPTIONS]        the highest rate that keeps a goal\n"
    "  mayfly bench ladder [OPTIONS]       Mayfly's mechanisms beside other programs;\n"
    "                                      needs root, starts daemons of its own\n"
    "  mayfly bench isolation [OPTIONS]    what a noisy tenant costs another one\n"
    "  mayfly bench diff A B [OPTIONS]     do two reports differ by more than noise?\n\n"
    "`mayfly bench VERB --help` lists the options; docs/bench.md explains the figures.\n"
    "Latency counts from the time at which a task was meant to start. Ctrl-C ends a\n"
    "measurement early and reports what was measured.\n";

constexpr const char* kTasksFooter =
    R"(Without --mix, the tasks are one program: -c, --script, or print(6*7); with a
trace, one that sleeps as long as the trace says.
TIME is like 250ms, 30s or 2m. With --out: report.json, table.txt, plots (SVG),
and HdrHistogram's files (.hgrm, .hlog).

Exit code: 0, or 1 if no task succeeded, 2 for a wrong use, 125 for an error,
130 after Ctrl-C.)";

constexpr const char* kDiffFooter =
    "Exit code: 0 if no difference is more than noise, 1 if one is, 2 if the reports\n"
    "cannot be compared.";

[[noreturn]] void refuse(const char* flag, const std::string& why) {
  throw CLI::ValidationError(flag, why);
}
[[noreturn]] void refuse(const char* flag, const base::Error& error) {
  refuse(flag, error.advice.empty() ? error.message : error.message + ". " + error.advice);
}

// Adds options whose values have units and bounds.
class Flags {
 public:
  Flags(CLI::App& app, std::string group) : app_(app), group_(std::move(group)) {}

  Flags& time(const char* flag, const char* about, double least_s, double most_s, double& to) {
    return add(flag, about, "TIME", [=, &to](const std::string& text) {
      auto value = config::parseDurationMs(text);
      if (!value) refuse(flag, value.error());
      const double s = static_cast<double>(*value) / 1e3;
      if (s < least_s || s > most_s)
        refuse(flag, fmt::format("{:g} s is not from {:g} to {:g} s", s, least_s, most_s));
      to = s;
    });
  }
  template <class Int>
  Flags& count(const char* flag, const char* about, uint64_t least, uint64_t most, Int& to) {
    return add(flag, about, "N", [=, &to](const std::string& text) {
      auto value = config::parseCount(text);
      if (!value) refuse(flag, value.error());
      if (*value < least || *value > most)
        refuse(flag, fmt::format("{} is not from {} to {}", *value, least, most));
      to = static_cast<Int>(*value);
    });
  }
  Flags& number(const char* flag, const char* about, double least, double most, double& to) {
    return add(flag, about, "X", [=, &to](const std::string& text) {
      double value = 0;
      auto [end, err] = std::from_chars(text.data(), text.data() + text.size(), value);
      if (err != std::errc{} || end != text.data() + text.size() || !(value >= least) ||
          !(value <= most))
        refuse(flag, fmt::format("'{}' is not a number from {:g} to {:g}",
                                 base::printable(text, 40), least, most));
      to = value;
    });
  }
  template <class Text>
  Flags& text(const char* flag, const char* about, const char* type, Text& to) {
    app_.add_option(flag, to, about)->type_name(type)->group(group_);
    return *this;
  }
  Flags& texts(const char* flag, const char* about, const char* type,
               std::vector<std::string>& to) {
    app_.add_option(flag, to, about)->type_name(type)->group(group_)->allow_extra_args(false);
    return *this;
  }
  Flags& flag(const char* name, const char* about, bool& to) {
    app_.add_flag(name, to, about)->group(group_);
    return *this;
  }
  Flags& word(const char* flag, const char* about, std::vector<std::string_view> words,
              size_t& to) {
    return add(flag, about, "WORD", [=, &to](const std::string& text) {
      const auto at = std::find(words.begin(), words.end(), text);
      if (at == words.end()) {
        std::string all;
        for (std::string_view each : words) all += (all.empty() ? "" : ", ") + std::string(each);
        refuse(flag, fmt::format("'{}' is none of {}", base::printable(text, 40), all));
      }
      to = static_cast<size_t>(at - words.begin());
    });
  }

 private:
  Flags& add(const char* flag, const char* about, const char* type,
             std::function<void(const std::string&)> take) {
    app_.add_option_function<std::string>(flag, std::move(take), about)
        ->type_name(type)
        ->group(group_)
        ->trigger_on_parse();
    return *this;
  }
  CLI::App& app_;
  std::string group_;
};

// What the words say of arrivals and tasks; turned into values once all are read.
struct LoadWords {
  LoadShape shape;
  size_t kind = 0;
  std::string trace;
  uint32_t in_flight = 0;             // 0: not given
  double time_s = 0, warm_up_s = -1;  // not given
  std::string mix, template_name = "python", script, tenant;
  std::optional<std::string> code, expect;
};

// Runs as long as the trace says.
constexpr const char* kTraced =
    "import os, time\ntime.sleep(float(os.environ['RUN_SECONDS']))\nprint(6*7)";
constexpr uint32_t kInFlightOpen = 1'000, kInFlightClosed = 4;
constexpr double kTime_s = 5, kWarmUp_s = 1;
constexpr size_t kTraceBytesMax = pool::kTraceText_bytes_max;

void addTaskFlags(CLI::App& app, LoadWords& w) {
  Flags(app, "Tasks")
      .text("--mix", "A file with kinds of tasks and their weights", "FILE", w.mix)
      .text("-t,--template", "The template of the one program (python)", "NAME", w.template_name)
      .text("-c", "The program itself", "CODE", w.code)
      .text("--script", "The program's file", "FILE", w.script)
      .text("--expect", "What each task must print, in full", "TEXT", w.expect)
      .text("--tenant", "Whom the tasks are for", "NAME", w.tenant);
}

void addPaceFlags(CLI::App& app, LoadWords& w) {
  Flags(app, "Arrivals")
      .count("--in-flight", "Most tasks at a time (1000; closed loop: 4)", 1, bench::kInFlightMax,
             w.in_flight)
      .time("--time", "Length of each round (5s; a trace: all of it)", 0.05, bench::kTime_s_max,
            w.time_s)
      .time("--warm-up", "Before it, not recorded (1s; a trace: 0s)", 0, 3'600, w.warm_up_s)
      .count("--seed", "Seed of all that is drawn (1)", 0, 1'000'000'000, w.shape.seed);
}

void addOutputFlags(CLI::App& app, BenchOutput& out) {
  Flags(app, "Output")
      .text("--out", "Write report, table, plots and histograms here", "DIR", out.folder)
      .flag("--json", "Print the report as JSON, not as a table", out.json)
      .flag("-q,--quiet", "No progress on stderr", out.quiet);
}

config::Mix readMix(const char* flag, const std::string& path) {
  auto mix = config::loadMix(path);
  if (!mix) refuse(flag, mix.error());
  return std::move(*mix);
}

// The text of a trace: at most kTraceBytesMax.
std::shared_ptr<const pool::Trace> readTraceFile(const std::string& path, uint64_t seed) {
  auto text = base::readSmallFile(base::FdView(AT_FDCWD), path, kTraceBytesMax);
  if (!text) refuse("--trace", text.error());
  auto trace = pool::parseTrace(*text, path, 0, seed);
  if (!trace) refuse("--trace", trace.error());
  return std::make_shared<const pool::Trace>(std::move(*trace));
}

config::Mix oneProgram(const LoadWords& w) {
  if (w.code && !w.script.empty()) refuse("-c", "and --script exclude each other");
  config::MixTask task;
  task.template_name = w.template_name;
  task.tenant = w.tenant;
  task.expect = w.expect;
  task.script = w.script;
  const bool traced = static_cast<LoadShape::Kind>(w.kind) == LoadShape::Kind::trace;
  task.name = !w.script.empty() ? w.script : w.code ? "-c" : traced ? "sleep" : "print(6*7)";
  if (w.script.empty()) task.code = w.code.value_or(traced ? kTraced : "print(6*7)");
  if (!w.code && w.script.empty() && !task.expect) task.expect = "42\n";
  config::Mix mix = bench::mixOf(std::move(task));
  mix.name = fmt::format("{} on {}", base::printable(mix.tasks[0].name, 60), w.template_name);
  return mix;
}

// The load that the words mean.
bench::MixLoad loadOf(const LoadWords& w) {
  bench::MixLoad load;
  if (!w.mix.empty()) {
    if (w.code || !w.script.empty() || w.expect || !w.tenant.empty())
      refuse("--mix", "names the tasks; -c, --script, --expect and --tenant are for one program");
    load.mix = std::make_shared<const config::Mix>(readMix("--mix", w.mix));
  } else {
    load.mix = std::make_shared<const config::Mix>(oneProgram(w));
  }
  load.seed = w.shape.seed;
  load.trace = w.shape.trace;
  return load;
}

void finishShape(LoadWords& w) {
  LoadShape& s = w.shape;
  s.kind = static_cast<LoadShape::Kind>(w.kind);
  const bool traced = s.kind == LoadShape::Kind::trace;
  if (traced == w.trace.empty())
    refuse("--trace", traced ? "is needed with --arrivals trace" : "needs --arrivals trace");
  if (traced) s.trace = readTraceFile(w.trace, s.seed);
  const bool closed = s.kind == LoadShape::Kind::closed;
  s.in_flight = w.in_flight != 0 ? w.in_flight : closed ? kInFlightClosed : kInFlightOpen;
  s.warm_up_s = w.warm_up_s >= 0 ? w.warm_up_s : traced ? 0 : kWarmUp_s;
  const double whole_s =
      traced ? std::max(0.05, static_cast<double>(s.trace->end_ns) * 1e-9 / s.speed) : kTime_s;
  s.time_s = w.time_s > 0 ? w.time_s : whole_s;
  if (s.time_s > bench::kTime_s_max)
    refuse("--speed", fmt::format("the trace takes {:.0f} s at this speed; at most {:.0f} s are "
                                  "replayed",
                                  s.time_s, bench::kTime_s_max));
  const double tasks = s.stated_per_s() * (s.time_s + s.warm_up_s);
  if (tasks > static_cast<double>(bench::kTasksMax))
    refuse("--rate", fmt::format("a round would have {:.0f} tasks; at most {} are allowed", tasks,
                                 bench::kTasksMax));
}

// One verb's parser and what it makes of its words.
struct BenchParser {
  explicit BenchParser(const char* about, const char* name, const char* footer)
      : app(about, std::string("mayfly bench ") + name) {
    app.footer(footer);
    app.get_formatter()->column_width(25);
    app.set_help_flag("-h,--help", "Print this help")->group("Output");
  }
  CLI::App app;
  std::function<void(BenchCommand&)> finish;
};

void addSocket(CLI::App& app, std::string& socket) {
  Flags(app, "Daemon").text("--socket", "The daemon's socket", "PATH", socket);
}

void defineRun(BenchParser& p, BenchCommand& out, LoadWords& w, bench::RunVerb& verb) {
  addSocket(p.app, verb.socket);
  Flags(p.app, "Daemon")
      .text("--against", "Another daemon's: rounds by turns, then `diff`", "PATH", verb.against);
  Flags(p.app, "Arrivals")
      .word("--arrivals", "poisson, constant, bursts, trace or closed (poisson)",
            {"poisson", "constant", "bursts", "trace", "closed"}, w.kind)
      .number("--rate", "Tasks a second: poisson, constant (10)", 1e-3, 1e6, w.shape.rate_per_s)
      .count("--burst", "Tasks of a burst (10)", 1, 100'000, w.shape.burst)
      .time("--every", "From burst to burst (1s)", 1e-3, 3'600, w.shape.every_s)
      .text("--trace", "Arrivals: CSV, as of `mayfly trace record`", "FILE", w.trace)
      .number("--speed", "A trace, so many times as fast (1)", 1e-3, 1e6, w.shape.speed);
  addPaceFlags(p.app, w);
  Flags(p.app, "Arrivals")
      .count("--tasks", "Most tasks of a round, warm-up included", 1, bench::kTasksMax,
             w.shape.tasks_max)
      .count("--rounds", "Rounds; `diff` needs six on each side (6)", 1, bench::kRoundsMax,
             verb.rounds);
  addTaskFlags(p.app, w);
  addOutputFlags(p.app, out.output);
  p.finish = [&](BenchCommand& command) {
    finishShape(w);
    verb.shape = w.shape;
    verb.load = loadOf(w);
    command.verb = verb;
  };
}

void defineSweep(BenchParser& p, BenchCommand& out, LoadWords& w, bench::SweepVerb& verb,
                 std::string& goal) {
  addSocket(p.app, verb.socket);
  Flags(p.app, "Rates")
      .text("--goal", "Like p99=50ms, first-byte:p50=5ms (3x the first p99)", "GOAL", goal)
      .number("--from", "The first rate, tasks a second (10)", 1e-2, 1e6, verb.search.from_per_s)
      .number("--to", "The highest rate (10000)", 1e-2, 1e6, verb.search.to_per_s)
      .number("--growth", "From rate to rate until one is bad (1.5)", 1.05, 10, verb.search.growth)
      .number("--precision", "Width of the answer, as a share of it (0.05)", 0.005, 1,
              verb.search.precision)
      .count("--rates", "Most rates to measure (32)", 1, 64, verb.search.points_max)
      .count("--repeats", "Rounds of each rate; the median counts (3)", 1, 10, verb.repeats);
  Flags(p.app, "Arrivals")
      .word("--arrivals", "poisson or constant (poisson)", {"poisson", "constant"}, w.kind);
  addPaceFlags(p.app, w);
  addTaskFlags(p.app, w);
  addOutputFlags(p.app, out.output);
  p.finish = [&](BenchCommand& command) {
    if (verb.search.to_per_s < verb.search.from_per_s) refuse("--to", "is less than --from");
    w.shape.rate_per_s = verb.search.to_per_s;
    finishShape(w);
    if (!goal.empty()) {
      auto parsed = bench::parseGoal(goal);
      if (!parsed) refuse("--goal", parsed.error());
      verb.goal = *parsed;
    }
    verb.shape = w.shape;
    verb.load = loadOf(w);
    command.verb = verb;
  };
}

void defineIsolation(BenchParser& p, BenchCommand& out, LoadWords& w, bench::IsolationVerb& verb,
                     size_t& noise, std::string& noise_mix) {
  addSocket(p.app, verb.socket);
  Flags(p.app, "Noise")
      .word("--noise", "Its tasks: cpu, memory, disk, churn or all (all)",
            {std::begin(bench::kNoises), std::end(bench::kNoises)}, noise)
      .text("--noise-mix", "Tasks of its own, instead of --noise", "FILE", noise_mix)
      .count("--noise-in-flight", "Its tasks at a time (4)", 1, bench::kInFlightMax,
             verb.noise_in_flight)
      .count("--pairs", "Pairs of a quiet and a noisy phase (6)", 1, bench::kRoundsMax, verb.pairs);
  Flags(p.app, "Arrivals")
      .word("--arrivals", "The victim's: poisson or constant (poisson)", {"poisson", "constant"},
            w.kind)
      .number("--rate", "The victim's tasks a second (10)", 1e-3, 1e6, w.shape.rate_per_s);
  addPaceFlags(p.app, w);
  addTaskFlags(p.app, w);
  addOutputFlags(p.app, out.output);
  p.finish = [&](BenchCommand& command) {
    if (w.mix.empty() && w.tenant.empty()) w.tenant = "victim";
    finishShape(w);
    verb.victim = w.shape;
    verb.victim_load = loadOf(w);
    verb.noise_load.seed = w.shape.seed + 1;
    verb.noise_load.mix = std::make_shared<const config::Mix>(
        noise_mix.empty() ? bench::noiseMix(static_cast<bench::Noise>(noise), "noisy")
                          : readMix("--noise-mix", noise_mix));
    command.verb = verb;
  };
}

void defineLadder(BenchParser& p, BenchCommand& out, bench::LadderVerb& verb, double& rest_s) {
  Flags(p.app, "Ladder")
      .count("--rounds", "Rounds; `diff` needs eight on each side (8)", 1, bench::kRoundsMax,
             verb.rounds)
      .count("--tasks", "Tasks of each rung in a round (20)", 1, 10'000, verb.tasks)
      .time("--rest", "Before each task (20ms)", 0, 10, rest_s)
      .count("--seed", "Seed of the order of turns (1)", 0, 1'000'000'000, verb.seed)
      .texts("--templates", "A folder of templates; repeatable", "DIR", verb.template_dirs)
      .text("--state-dir", "The folder of the images (MAYFLY_STATE_DIR)", "DIR", verb.state_dir);
  addOutputFlags(p.app, out.output);
  p.finish = [&](BenchCommand& command) {
    verb.rest_ms = static_cast<uint32_t>(rest_s * 1e3);
    command.verb = verb;
  };
}

void defineDiff(BenchParser& p, BenchCommand& out, DiffVerb& verb) {
  p.app.add_option("A", verb.a, "A report.json")->required();
  p.app.add_option("B", verb.b, "Another one, of the same verb")->required();
  Flags(p.app, "Test")
      .number("--margin", "Ignore a difference of this share (0.03)", 0, 10, verb.options.margin)
      .count("--seed", "Seed of the bootstrap (1)", 0, 1'000'000'000, verb.options.seed);
  Flags(p.app, "Output").flag("--json", "Print JSON, not a table", out.output.json);
  p.finish = [&](BenchCommand& command) { command.verb = verb; };
}

void parseWords(BenchParser& p, const std::vector<std::string>& args, BenchCommand& out) {
  try {
    std::vector<std::string> words(args.rbegin(), args.rend());
    p.app.parse(words);
    p.finish(out);
  } catch (const CLI::CallForHelp&) {
    std::string text = p.app.help();
    if (const size_t at = text.find("Usage: "); at != std::string::npos)
      text.replace(at, text.find('\n', at) - at,
                   fmt::format("Usage: {}{} [OPTIONS]", p.app.get_name(),
                               p.app.get_name().ends_with("diff") ? " A B" : ""));
    out.verb = BenchText{text, 0};
  } catch (const CLI::ParseError& e) {
    out.verb = BenchText{fmt::format("{}: {}\n  `{} --help` explains the usage.\n",
                                     p.app.get_name(), whyWrong(p.app, e), p.app.get_name()),
                         2};
  }
}

BenchCommand whichVerb(const std::vector<std::string>& args) {
  const bool asks_help = !args.empty() && (args[0] == "-h" || args[0] == "--help");
  std::string text;
  if (!args.empty() && !asks_help) {
    static constexpr std::string_view kVerbs[] = {"run", "sweep", "ladder", "isolation", "diff"};
    const std::string_view near = base::nearest(args[0], kVerbs);
    text = fmt::format("mayfly bench: there is no verb '{}'{}\n\n", base::printable(args[0], 80),
                       near.empty() ? "" : fmt::format("; the nearest is '{}'", near));
  }
  return {BenchText{text + kBenchAbout, asks_help ? 0 : 2}, {}};
}

}  // namespace

BenchCommand parseBench(const std::vector<std::string>& args, const std::string& socket) {
  const std::string verb = args.empty() ? "" : args[0];
  const std::vector<std::string> rest(args.begin() + (args.empty() ? 0 : 1), args.end());
  BenchCommand out;
  LoadWords words;
  if (verb == "run") {
    bench::RunVerb run;
    run.socket = socket;
    BenchParser p("Sends one load to a daemon, in rounds, and reports latency and rate.\n", "run",
                  kTasksFooter);
    defineRun(p, out, words, run);
    parseWords(p, rest, out);
  } else if (verb == "sweep") {
    bench::SweepVerb sweep;
    sweep.socket = socket;
    std::string goal;
    BenchParser p("Raises the rate until the goal is missed; says the rate that keeps it.\n",
                  "sweep", kTasksFooter);
    defineSweep(p, out, words, sweep, goal);
    parseWords(p, rest, out);
  } else if (verb == "isolation") {
    bench::IsolationVerb isolation;
    isolation.socket = socket;
    size_t noise = static_cast<size_t>(bench::Noise::all);
    std::string noise_mix;
    BenchParser p("Measures a tenant alone and beside a noisy one, in pairs.\n", "isolation",
                  kTasksFooter);
    defineIsolation(p, out, words, isolation, noise, noise_mix);
    parseWords(p, rest, out);
  } else if (verb == "ladder") {
    bench::LadderVerb ladder;
    ladder.mayflyd = executableDir() + "/mayflyd";
    const char* state_dir = ::getenv("MAYFLY_STATE_DIR");
    ladder.state_dir = state_dir != nullptr ? state_dir : config::Daemon{}.state_dir;
    double rest_s = 0.02;
    BenchParser p("One small task by each mechanism, and by bwrap, runc and runsc.\n", "ladder",
                  kTasksFooter);
    defineLadder(p, out, ladder, rest_s);
    parseWords(p, rest, out);
  } else if (verb == "diff") {
    DiffVerb diff;
    BenchParser p("Says whether two reports differ by more than noise.\n", "diff", kDiffFooter);
    defineDiff(p, out, diff);
    parseWords(p, rest, out);
  } else {
    return whichVerb(args);
  }
  return out;
}

}  // namespace mayfly::cli
