#include "dashboard/rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string_view>

#include "base/histogram.h"
#include "dashboard/minute.h"

namespace mayfly::dashboard {

namespace {

constexpr double kNone = -1;  // becomes null: no value is negative
constexpr struct {
  const char* name;
  double q;
} kQuantiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}};

// One column: its name and its value. A table, so that names and values cannot drift apart.
struct Whole {
  const metrics::Tick& tick;
  Sums sums;
  uint64_t running = 0;
  double hz(uint64_t events) const {
    return tick.length_ms == 0 ? 0 : static_cast<double>(events) * 1e3 / tick.length_ms;
  }
};
struct One {
  const metrics::Tick& tick;
  const metrics::TickTemplate& t;
  Sums sums;
  double hz(uint64_t events) const {
    return tick.length_ms == 0 ? 0 : static_cast<double>(events) * 1e3 / tick.length_ms;
  }
};

template <class Counts>
double quantileOf(const Counts& counts, double q) {
  const bool none = std::all_of(counts.begin(), counts.end(), [](auto each) { return each == 0; });
  return none ? kNone : base::quantile_s(counts, q);
}

template <class Of>
struct Column {
  const char* name;
  double (*value)(const Of&);
};
constexpr Column<Whole> kAll[] = {
    {"queued", [](const Whole& w) -> double { return w.tick.queued; }},
    {"running", [](const Whole& w) -> double { return static_cast<double>(w.running); }},
    {"boxes", [](const Whole& w) -> double { return w.tick.boxes; }},
    {"quarantined", [](const Whole& w) -> double { return w.tick.quarantined; }},
    {"connections", [](const Whole& w) -> double { return w.tick.connections; }},
    {"acceptedHz", [](const Whole& w) { return w.hz(w.sums.accepted); }},
    {"endedHz", [](const Whole& w) { return w.hz(w.sums.ended()); }},
    {"refusedHz", [](const Whole& w) { return w.hz(w.sums.refused); }},
    {"callsHz", [](const Whole& w) { return w.hz(w.tick.calls); }},
    {"missShare", [](const Whole& w) { return w.sums.missShare(); }},
    {"brokerAllowedHz", [](const Whole& w) { return w.hz(w.tick.broker_allowed); }},
    {"brokerRefusedHz", [](const Whole& w) { return w.hz(w.tick.broker_refused); }},
    {"brokerFailedHz", [](const Whole& w) { return w.hz(w.tick.broker_failed); }},
    {"loopLagMaxS", [](const Whole& w) { return w.tick.loop_lag_us_max / 1e6; }},
    {"cpuShare", [](const Whole& w) -> double { return w.tick.cpu_share; }},
};
constexpr Column<One> kTemplate[] = {
    {"parked", [](const One& o) -> double { return o.t.parked; }},
    {"parkedTarget", [](const One& o) -> double { return o.t.parked_target; }},
    {"stocked", [](const One& o) -> double { return o.t.stocked; }},
    {"making", [](const One& o) -> double { return o.t.making; }},
    {"waiting", [](const One& o) -> double { return o.t.waiting; }},
    {"running", [](const One& o) -> double { return o.t.running; }},
    {"acceptedHz", [](const One& o) { return o.hz(o.t.accepted); }},
    {"refusedHz", [](const One& o) { return o.hz(o.t.refused); }},
    {"forecastHz", [](const One& o) -> double { return o.t.arrivals_hz; }},
    {"missPredicted", [](const One& o) -> double { return o.t.miss_predicted; }},
    {"missMeasured", [](const One& o) { return o.sums.missShare(); }},
    {"startP50S", [](const One& o) { return quantileOf(o.t.start, 0.5); }},
    {"startP99S", [](const One& o) { return quantileOf(o.t.start, 0.99); }},
    {"wholeP50S", [](const One& o) { return quantileOf(o.t.whole, 0.5); }},
    {"wholeP99S", [](const One& o) { return quantileOf(o.t.whole, 0.99); }},
};

void put(std::string& to, double value) {
  if (value < 0 || !std::isfinite(value))
    to += "null,";
  else if (value == std::floor(value) && value < 1e9)
    fmt::format_to(std::back_inserter(to), "{},", static_cast<uint64_t>(value));
  else
    fmt::format_to(std::back_inserter(to), "{:.3g},", value);
}
void endList(std::string& to) {
  if (to.back() == ',') to.pop_back();
  to += ']';
}

void putOne(std::string& to, const metrics::Tick& tick, const metrics::TickTemplate& t) {
  One one{tick, t, {}};
  one.sums.add(t);
  to += '[';
  for (const auto& column : kTemplate) put(to, column.value(one));
  endList(to);
}

}  // namespace

const std::vector<std::string>& columnsOfAll() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> out;
    for (const auto& column : kAll) out.emplace_back(column.name);
    for (size_t part = 0; part < metrics::kParts; ++part)
      for (const auto& each : kQuantiles)
        out.push_back(
            fmt::format("{}.{}S", metrics::name(static_cast<metrics::Part>(part)), each.name));
    return out;
  }();
  return names;
}

const std::vector<std::string>& columnsOfTemplate() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> out;
    for (const auto& column : kTemplate) out.emplace_back(column.name);
    return out;
  }();
  return names;
}

std::string rowOf(const metrics::Tick& tick) {
  Whole whole{tick, {}};
  uint32_t count = 0;
  for (const metrics::TickTemplate& each : tick.templates) {
    whole.sums.add(each);
    whole.running += each.running;
    count = std::max(count, each.index + 1);
  }
  std::string out = fmt::format("[{},[", tick.at_ms);
  for (const auto& column : kAll) put(out, column.value(whole));
  for (const auto& counts : tick.parts)
    for (const auto& each : kQuantiles) put(out, quantileOf(counts, each.q));
  endList(out);
  std::vector<const metrics::TickTemplate*> of(count, nullptr);
  for (const metrics::TickTemplate& each : tick.templates) of[each.index] = &each;
  out += ",[";
  for (const metrics::TickTemplate* each : of) {
    if (each == nullptr)
      out += "null";
    else
      putOne(out, tick, *each);
    out += ',';
  }
  endList(out);
  return out + "]";
}

}  // namespace mayfly::dashboard
