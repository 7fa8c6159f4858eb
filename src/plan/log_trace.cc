#include "plan/log_trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <utility>

#include "base/text.h"

namespace mayfly::plan {

namespace {

constexpr std::string_view kMark = " task id=", kSlow = " slow";
constexpr size_t kStampBytes = 23;  // 2026-11-30T01:14:42.123
constexpr double kTimeMs_max = pool::kTraceTime_s_max * 1e3;

// Days since 1970 of a date of the Gregorian calendar.
int64_t daysOf(int64_t year, int64_t month, int64_t day) {
  year -= month <= 2;
  const int64_t era = (year >= 0 ? year : year - 399) / 400;
  const int64_t of_era = year - era * 400;
  const int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * 146'097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719'468;
}

std::optional<int64_t> digits(std::string_view text, size_t from, size_t count) {
  int64_t value = 0;
  for (char c : text.substr(from, count)) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  return value;
}

// Microseconds since 1970 in the log's own time zone.
std::optional<int64_t> stampOf(std::string_view s) {
  if (s.size() != kStampBytes || s[4] != '-' || s[7] != '-' || s[10] != 'T' || s[13] != ':' ||
      s[16] != ':' || s[19] != '.')
    return std::nullopt;
  const auto year = digits(s, 0, 4), month = digits(s, 5, 2), day = digits(s, 8, 2);
  const auto hour = digits(s, 11, 2), minute = digits(s, 14, 2), second = digits(s, 17, 2);
  const auto milli = digits(s, 20, 3);
  if (!year || !month || !day || !hour || !minute || !second || !milli) return std::nullopt;
  if (*month < 1 || *month > 12 || *day < 1 || *day > 31 || *hour > 23 || *minute > 59 ||
      *second > 60)
    return std::nullopt;
  const int64_t days = daysOf(*year, *month, *day);
  return (((days * 24 + *hour) * 60 + *minute) * 60 + *second) * 1'000'000 + *milli * 1'000;
}

// Takes `key=value` off the front; a value in quotes may hold spaces and escaped characters.
std::optional<std::pair<std::string_view, std::string_view>> takeField(std::string_view& text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos) return std::nullopt;
  const std::string_view key = text.substr(0, equals);
  size_t end = equals + 1;
  if (end < text.size() && text[end] == '"') {
    for (++end; end < text.size() && text[end] != '"'; ++end)
      if (text[end] == '\\') ++end;
    if (end >= text.size()) return std::nullopt;
    ++end;
  } else {
    end = std::min(text.find(' ', end), text.size());
  }
  const std::string_view value = text.substr(equals + 1, end - equals - 1);
  text.remove_prefix(end);
  return std::pair(key, value);
}

std::optional<double> number(std::string_view text) {
  double value = 0;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (fault != std::errc{} || end != text.data() + text.size() || !std::isfinite(value) ||
      value < 0)
    return std::nullopt;
  return value;
}

uint64_t nanosOfMs(double ms) { return static_cast<uint64_t>(std::llround(ms * 1e6)); }

struct Fields {
  std::string_view template_name, user, tenant;
  std::optional<double> run_ms, whole_ms, cpu_ms, memory;
};

std::optional<Fields> fieldsOf(std::string_view text) {
  Fields f;
  while (!text.empty()) {
    const auto field = takeField(text);
    if (!field) break;
    const auto& [key, value] = *field;
    if (key == "template") f.template_name = value;
    if (key == "user") f.user = value;
    if (key == "tenant") f.tenant = value;
    if (key == "run_ms") f.run_ms = number(value);
    if (key == "whole_ms") f.whole_ms = number(value);
    if (key == "cpu_ms") f.cpu_ms = number(value);
    if (key == "memory_peak") f.memory = number(value);
  }
  const bool good = !f.template_name.empty() && f.whole_ms && f.run_ms && f.cpu_ms &&
                    *f.whole_ms <= kTimeMs_max && *f.run_ms <= kTimeMs_max &&
                    *f.cpu_ms <= kTimeMs_max;
  return good ? std::optional(f) : std::nullopt;
}

// N of a journal's own line "Suppressed N messages from UNIT", which may have a stamp and a name
// before it; 0: it is another line.
uint64_t suppressedIn(std::string_view text) {
  constexpr std::string_view kBegin = "Suppressed ", kEnd = " messages from ";
  const size_t begin = text.find(kBegin), end = text.find(kEnd);
  if (begin == std::string_view::npos || end == std::string_view::npos) return 0;
  if (begin != 0 && !text.substr(0, begin).ends_with(": ")) return 0;
  if (end <= begin + kBegin.size()) return 0;
  const std::string_view count = text.substr(begin + kBegin.size(), end - begin - kBegin.size());
  uint32_t value = 0;
  const auto [rest, fault] = std::from_chars(count.data(), count.data() + count.size(), value);
  return fault == std::errc{} && rest == count.data() + count.size() ? value : 0;
}

}  // namespace

base::Status LogTrace::line(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.remove_suffix(1);
  const size_t mark = text.find(kMark);
  if (mark == std::string_view::npos) {
    suppressed_ += suppressedIn(text);
    return base::Unit{};
  }
  // "<stamp> info task id=", "<stamp> warning slow task id=": a journal may have put words before
  // the stamp.
  std::string_view head = text.substr(0, mark);
  if (head.ends_with(kSlow)) head.remove_suffix(kSlow.size());
  const size_t level = head.rfind(' ');
  const auto skip = [&] {
    ++skipped_;
    return base::Unit{};
  };
  if (text.size() > kLogLine_bytes_max || level == std::string_view::npos || level < kStampBytes)
    return skip();
  const auto at_us = stampOf(head.substr(level - kStampBytes, kStampBytes));
  const auto fields = fieldsOf(text.substr(mark + 6));
  if (!at_us || !fields) return skip();
  const auto full = [](std::string_view what, size_t most) {
    return base::fail(base::Code::invalidArgument,
                      fmt::format("the log has more than {} {}", most, what),
                      "Record a shorter part of it.");
  };
  if (tasks_.size() >= pool::kTraceArrivals_max) return full("tasks", pool::kTraceArrivals_max);
  const std::string name = base::printable(fields->template_name, 60);
  const auto tmpl = templates_.try_emplace(name, static_cast<uint32_t>(templates_.size()));
  if (templates_.size() > pool::kTraceTemplates_max)
    return full("templates", pool::kTraceTemplates_max);
  const auto whose = whose_.try_emplace({std::string(fields->user), std::string(fields->tenant)},
                                        static_cast<uint32_t>(whose_.size()));
  if (whose_.size() > pool::kTraceTenants_max) return full("tenants", pool::kTraceTenants_max);
  pool::Arrival a;
  a.run_ns = nanosOfMs(*fields->run_ms);
  a.cpu_ns = nanosOfMs(*fields->cpu_ms);
  a.memory_bytes = static_cast<uint64_t>(std::min(fields->memory.value_or(0), 0x1p50));
  a.template_index = tmpl.first->second;
  a.tenant_index = whose.first->second;
  tasks_.push_back({*at_us - std::llround(*fields->whole_ms * 1e3), a});
  return base::Unit{};
}

base::Result<pool::Trace> LogTrace::finish(std::string_view name) {
  if (tasks_.empty())
    return base::fail(base::Code::invalidArgument,
                      fmt::format("{}: holds no line of a task's end", base::printable(name)),
                      "The daemon writes one for each task, if its log_level is info or lower: "
                      "\"... task id=... template=...\".");
  std::stable_sort(tasks_.begin(), tasks_.end(),
                   [](const Seen& a, const Seen& b) { return a.at_us < b.at_us; });
  const auto time_us = static_cast<double>(tasks_.back().at_us - tasks_.front().at_us);
  if (time_us * 1e-6 > pool::kTraceTime_s_max)
    return base::fail(
        base::Code::invalidArgument,
        fmt::format("{}: spans {:.0f} days; a trace has at most {:.0f}", base::printable(name),
                    time_us * 1e-6 / 86'400, pool::kTraceTime_s_max / 86'400),
        "Record a shorter part of it.");
  pool::Trace out;
  out.name = base::printable(name);
  out.templates.resize(templates_.size());
  for (const auto& [each, index] : templates_) out.templates[index] = each;
  std::vector<const std::pair<std::string, std::string>*> by_index(whose_.size());
  for (const auto& [each, index] : whose_) by_index[index] = &each;
  // Names in the order of arrival.
  std::vector<uint32_t> tenant_of(whose_.size(), UINT32_MAX);
  std::map<std::string_view, size_t> users;
  std::map<std::pair<std::string_view, std::string_view>, size_t> tenants;
  const int64_t first_us = tasks_.front().at_us;
  for (const Seen& seen : tasks_) {
    pool::Arrival a = seen.arrival;
    const auto& [user, tenant] = *by_index[a.tenant_index];
    uint32_t& known = tenant_of[a.tenant_index];
    if (known == UINT32_MAX) {
      known = static_cast<uint32_t>(out.tenants.size());
      const size_t nth_user = users.try_emplace(user, users.size() + 1).first->second;
      std::string shown;
      if (!tenant.empty())
        shown = fmt::format("t{}",
                            tenants.try_emplace({user, tenant}, tenants.size() + 1).first->second);
      out.tenants.push_back({fmt::format("u{}", nth_user), std::move(shown)});
    }
    a.tenant_index = known;
    a.at_ns = static_cast<uint64_t>(seen.at_us - first_us) * 1'000;
    out.end_ns = a.at_ns;
    out.arrivals.push_back(a);
  }
  return out;
}

}  // namespace mayfly::plan
