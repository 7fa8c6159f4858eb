#include "cli/pool_replay.h"

#include <CLI/CLI.hpp>
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/fd.h"
#include "base/text.h"
#include "cli/report.h"
#include "cli/words.h"
#include "config/units.h"

namespace mayfly::cli {

namespace {

using pool::Compared;
using pool::SimFigures;
using pool::TraceShape;

constexpr const char* kReplayAbout =
    "Replays arrivals of tasks against the warm pool in simulated time, and shows\n"
    "our sizing beside a fixed size and an EWMA watermark. Needs no daemon, no root.\n";

constexpr const char* kUsage = "Usage: mayfly pool replay [OPTIONS] [FILE]\n";

constexpr const char* kReplayFooter = R"(Arrivals:
  steady   Poisson: --rate a second (default 20)
  bursty   batches that arrive as one: a mean of --burst tasks (geometric; 20),
           at random times --every apart in the mean (30s); with --spread, the
           tasks of a batch come within that time
  onoff    Poisson at --rate (100) for --on in the mean (1m), then nothing for
           --off in the mean (5m); both times exponential
  FILE     CSV (- is standard input): seconds[,template[,run_seconds]] a line,
           times must not fall; `#` lines and a first line `seconds...` are
           skipped; so are the further fields that `mayfly trace record` writes.
           At most 2,000,000 arrivals, 63 templates, 31 days.
Without FILE and --arrivals: all three, and a table of all three together.

Policies:
  ours     mayflyd's rules: up at once, down slowly, sized so that at most
           --empty of the tasks find no clone
  fixed N  N clones of each template at all times
  EWMA T   each second: an average of the arrivals (the last second weighs 0.3);
           the high mark is one more than the tasks of T; below half of it the
           pool is refilled. Clones above it are thrown away.
`same MB*s` and `same hits` are sizes found by trial: the policy costs as much
memory as ours, or misses no more often. They use hindsight, ours does not.

Columns:
  hit %    tasks that found a parked clone       p99, max  ms waited for a clone
  made     clones made, thrown ones included     thrown    never served a task
  MB*s     memory of parked clones, over time    parked    clones, mean and most

SIZE is like 2MiB, TIME like 500us, 2.5ms, 30s, 5m, 1h. The same options and
seed give the same tables everywhere. Boxes are made, parked, claimed and ended
by mayflyd's own rules. The model leaves out that running tasks slow the makers
down, and that clones die.

Examples:
  mayfly pool replay
  mayfly pool replay --arrivals steady --rate 200 --make 8ms --makers 2
  mayfly pool replay --arrivals bursty --burst 100 --every 1m --max 128
  mayfly pool replay --json yesterday.csv | jq '.tables[0].policies[0].hitRate')";

[[noreturn]] void wrong(const char* flag, const std::string& why) {
  throw CLI::ValidationError(flag, why);
}

// Seconds.
double parseTime(const char* flag, const std::string& text) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {
      {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"m", 60}, {"h", 3600}};
  const size_t end = std::min(text.find_first_not_of("0123456789."), text.size());
  double value = 0;
  auto [stop, err] = std::from_chars(text.data(), text.data() + end, value);
  for (const auto& [name, factor] : kUnits)
    if (err == std::errc{} && stop == text.data() + end && end > 0 && text.substr(end) == name)
      return value * factor;
  wrong(flag, fmt::format("'{}' is not a time. Write it like 2.5ms, 30s or 5m.",
                          base::printable(text, 40)));
}

double bounded(const char* flag, double value, double least, double most) {
  if (!(value >= least && value <= most))
    wrong(flag, fmt::format("{:g} is not from {:g} to {:g}", value, least, most));
  return value;
}

class Reader {
 public:
  Reader(CLI::App& app, std::string group) : app_(app), group_(std::move(group)) {}

  void time(const char* flag, const char* about, double least_s, double most_s,
            std::function<void(double)> take) {
    add(flag, about, "TIME", [=](const std::string& text) {
      take(bounded(flag, parseTime(flag, text), least_s, most_s));
    });
  }
  void count(const char* flag, const char* about, double least, double most,
             std::function<void(uint64_t)> take) {
    add(flag, about, "N", [=](const std::string& text) {
      auto value = config::parseCount(text);
      if (!value) wrong(flag, value.error().message);
      take(static_cast<uint64_t>(bounded(flag, static_cast<double>(*value), least, most)));
    });
  }
  void number(const char* flag, const char* about, const char* type, double least, double most,
              std::function<void(double)> take) {
    add(flag, about, type, [=](const std::string& text) {
      double value = 0;
      auto [end, err] = std::from_chars(text.data(), text.data() + text.size(), value);
      if (err != std::errc{} || end != text.data() + text.size())
        wrong(flag, fmt::format("'{}' is not a number", base::printable(text, 40)));
      take(bounded(flag, value, least, most));
    });
  }
  void size(const char* flag, const char* about, std::function<void(uint64_t)> take) {
    add(flag, about, "SIZE", [=](const std::string& text) {
      auto value = config::parseBytes(text);
      if (!value) wrong(flag, value.error().message + ". " + value.error().advice);
      if (*value > 1ull << 50) wrong(flag, "more than 1 PiB");
      take(*value);
    });
  }

 private:
  void add(const char* flag, const char* about, const char* type,
           std::function<void(const std::string&)> take) {
    app_.add_option_function<std::string>(flag, std::move(take), about)
        ->type_name(type)
        ->group(group_)
        ->trigger_on_parse();
  }
  CLI::App& app_;
  std::string group_;
};

uint64_t nanos(double s) { return static_cast<uint64_t>(std::llround(s * 1e9)); }

}  // namespace

std::variant<ReplayOptions, ReplayText> parseReplay(const std::vector<std::string>& args) {
  ReplayOptions out;
  std::string arrivals;
  std::optional<double> rate, time_s;
  TraceShape shape;
  shape.every_s = 30, shape.on_s = 60, shape.off_s = 300;
  pool::SimOptions& sim = out.compare.sim;
  pool::DemandOptions& demand = out.compare.demand;
  demand.parked_max = 256;
  demand.stocked_max = 0;
  double make_s = 5e-3, box_make_s = 2e-3;

  CLI::App app(kReplayAbout, "mayfly pool replay");
  app.footer(kReplayFooter);
  app.get_formatter()->column_width(25);
  app.set_help_flag("-h,--help", "Print this help")->group("Output");
  app.add_option("FILE", out.file, "A trace to replay")->group("Arrivals");
  app.add_option("--arrivals", arrivals, "Generate: steady, bursty, onoff or all")
      ->type_name("KIND")
      ->group("Arrivals");
  Reader a(app, "Arrivals");
  a.time("--time", "Length of a generated trace (1h)", 1e-3, pool::kTraceTime_s_max,
         [&](double s) { time_s = s; });
  a.number("--rate", "Tasks a second", "N", 1e-6, 1e6, [&](double v) { rate = v; });
  a.number("--burst", "Mean number of tasks in a batch", "N", 1, 10'000,
           [&](double v) { shape.batch = v; });
  a.time("--every", "Mean time between batches", 1e-3, pool::kTraceTime_s_max,
         [&](double s) { shape.every_s = s; });
  a.time("--spread", "Time over which a batch arrives (0s)", 0, 3600,
         [&](double s) { shape.spread_s = s; });
  a.time("--on", "Mean time on", 1e-3, pool::kTraceTime_s_max, [&](double s) { shape.on_s = s; });
  a.time("--off", "Mean time off", 1e-3, pool::kTraceTime_s_max,
         [&](double s) { shape.off_s = s; });
  a.time("--run", "Mean run time of a task (1s)", 0, 3600, [&](double s) { out.run_s = s; });
  a.count("--seed", "Seed of all random numbers (1)", 0, 1e15, [&](uint64_t v) { out.seed = v; });
  Reader h(app, "Host");
  h.time("--make", "Mean time to make a box and its clone (5ms)", 1e-6, 3600,
         [&](double s) { make_s = s; });
  h.time("--make-box", "The box's part of --make (2ms)", 0, 3600,
         [&](double s) { box_make_s = s; });
  h.number("--make-spread", "Spread of its logarithm; 0: constant (0.3)", "X", 0, 2,
           [&](double v) { sim.make_spread = v; });
  h.count("--makers", "Boxes that the host makes at a time (4)", 1, 1024,
          [&](uint64_t v) { sim.makers = static_cast<uint32_t>(v); });
  h.count("--making", "Clones of a template asked for at a time (4)", 1, 1024,
          [&](uint64_t v) { sim.making_max = static_cast<uint32_t>(v); });
  h.time("--claim", "From claim to start of a task (300us)", 0, 3600,
         [&](double s) { sim.claim_ns = nanos(s); });
  h.time("--end", "From end of a task to its box's proven end (2ms)", 0, 3600,
         [&](double s) { sim.end_ns = nanos(s); });
  h.count("--boxes", "Tasks with a box at a time; more wait (4096)", 1, 1e6,
          [&](uint64_t v) { sim.boxes_max = static_cast<uint32_t>(v); });
  h.size("--clone-size", "Unique memory of a parked clone (2MiB)",
         [&](uint64_t v) { sim.each.clone_bytes = v; });
  h.size("--box-size", "Memory of a box without a clone (512KiB)",
         [&](uint64_t v) { sim.box_bytes = v; });
  Reader p(app, "Policies");
  p.number("--empty", "Share of tasks that may find no clone (0.01)", "P", 1e-6, 1,
           [&](double v) { demand.empty_max = v; });
  p.count("--min", "Ours: least number parked while in use (0)", 0, pool::kHeld_max,
          [&](uint64_t v) { demand.parked_min = static_cast<uint32_t>(v); });
  p.count("--max", "Most parked of a template, ours and fixed (256)", 1, pool::kHeld_max,
          [&](uint64_t v) { demand.parked_max = static_cast<uint32_t>(v); });
  p.count("--stock", "Ours: most boxes stocked without clone (0)", 0, pool::kHeld_max,
          [&](uint64_t v) { demand.stocked_max = static_cast<uint32_t>(v); });
  p.time("--unused", "Ours: time without a task until a pool is empty (10m)", 1,
         pool::kTraceTime_s_max, [&](double s) { demand.unused_after_ns = nanos(s); });
  p.size("--memory", "Ours: memory of all parked clones (no limit)",
         [&](uint64_t v) { out.compare.memory_bytes_max = v; });
  p.count("--fixed", "Show this fixed size too; repeatable", 0, pool::kHeld_max, [&](uint64_t v) {
    if (out.compare.fixed.size() >= 16) wrong("--fixed", "is given more than 16 times");
    out.compare.fixed.push_back(static_cast<uint32_t>(v));
  });
  p.time("--ewma", "Show the watermark of this time too; repeatable", 0, 3600, [&](double s) {
    if (out.compare.cover_s.size() >= 16) wrong("--ewma", "is given more than 16 times");
    out.compare.cover_s.push_back(s);
  });
  Reader o(app, "Output");
  o.time("--warm-up", "Leave this first part out of the figures (0s)", 0, pool::kTraceTime_s_max,
         [&](double s) { out.warm_up_s = s; });
  app.add_flag("--json", out.json, "Print JSON, with more figures and each template's")
      ->group("Output");
  // Repeated options are all taken; by default the parser allows one.
  for (const char* flag : {"--fixed", "--ewma"}) app.get_option(flag)->take_all();

  try {
    std::vector<std::string> words(args.rbegin(), args.rend());
    app.parse(words);
    if (!arrivals.empty() && !out.file.empty()) wrong("--arrivals", "and FILE exclude each other");
    if (box_make_s > make_s) wrong("--make-box", "is more than --make");
    static const std::vector<std::string> kKinds{"steady", "bursty", "onoff"};
    if (out.file.empty()) {
      if (arrivals.empty()) arrivals = "all";
      for (size_t i = 0; i < kKinds.size(); ++i) {
        if (arrivals != "all" && arrivals != kKinds[i]) continue;
        shape.kind = static_cast<TraceShape::Kind>(i);
        shape.time_s = time_s.value_or(3600);
        shape.rate_hz = rate.value_or(shape.kind == TraceShape::Kind::onOff ? 100 : 20);
        shape.run_s = out.run_s;
        shape.seed = out.seed;
        out.shapes.push_back(shape);
      }
      if (out.shapes.empty())
        wrong("--arrivals",
              "'" + base::printable(arrivals, 40) + "' is not steady, bursty, onoff or all");
    } else if (time_s || rate) {
      wrong(time_s ? "--time" : "--rate", "is for generated arrivals, not for a FILE");
    }
  } catch (const CLI::CallForHelp&) {
    std::string text = app.help();
    const size_t at = text.find("Usage: ");
    if (at != std::string::npos) text.replace(at, text.find('\n', at) - at + 1, kUsage);
    return ReplayText{text, 0};
  } catch (const CLI::ParseError& e) {
    return ReplayText{fmt::format("mayfly pool replay: {}\n  `mayfly pool replay --help` explains "
                                  "the usage.\n",
                                  whyWrong(app, e)),
                      2};
  }
  sim.each.box_make_ns = nanos(box_make_s);
  sim.each.clone_make_ns = nanos(make_s - box_make_s);
  sim.count_from_ns = nanos(out.warm_up_s);
  sim.seed = out.seed;
  return out;
}

base::Result<std::string> readTrace(const std::string& path) {
  base::Fd file;
  base::FdView fd(STDIN_FILENO);
  if (path != "-") {
    MAYFLY_TRY(file, base::openAt(base::FdView(), path, O_RDONLY));
    fd = file.view();
  }
  std::string text;
  std::vector<char> buffer(1 << 20);
  while (text.size() <= pool::kTraceText_bytes_max) {
    const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return base::failSys(errno, "read", path);
    if (n == 0) break;
    text.append(buffer.data(), static_cast<size_t>(n));
  }
  return text;  // parseTrace refuses a text that is too long
}

namespace {

double ms(uint64_t ns) { return static_cast<double>(ns) * 1e-6; }

// At most six characters: 12.3, 12345, 12.3k, 12345k.
std::string shortly(double value, int digits = 1) {
  const bool thousands = value >= (digits > 0 ? 99'999.5 : 999'999.5);
  if (thousands) value /= 1000;
  return fmt::format("{:.{}f}{}", value, value < 999.95 ? std::max(digits, thousands ? 1 : 0) : 0,
                     thousands ? "k" : "");
}

std::string title(const Compared& c) {
  return c.why.empty() ? c.policy : fmt::format("{}, {}", c.policy, c.why);
}

std::string table(const pool::Trace& trace, size_t index, const std::vector<Compared>& rows) {
  std::string out = fmt::format("{}: {} arrivals in {:.5g} s\n", trace.name, trace.arrivals.size(),
                                static_cast<double>(trace.end_ns) * 1e-9);
  out += fmt::format("{:<24}{:>7}{:>7}{:>7}{:>8}{:>7}{:>8}{:>7}{:>5}\n", "policy", "hit %", "p99",
                     "max", "made", "thrown", "MB*s", "parked", "max");
  for (const Compared& row : rows) {
    const SimFigures& f = row.results[index].all;
    out += fmt::format("{:<24}{:>7.2f}{:>7}{:>7}{:>8}{:>7}{:>8}{:>7.1f}{:>5}\n", title(row),
                       100 * f.hitRate(), shortly(ms(f.wait_p99_ns)), shortly(ms(f.wait_max_ns)),
                       f.clones_made, f.thrown_away, shortly(f.memory_byte_s * 1e-6, 0),
                       f.parked_mean, f.parked_max);
  }
  return out;
}

std::string togetherTable(const std::vector<pool::Trace>& traces,
                          const std::vector<Compared>& rows) {
  std::string out = "All together, one setting for all: hit % of each\n";
  out += fmt::format("{:<24}", "policy");
  for (const char* kind : {"steady", "bursty", "onoff"}) out += fmt::format("{:>9}", kind);
  out += fmt::format("{:>9}{:>9}{:>11}\n", "made", "thrown", "MB*s");
  for (const Compared& row : rows) {
    out += fmt::format("{:<24}", title(row));
    uint64_t made = 0, thrown = 0;
    for (size_t i = 0; i < traces.size(); ++i) {
      const SimFigures& f = row.results[i].all;
      out += fmt::format("{:>9.2f}", 100 * f.hitRate());
      made += f.clones_made;
      thrown += f.thrown_away;
    }
    out += fmt::format("{:>9}{:>9}{:>11}\n", made, thrown, shortly(row.memory_byte_s() * 1e-6, 0));
  }
  return out;
}

using Json = nlohmann::ordered_json;

Json figures(const SimFigures& f) {
  return {{"arrivals", f.arrivals},
          {"hits", f.hits},
          {"hitRate", f.hitRate()},
          {"boxHits", f.box_hits},
          {"clonesMade", f.clones_made},
          {"boxesMade", f.boxes_made},
          {"thrownAway", f.thrown_away},
          {"memoryByteSeconds", f.memory_byte_s},
          {"parkedMean", f.parked_mean},
          {"parkedMax", f.parked_max},
          {"waitMeanMs", f.wait_mean_ns * 1e-6},
          {"waitP50Ms", ms(f.wait_p50_ns)},
          {"waitP90Ms", ms(f.wait_p90_ns)},
          {"waitP99Ms", ms(f.wait_p99_ns)},
          {"waitMaxMs", ms(f.wait_max_ns)}};
}

Json tableJson(const pool::Trace& trace, size_t index, const std::vector<Compared>& rows) {
  Json json{{"trace", trace.name},
            {"arrivals", trace.arrivals.size()},
            {"seconds", static_cast<double>(trace.end_ns) * 1e-9}};
  json["policies"] = Json::array();
  for (const Compared& row : rows) {
    const pool::SimResult& r = row.results[index];
    Json each{{"policy", row.policy}, {"why", row.why}};
    each.update(figures(r.all));
    each.update({{"makersBusy", r.makers_busy},
                 {"runningMean", r.running_mean},
                 {"runningMax", r.running_max},
                 {"boxesMax", r.boxes_max}});
    each["templates"] = Json::object();
    for (size_t i = 0; i < r.templates.size(); ++i)
      each["templates"][trace.templates[i]] = figures(r.templates[i]);
    json["policies"].push_back(std::move(each));
  }
  return json;
}

}  // namespace

base::Result<std::string> replay(const ReplayOptions& options) {
  std::vector<pool::Trace> traces;
  if (options.shapes.empty()) {
    MAYFLY_TRY(std::string text, readTrace(options.file));
    MAYFLY_TRY(auto trace, pool::parseTrace(text, options.file, options.run_s, options.seed));
    traces.push_back(std::move(trace));
  }
  for (const TraceShape& shape : options.shapes) {
    MAYFLY_TRY(auto trace, pool::makeTrace(shape));
    traces.push_back(std::move(trace));
  }
  std::string text;
  Json json{{"tables", Json::array()}};
  for (const pool::Trace& trace : traces) {
    MAYFLY_TRY(auto rows, pool::compare({trace}, options.compare));
    if (options.json)
      json["tables"].push_back(tableJson(trace, 0, rows));
    else
      text += table(trace, 0, rows) + "\n";
  }
  if (traces.size() > 1) {
    MAYFLY_TRY(auto rows, pool::compare(traces, options.compare));
    text += togetherTable(traces, rows);
    for (size_t i = 0; i < traces.size(); ++i)
      json["together"].push_back(tableJson(traces[i], i, rows));
  }
  if (!options.json) return text;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

int poolMain(const std::vector<std::string>& args) {
  const bool asks_help = !args.empty() && (args[0] == "-h" || args[0] == "--help");
  if (args.empty() || args[0] != "replay") {
    if (!args.empty() && !asks_help)
      fmt::print(stderr, "mayfly: `mayfly pool` has no verb '{}'; there is `replay`\n",
                 base::printable(args[0], 80));
    fmt::print(asks_help ? stdout : stderr,
               "Usage: mayfly pool replay [OPTIONS] [FILE]\n\n{}\n"
               "`mayfly pool replay --help` lists the options.\n",
               kReplayAbout);
    return asks_help ? 0 : 2;
  }
  auto parsed = parseReplay({args.begin() + 1, args.end()});
  if (auto* it = std::get_if<ReplayText>(&parsed)) {
    fmt::print(it->code == 0 ? stdout : stderr, "{}", it->text);
    return it->code;
  }
  auto text = replay(std::get<ReplayOptions>(parsed));
  if (!text) {
    fmt::print(stderr, "{}", errorText(text.error()));
    return 1;
  }
  fmt::print("{}", *text);
  return 0;
}

}  // namespace mayfly::cli
