#include "pool/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/text.h"

namespace mayfly::pool {

uint64_t Random::next() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}
double Random::uniform() { return (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53; }
double Random::exponential(double mean) { return -mean * std::log(uniform()); }
double Random::normal() {
  double radius = std::sqrt(-2 * std::log(uniform()));
  return radius * std::cos(2 * M_PI * uniform());
}

namespace {

uint64_t nanos(double s) { return static_cast<uint64_t>(std::llround(s * 1e9)); }

// A task runs an hour at most, because an exponential has no upper bound.
uint64_t runNs(Random& random, double mean_s) {
  return nanos(std::min(random.exponential(mean_s), 3600.0));
}

struct Bound {
  const char* what;
  double value, least, most;
};

base::Status check(const Bound& b) {
  if (b.value >= b.least && b.value <= b.most) return base::Unit{};
  return base::fail(base::Code::invalidArgument,
                    fmt::format("cannot make a trace: {} is {}; it must be from {} to {}", b.what,
                                b.value, b.least, b.most));
}

}  // namespace

base::Result<Trace> makeTrace(const TraceShape& s) {
  using Kind = TraceShape::Kind;
  for (const Bound& b : {Bound{"the time in seconds", s.time_s, 1e-3, kTraceTime_s_max},
                         Bound{"the run time in seconds", s.run_s, 0, 3600}})
    MAYFLY_CHECK(check(b));
  if (s.kind != Kind::bursty) MAYFLY_CHECK(check({"the rate", s.rate_hz, 1e-6, 1e6}));
  if (s.kind == Kind::bursty) {
    MAYFLY_CHECK(check({"the time between bursts in seconds", s.every_s, 1e-3, kTraceTime_s_max}));
    MAYFLY_CHECK(check({"the burst's size", s.batch, 1, 10'000}));
    MAYFLY_CHECK(check({"the burst's length in seconds", s.spread_s, 0, 3600}));
  }
  if (s.kind == Kind::onOff) {
    MAYFLY_CHECK(check({"the time on in seconds", s.on_s, 1e-3, kTraceTime_s_max}));
    MAYFLY_CHECK(check({"the time off in seconds", s.off_s, 1e-3, kTraceTime_s_max}));
  }
  Trace out;
  out.templates = {"default"};
  out.end_ns = nanos(s.time_s);
  // Run times have a generator of their own: one seed gives the same arrivals for every mean run
  // time.
  Random random(s.seed), runs(s.seed ^ 0x5eed);
  bool too_many = false;
  auto add = [&](double at_s) {
    too_many = out.arrivals.size() >= kTraceArrivals_max;
    if (!too_many && at_s < s.time_s)
      out.arrivals.push_back(Arrival{nanos(at_s), runNs(runs, s.run_s), 0});
    return !too_many && at_s < s.time_s;
  };
  switch (s.kind) {
    case Kind::steady: {
      out.name = fmt::format("steady, {:g}/s", s.rate_hz);
      for (double t = random.exponential(1 / s.rate_hz); add(t);)
        t += random.exponential(1 / s.rate_hz);
      break;
    }
    case Kind::bursty: {
      out.name = fmt::format("bursts of {:g} every {:g} s", s.batch, s.every_s);
      for (double t = random.exponential(s.every_s); t < s.time_s && !too_many;
           t += random.exponential(s.every_s)) {
        // Geometric with the mean `batch`.
        double size = s.batch <= 1
                          ? 1
                          : 1 + std::floor(std::log(random.uniform()) / std::log1p(-1 / s.batch));
        for (double i = 0; i < size && !too_many; ++i) add(t + s.spread_s * random.uniform());
      }
      std::stable_sort(out.arrivals.begin(), out.arrivals.end(),
                       [](auto& a, auto& b) { return a.at_ns < b.at_ns; });
      break;
    }
    case Kind::onOff: {
      out.name = fmt::format("{:g}/s for {:g} s, then {:g} s off", s.rate_hz, s.on_s, s.off_s);
      for (double from = 0; from < s.time_s && !too_many;) {
        double until = from + random.exponential(s.on_s);
        for (double t = from + random.exponential(1 / s.rate_hz); t < until && add(t);)
          t += random.exponential(1 / s.rate_hz);
        from = until + random.exponential(s.off_s);
      }
      break;
    }
  }
  if (too_many)
    return base::fail(
        base::Code::invalidArgument,
        fmt::format("cannot make a trace: it has more than {} arrivals", kTraceArrivals_max),
        "Take a shorter time or a lower rate.");
  return out;
}

namespace {

std::string_view trim(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t' || s.back() == '\r'))
    s.remove_suffix(1);
  return s;
}

// Cuts the text before the next `end`, or all of it, off the front.
std::string_view cutTo(std::string_view& s, char end) {
  size_t at = s.find(end);
  std::string_view head = s.substr(0, at);
  s.remove_prefix(at == std::string_view::npos ? s.size() : at + 1);
  return head;
}

std::optional<double> number(std::string_view s) {
  double value = 0;
  auto [end, err] = std::from_chars(s.data(), s.data() + s.size(), value);
  if (err != std::errc{} || end != s.data() + s.size() || !std::isfinite(value)) return {};
  return value;
}

}  // namespace

base::Result<Trace> parseTrace(std::string_view text, std::string_view file, double run_s,
                               uint64_t seed) {
  Trace out;
  out.name = base::printable(file);
  size_t line_number = 0;
  auto wrong = [&](std::string why) {
    return base::fail(base::Code::invalidArgument,
                      fmt::format("{}:{}: {}", base::printable(file), line_number, why),
                      "A line is: seconds[,template[,run_seconds]]");
  };
  if (text.size() > kTraceText_bytes_max)
    return base::fail(base::Code::invalidArgument,
                      fmt::format("{}: has {} bytes; at most {} are read", base::printable(file),
                                  text.size(), kTraceText_bytes_max));
  MAYFLY_CHECK(check({"the run time in seconds", run_s, 0, 3600}));
  Random runs(seed ^ 0x5eed);
  bool first = true;
  while (!text.empty()) {
    ++line_number;
    std::string_view line = trim(cutTo(text, '\n'));
    if (line.size() > kTraceLine_bytes_max)
      return wrong(fmt::format("the line has {} bytes; at most {} are read", line.size(),
                               kTraceLine_bytes_max));
    if (line.empty() || line.front() == '#') continue;
    const bool header = first && line.starts_with("seconds");
    first = false;
    if (header) continue;

    std::string_view rest = line, at_text = trim(cutTo(rest, ',')), name = trim(cutTo(rest, ',')),
                     run_text = trim(cutTo(rest, ','));
    if (!rest.empty()) return wrong("more than three fields");
    auto at_s = number(at_text);
    if (!at_s) return wrong("'" + base::printable(at_text) + "' is not a number of seconds");
    if (*at_s < 0 || *at_s > kTraceTime_s_max)
      return wrong(fmt::format("{} is not from 0 to {} seconds", *at_s, kTraceTime_s_max));
    if (nanos(*at_s) < out.end_ns)
      return wrong(fmt::format("{} s is before the line above it", *at_s));
    if (out.arrivals.size() >= kTraceArrivals_max)
      return wrong(fmt::format("more than {} arrivals", kTraceArrivals_max));
    if (name.empty()) name = "default";
    if (!base::isUtf8(name)) return wrong("the template's name is not UTF-8");
    size_t index = static_cast<size_t>(std::find(out.templates.begin(), out.templates.end(), name) -
                                       out.templates.begin());
    if (index == out.templates.size()) {
      if (index >= kTraceTemplates_max)
        return wrong(fmt::format("more than {} templates", kTraceTemplates_max));
      out.templates.emplace_back(name);
    }
    Arrival a{nanos(*at_s), 0, static_cast<uint32_t>(index)};
    if (run_text.empty()) {
      a.run_ns = runNs(runs, run_s);
    } else {
      auto each_s = number(run_text);
      if (!each_s || *each_s < 0 || *each_s > kTraceTime_s_max)
        return wrong("'" + base::printable(run_text) + "' is not a run time in seconds");
      a.run_ns = nanos(*each_s);
    }
    out.end_ns = a.at_ns;
    out.arrivals.push_back(a);
  }
  if (out.arrivals.empty())
    return base::fail(base::Code::invalidArgument, base::printable(file) + ": holds no arrival",
                      "A line is: seconds[,template[,run_seconds]]");
  return out;
}

}  // namespace mayfly::pool
