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

base::Status checkShape(const TraceShape& s) {
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
  return base::Unit{};
}

}  // namespace

base::Result<Trace> makeTrace(const TraceShape& s) {
  using Kind = TraceShape::Kind;
  MAYFLY_CHECK(checkShape(s));
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

constexpr const char* kLineIs =
    "A line is: seconds[,template[,run_seconds[,cpu_seconds[,memory_bytes[,user[,tenant]]]]]]";

// Reads a trace line by line.
class TraceReader {
 public:
  TraceReader(std::string_view file, double run_s, uint64_t seed)
      : file_(base::printable(file)), run_s_(run_s), runs_(seed ^ 0x5eed) {
    out_.name = file_;
  }
  base::Status line(std::string_view text);
  base::Result<Trace> finish();

 private:
  // The fields of a line; they may be empty.
  struct Fields {
    std::string_view at, name, run, cpu, memory, user, tenant;
  };

  tl::unexpected<base::Error> wrong(std::string why) const {
    return base::fail(base::Code::invalidArgument,
                      fmt::format("{}:{}: {}", file_, line_number_, why), kLineIs);
  }
  base::Status readTime(std::string_view text, Arrival& a);
  base::Status readTemplate(std::string_view name, Arrival& a);
  base::Status readCosts(const Fields& f, Arrival& a);
  base::Status readTenant(std::string_view user, std::string_view tenant, Arrival& a);

  std::string file_;
  double run_s_;
  Random runs_;
  size_t line_number_ = 0;
  bool first_ = true;
  std::map<std::pair<std::string, std::string>, uint32_t> tenants_;
  Trace out_;
};

base::Status TraceReader::readTime(std::string_view text, Arrival& a) {
  const auto at_s = number(text);
  if (!at_s) return wrong("'" + base::printable(text) + "' is not a number of seconds");
  if (*at_s < 0 || *at_s > kTraceTime_s_max)
    return wrong(fmt::format("{} is not from 0 to {} seconds", *at_s, kTraceTime_s_max));
  a.at_ns = nanos(*at_s);
  if (a.at_ns < out_.end_ns) return wrong(fmt::format("{} s is before the line above it", *at_s));
  if (out_.arrivals.size() >= kTraceArrivals_max)
    return wrong(fmt::format("more than {} arrivals", kTraceArrivals_max));
  return base::Unit{};
}

base::Status TraceReader::readTemplate(std::string_view name, Arrival& a) {
  if (name.empty()) name = "default";
  if (!base::isUtf8(name)) return wrong("the template's name is not UTF-8");
  const auto at = std::find(out_.templates.begin(), out_.templates.end(), name);
  a.template_index = static_cast<uint32_t>(at - out_.templates.begin());
  if (at != out_.templates.end()) return base::Unit{};
  if (a.template_index >= kTraceTemplates_max)
    return wrong(fmt::format("more than {} templates", kTraceTemplates_max));
  out_.templates.emplace_back(name);
  return base::Unit{};
}

base::Status TraceReader::readCosts(const Fields& f, Arrival& a) {
  const auto within = [](std::string_view text, double most) {
    const auto value = number(text);
    return value && *value >= 0 && *value <= most ? value : std::nullopt;
  };
  const auto run_s = within(f.run, kTraceTime_s_max), cpu_s = within(f.cpu, kTraceTime_s_max),
             bytes = within(f.memory, 0x1p50);
  if (!f.run.empty() && !run_s)
    return wrong("'" + base::printable(f.run) + "' is not a run time in seconds");
  if (!f.cpu.empty() && !cpu_s)
    return wrong("'" + base::printable(f.cpu) + "' is not a processor time in seconds");
  if (!f.memory.empty() && !bytes)
    return wrong("'" + base::printable(f.memory) + "' is not a number of bytes");
  a.run_ns = run_s ? nanos(*run_s) : runNs(runs_, run_s_);
  a.cpu_ns = nanos(cpu_s.value_or(0));
  a.memory_bytes = static_cast<uint64_t>(bytes.value_or(0));
  return base::Unit{};
}

base::Status TraceReader::readTenant(std::string_view user, std::string_view tenant, Arrival& a) {
  if (user.empty() && tenant.empty() && tenants_.empty()) return base::Unit{};
  if (!base::isUtf8(user) || !base::isUtf8(tenant))
    return wrong("the user's or tenant's name is not UTF-8");
  // The lines before the first name have the empty one.
  if (tenants_.empty() && !out_.arrivals.empty()) tenants_.try_emplace({"", ""}, 0);
  const auto next = static_cast<uint32_t>(tenants_.size());
  a.tenant_index =
      tenants_.try_emplace({std::string(user), std::string(tenant)}, next).first->second;
  if (tenants_.size() > kTraceTenants_max)
    return wrong(fmt::format("more than {} tenants", kTraceTenants_max));
  return base::Unit{};
}

base::Status TraceReader::line(std::string_view text) {
  ++line_number_;
  text = trim(text);
  if (text.size() > kTraceLine_bytes_max)
    return wrong(fmt::format("the line has {} bytes; at most {} are read", text.size(),
                             kTraceLine_bytes_max));
  if (text.empty() || text.front() == '#') return base::Unit{};
  const bool header = std::exchange(first_, false) && text.starts_with("seconds");
  if (header) return base::Unit{};
  Fields f;
  for (std::string_view* field : {&f.at, &f.name, &f.run, &f.cpu, &f.memory, &f.user, &f.tenant})
    *field = trim(cutTo(text, ','));
  if (!text.empty()) return wrong("more than seven fields");
  Arrival a;
  MAYFLY_CHECK(readTime(f.at, a));
  MAYFLY_CHECK(readTemplate(f.name, a));
  MAYFLY_CHECK(readCosts(f, a));
  MAYFLY_CHECK(readTenant(f.user, f.tenant, a));
  out_.end_ns = a.at_ns;
  out_.arrivals.push_back(a);
  return base::Unit{};
}

base::Result<Trace> TraceReader::finish() {
  out_.tenants.resize(tenants_.size());
  for (const auto& [whose, index] : tenants_) out_.tenants[index] = {whose.first, whose.second};
  if (out_.arrivals.empty())
    return base::fail(base::Code::invalidArgument, file_ + ": holds no arrival", kLineIs);
  return std::move(out_);
}

}  // namespace

base::Result<Trace> parseTrace(std::string_view text, std::string_view file, double run_s,
                               uint64_t seed) {
  if (text.size() > kTraceText_bytes_max)
    return base::fail(base::Code::invalidArgument,
                      fmt::format("{}: has {} bytes; at most {} are read", base::printable(file),
                                  text.size(), kTraceText_bytes_max));
  MAYFLY_CHECK(check({"the run time in seconds", run_s, 0, kRun_s_max}));
  TraceReader reader(file, run_s, seed);
  while (!text.empty()) MAYFLY_CHECK(reader.line(cutTo(text, '\n')));
  return reader.finish();
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
