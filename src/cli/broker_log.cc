#include "cli/broker_log.h"

#include <fmt/format.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/text.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/run.h"
#include "config/daemon.h"

namespace mayfly::cli {

using base::Code;
using base::fail;
using base::printable;
using base::Result;

namespace {

constexpr uint32_t kFollowedLines = 10;  // shown before those that come, unless --lines says more
constexpr uint32_t kLinesMax = 100'000;
constexpr uint32_t kComplaintsMax = 20;  // the others are counted
constexpr int kLookMs = 200;             // between two looks at the file
constexpr size_t kTextBytesMax = 400, kPutBytes = 64u << 10;
constexpr const char* kRow =
    "{:<24}  {:<20}  {:<6}  {:<10}  {:<20}  {:<8}  {:>3}  {:>10}  {:>10}  {:>9}  {}\n";

struct Entry {
  std::string time, tenant, kind, action, target, outcome, rule, trace;
  uint64_t task = 0, status = 0, request_bytes = 0, answer_bytes = 0, duration_us = 0;
  uint32_t user = 0;
};

// Takes keys of a line; remembers the first that is missing or of another type.
class Keys {
 public:
  explicit Keys(const nlohmann::json& line) : line_(line) {}

  void text(const char* key, std::string& to, bool needed = true) {
    const auto at = line_.find(key);
    if (at != line_.end() && at->is_string())
      to = at->get<std::string>();
    else if (needed || at != line_.end())
      wrong(key);
  }
  template <class T>
  void number(const char* key, T& to, bool needed = true) {
    const auto at = line_.find(key);
    if (at != line_.end() && at->is_number_unsigned() &&
        at->get<uint64_t>() <= std::numeric_limits<T>::max())
      to = at->get<T>();
    else if (needed || at != line_.end())
      wrong(key);
  }
  const std::string& fault() const { return fault_; }

 private:
  void wrong(const char* key) {
    if (fault_.empty()) fault_ = fmt::format("no good '{}'", key);
  }

  const nlohmann::json& line_;
  std::string fault_;
};

Result<Entry> entryOf(std::string_view line) {
  const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object()) return fail(Code::invalidArgument, "no JSON object");
  Entry e;
  Keys keys(json);
  for (const auto& [key, to] : {std::pair{"time", &e.time},
                                {"tenant", &e.tenant},
                                {"kind", &e.kind},
                                {"action", &e.action},
                                {"target", &e.target},
                                {"outcome", &e.outcome}})
    keys.text(key, *to);
  keys.text("rule", e.rule, false);
  keys.text("trace", e.trace, false);
  keys.number("task", e.task);
  keys.number("user", e.user);
  keys.number("status", e.status, false);
  for (const auto& [key, to] : {std::pair{"request_bytes", &e.request_bytes},
                                {"answer_bytes", &e.answer_bytes},
                                {"duration_us", &e.duration_us}})
    keys.number(key, *to);
  if (!keys.fault().empty()) return fail(Code::invalidArgument, keys.fault());
  return e;
}

bool matches(const LogFilter& filter, const Entry& e) {
  const auto same = [](const auto& wanted, const auto& is) { return !wanted || *wanted == is; };
  const auto& outcomes = filter.outcomes;
  return same(filter.task, e.task) && same(filter.user, e.user) && same(filter.tenant, e.tenant) &&
         same(filter.action, e.action) && e.trace.find(filter.trace) != std::string::npos &&
         (outcomes.empty() ||
          std::find(outcomes.begin(), outcomes.end(), e.outcome) != outcomes.end());
}

std::string rowOf(const Entry& e) {
  const auto text = [](const std::string& value) { return printable(value, kTextBytesMax); };
  const std::string action = e.action.empty() ? e.kind : e.kind + "." + e.action;
  std::string target = text(e.target);
  if (!e.rule.empty()) target += fmt::format("  [{}]", text(e.rule));
  return fmt::format(kRow, text(e.time), e.task, e.user, e.tenant.empty() ? "-" : text(e.tenant),
                     text(action), text(e.outcome), e.status == 0 ? "-" : std::to_string(e.status),
                     base::humanBytes(e.request_bytes), base::humanBytes(e.answer_bytes),
                     base::humanNanos(e.duration_us * 1'000), target);
}

int failed(const base::Error& error) {
  writeAll(STDERR_FILENO, errorText(error));
  return 1;
}

Result<AuditTail> openTail(const LogOptions& options) {
  MAYFLY_TRY(const std::string path, auditFileOf(options));
  auto tail = AuditTail::open(path);
  if (tail) return tail;
  base::Error error = std::move(tail).error();
  if (error.sys == ENOENT)
    error.advice = options.file.empty()
                       ? "A daemon with a policy makes it. Name its settings (--config), or its "
                         "--instance and --state-dir, or the file (--file)."
                       : "";
  else if (error.sys == EACCES)
    error.advice = "The audit file is for root and its group.";
  return fail(std::move(error).in("the broker's audit file"));
}

}  // namespace

void addLogOptions(CLI::App& app, LogOptions& to) {
  app.add_flag("-f,--follow", to.follow, "Go on with the lines that come, until a signal");
  app.add_option("-n,--lines", to.lines, "Only the last lines that match [all; with --follow 10]")
      ->check(CLI::Range(0u, kLinesMax))
      ->type_name("N");
  app.add_option("--task", to.filter.task, "Only this task's")->type_name("ID");
  app.add_option("--user", to.filter.user, "Only of tasks of the user with this number")
      ->type_name("N");
  // An option of CLI11 that is std::optional takes an empty word for none.
  app.add_option_function<std::string>(
         "--tenant", [&to](const std::string& name) { to.filter.tenant = name; },
         "Only of this tenant's tasks; '': of no tenant")
      ->type_name("NAME");
  app.add_option("--action", to.filter.action, "Only of this action")->type_name("NAME");
  app.add_option("--trace", to.filter.trace, "Only of tasks with this in their W3C trace context")
      ->type_name("TEXT");
  app.add_option("--outcome", to.filter.outcomes,
                 "Only allowed, refused, failed, revoked or replayed; repeatable")
      ->check(CLI::IsMember({"allowed", "refused", "failed", "revoked", "replayed"}))
      ->allow_extra_args(false)
      ->type_name("WORD");
  app.add_flag_callback(
      "--refused", [&to] { to.filter.outcomes.emplace_back("refused"); },
      "The same as --outcome refused");
  app.add_flag("--json", to.json, "The lines as they are, one JSON object each");
  app.add_option("--file", to.file, "The audit file; its rotated ones FILE.1... are read before")
      ->type_name("FILE");
  app.add_option("--config", to.config, "mayflyd's settings, which name its instance and folder")
      ->type_name("FILE");
  app.add_option("--instance", to.instance, "The daemon's name [default]")->type_name("NAME");
  app.add_option("--state-dir", to.state_dir, "The daemon's folder (MAYFLY_STATE_DIR)")
      ->type_name("DIR");
}

Result<std::string> auditFileOf(const LogOptions& options) {
  if (!options.file.empty()) return options.file;
  config::Daemon settings;
  if (const char* dir = ::getenv("MAYFLY_STATE_DIR")) settings.state_dir = dir;
  if (!options.config.empty()) {
    MAYFLY_TRY(settings, config::loadDaemon(options.config));
    if (settings.broker_policy.empty())
      return fail(Code::failedPrecondition,
                  fmt::format("'{}' sets no broker_policy: this daemon has no broker",
                              printable(options.config)),
                  "See \"For the operator\" in docs/broker.md.");
  }
  if (!options.instance.empty()) settings.instance = options.instance;
  if (!options.state_dir.empty()) settings.state_dir = options.state_dir;
  if (!config::isInstanceName(settings.instance))
    return fail(Code::invalidArgument,
                fmt::format("'{}' is not an instance's name", printable(settings.instance)),
                "Use [a-z0-9][a-z0-9-]{0,31}.");
  return settings.brokerDir() + "/" + config::kBrokerAuditFile;
}

std::string LogPrinter::header() const {
  if (options_.json) return {};
  return fmt::format(kRow, "TIME", "TASK", "USER", "TENANT", "ACTION", "OUTCOME", "ST", "SENT",
                     "GOT", "TOOK", "TARGET");
}

void LogPrinter::complain(const std::string& text) {
  if (++complaints_ <= kComplaintsMax)
    told_ += fmt::format("mayfly: {}, ignoring\n", text);
  else
    ++untold_;
}

std::string LogPrinter::takeComplaints(AuditTail& tail) {
  for (const std::string& note : tail.takeNotes()) complain(note);
  if (untold_ > 0) told_ += fmt::format("mayfly: and {} more like these\n", untold_);
  untold_ = 0;
  return std::exchange(told_, {});
}

std::string LogPrinter::show(const Held& held) {
  const auto entry = entryOf(held.line);
  if (!entry) {
    complain(fmt::format("{}: {}", held.place, entry.error().message));
    return {};
  }
  if (!matches(options_.filter, *entry)) return {};
  return options_.json ? held.line + "\n" : rowOf(*entry);
}

Result<bool> LogPrinter::take(AuditTail& tail, const Put& put) {
  std::optional<size_t> last;  // how many lines of the present ones are wanted
  if (std::exchange(first_, false)) {
    if (options_.lines)
      last = *options_.lines;
    else if (options_.follow)
      last = kFollowedLines;
  }
  std::string out;
  std::deque<Held> held;
  for (;;) {
    MAYFLY_TRY(std::optional<std::string> line, tail.next());
    if (!line) break;
    Held one{std::move(*line), tail.place()};
    // Without a filter, lines that are not shown need not be understood.
    if (!last || options_.filter.any()) one.line = show(one);
    if (one.line.empty()) continue;
    if (last) {
      held.push_back(std::move(one));
      if (held.size() > *last) held.pop_front();
    } else if (out += one.line; out.size() >= kPutBytes && !put(std::exchange(out, {}))) {
      return false;
    }
  }
  for (const Held& each : held) out += options_.filter.any() ? each.line : show(each);
  return put(out);
}

int brokerLog(const LogOptions& options) {
  auto tail = openTail(options);
  if (!tail) return failed(tail.error());
  LogPrinter printer(options);
  const auto put = [](std::string_view text) {
    return writeAll(STDOUT_FILENO, text) == Wrote::all;
  };
  if (!put(printer.header())) return kExitPipe;
  for (;;) {
    const auto taken = printer.take(*tail, put);
    if (taken && !*taken) return kExitPipe;
    if (!options.follow) tail->end();
    writeAll(STDERR_FILENO, printer.takeComplaints(*tail));
    if (!taken) return failed(taken.error());
    if (!options.follow) return 0;
    pollfd reader{STDOUT_FILENO, 0, 0};  // its end is told without being asked for
    if (::poll(&reader, 1, kLookMs) > 0) return kExitPipe;
  }
}

}  // namespace mayfly::cli
