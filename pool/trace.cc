#include "pool/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

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

constexpr double kRun_s_max = 3600;  // the tails have no end

uint64_t runNs(Random& random, double mean_s) {
  return nanos(std::min(random.exponential(mean_s), kRun_s_max));
}

uint64_t runNs(Random& random, const TraceShape& s) {
  double run_s = s.run_s;
  switch (s.runs) {
    case TraceShape::Runs::exponential:
      return runNs(random, s.run_s);
    case TraceShape::Runs::constant:
      break;
    case TraceShape::Runs::lognormal:
      run_s *= std::exp(s.run_spread * random.normal() - s.run_spread * s.run_spread / 2);
      break;
    case TraceShape::Runs::pareto: {
      const double least_s = s.run_s * (s.run_spread - 1) / s.run_spread;
      run_s = least_s * std::pow(random.uniform(), -1 / s.run_spread);
      break;
    }
  }
  return nanos(std::min(run_s, kRun_s_max));
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
  if (s.runs == TraceShape::Runs::lognormal)
    MAYFLY_CHECK(check({"the spread of run times", s.run_spread, 0, 4}));
  if (s.runs == TraceShape::Runs::pareto)
    MAYFLY_CHECK(check({"the exponent of run times", s.run_spread, 1.05, 100}));
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
      out.arrivals.push_back(Arrival{nanos(at_s), runNs(runs, s), 0});
    return !too_many && at_s < s.time_s;
  };
  switch (s.kind) {
    case Kind::steady: {
      out.name = fmt::format("steady, {:g}/s", s.rate_hz);
      for (double t = random.exponential(1 / s.rate_hz); add(t);)
        t += random.exponential(1 / s.rate_hz);
      break;
    }
    case Kind::constant: {
      out.name = fmt::format("every {:g} s", 1 / s.rate_hz);
      for (double n = 0.5; add(n / s.rate_hz);) n += 1;
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

constexpr const char* kLineIs =
    "A line is: seconds[,template[,run_seconds[,cpu_seconds[,memory_bytes[,user[,tenant]]]]]]";

base::Result<Trace> parseTrace(std::string_view text, std::string_view file, double run_s,
                               uint64_t seed) {
  Trace out;
  out.name = base::printable(file);
  size_t line_number = 0;
  auto wrong = [&](std::string why) {
    return base::fail(base::Code::invalidArgument,
                      fmt::format("{}:{}: {}", base::printable(file), line_number, why), kLineIs);
  };
  if (text.size() > kTraceText_bytes_max)
    return base::fail(base::Code::invalidArgument,
                      fmt::format("{}: has {} bytes; at most {} are read", base::printable(file),
                                  text.size(), kTraceText_bytes_max));
  MAYFLY_CHECK(check({"the run time in seconds", run_s, 0, 3600}));
  Random runs(seed ^ 0x5eed);
  std::map<std::pair<std::string, std::string>, uint32_t> tenants;
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
                     run_text = trim(cutTo(rest, ',')), cpu_text = trim(cutTo(rest, ',')),
                     memory_text = trim(cutTo(rest, ',')), user = trim(cutTo(rest, ',')),
                     tenant = trim(cutTo(rest, ','));
    if (!rest.empty()) return wrong("more than seven fields");
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
    if (!cpu_text.empty()) {
      auto cpu_s = number(cpu_text);
      if (!cpu_s || *cpu_s < 0 || *cpu_s > kTraceTime_s_max)
        return wrong("'" + base::printable(cpu_text) + "' is not a processor time in seconds");
      a.cpu_ns = nanos(*cpu_s);
    }
    if (!memory_text.empty()) {
      auto bytes = number(memory_text);
      if (!bytes || *bytes < 0 || *bytes > 0x1p50)
        return wrong("'" + base::printable(memory_text) + "' is not a number of bytes");
      a.memory_bytes = static_cast<uint64_t>(*bytes);
    }
    if (!user.empty() || !tenant.empty() || !tenants.empty()) {
      if (!base::isUtf8(user) || !base::isUtf8(tenant))
        return wrong("the user's or tenant's name is not UTF-8");
      if (tenants.empty() && !out.arrivals.empty()) tenants.try_emplace({"", ""}, 0);
      const auto at = tenants.try_emplace({std::string(user), std::string(tenant)},
                                          static_cast<uint32_t>(tenants.size()));
      a.tenant_index = at.first->second;
      if (tenants.size() > kTraceTenants_max)
        return wrong(fmt::format("more than {} tenants", kTraceTenants_max));
    }
    out.end_ns = a.at_ns;
    out.arrivals.push_back(a);
  }
  out.tenants.resize(tenants.size());
  for (const auto& [whose, index] : tenants) out.tenants[index] = {whose.first, whose.second};
  if (out.arrivals.empty())
    return base::fail(base::Code::invalidArgument, base::printable(file) + ": holds no arrival",
                      kLineIs);
  return out;
}

std::string writeTrace(const Trace& trace) {
  const auto whole_s = [](uint64_t ns) {
    return fmt::format("{}.{:06}", ns / 1'000'000'000, ns % 1'000'000'000 / 1'000);
  };
  std::string out(kTraceFields);
  out += '\n';
  for (const Arrival& a : trace.arrivals) {
    out += fmt::format("{},{},{},", whole_s(a.at_ns), trace.templates[a.template_index],
                       whole_s(a.run_ns));
    if (a.cpu_ns != 0) out += whole_s(a.cpu_ns);
    out += a.memory_bytes != 0 ? fmt::format(",{}", a.memory_bytes) : ",";
    const TraceTenant whose = trace.tenants.empty() ? TraceTenant() : trace.tenants[a.tenant_index];
    out += fmt::format(",{},{}\n", whose.user, whose.tenant);
  }
  return out;
}

base::Result<Trace> mergeTraces(const std::vector<Trace>& traces, std::string name) {
  Trace out;
  out.name = std::move(name);
  size_t arrivals = 0;
  for (const Trace& t : traces) arrivals += t.arrivals.size();
  auto wrong = [&](std::string_view what, size_t most) {
    return base::fail(
        base::Code::invalidArgument,
        fmt::format("cannot merge the arrivals: together they have more than {} {}", most, what),
        "Take a shorter time, lower rates or fewer names.");
  };
  if (arrivals > kTraceArrivals_max) return wrong("arrivals", kTraceArrivals_max);
  // The index of `one` in `all`, at the end if it is new.
  auto place = [](auto& all, const auto& one) {
    const auto at = std::find(all.begin(), all.end(), one);
    const auto index = static_cast<uint32_t>(at - all.begin());
    if (at == all.end()) all.push_back(one);
    return index;
  };
  for (const Trace& t : traces) {
    std::vector<uint32_t> templates, tenants;
    for (const std::string& each : t.templates) templates.push_back(place(out.templates, each));
    for (const TraceTenant& each : t.tenants) tenants.push_back(place(out.tenants, each));
    if (tenants.empty()) tenants.push_back(place(out.tenants, TraceTenant()));
    if (out.templates.size() > kTraceTemplates_max) return wrong("templates", kTraceTemplates_max);
    if (out.tenants.size() > kTraceTenants_max) return wrong("tenants", kTraceTenants_max);
    for (Arrival a : t.arrivals) {
      a.template_index = templates[a.template_index];
      a.tenant_index = tenants[a.tenant_index];
      out.arrivals.push_back(a);
    }
    out.end_ns = std::max(out.end_ns, t.end_ns);
  }
  std::stable_sort(out.arrivals.begin(), out.arrivals.end(),
                   [](const Arrival& a, const Arrival& b) { return a.at_ns < b.at_ns; });
  return out;
}

}  // namespace mayfly::pool
