#include "bench/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/clock.h"
#include "base/text.h"
#include "bench/environment.h"
#include "config/units.h"

namespace mayfly::bench {
namespace {

using base::Code;
using base::fail;

// So many tasks in a row that a daemon does not take: it has stopped, or its connection is lost.
constexpr uint32_t kUnavailableMax = 100;
// A run that falls ever more behind ends so much later than its last arrival, at most.
constexpr double kLateShare = 0.25, kLate_s = 1;

uint64_t nanos(double s) { return static_cast<uint64_t>(std::llround(s * 1e9)); }

load::Arrivals arrivalsOf(const LoadShape& s, uint64_t round) {
  switch (s.kind) {
    case LoadShape::Kind::poisson:
      return load::poissonArrivals(s.rate_per_s, s.tasks_max, s.seed * 1'000'003 + round);
    case LoadShape::Kind::constant:
      return load::constantArrivals(s.rate_per_s, s.tasks_max);
    case LoadShape::Kind::bursts:
      return load::repeatedBursts(s.burst, nanos(s.every_s), s.tasks_max);
    case LoadShape::Kind::trace: {
      std::vector<uint64_t> offsets;
      for (const pool::Arrival& a : s.trace->arrivals)
        offsets.push_back(nanos(static_cast<double>(a.at_ns) * 1e-9 / s.speed));
      return load::recordedArrivals(std::move(offsets));
    }
    case LoadShape::Kind::closed:
      break;
  }
  return {};
}

const char* word(LoadShape::Kind kind) {
  switch (kind) {
    case LoadShape::Kind::poisson:
      return "poisson";
    case LoadShape::Kind::constant:
      return "constant";
    case LoadShape::Kind::bursts:
      return "bursts";
    case LoadShape::Kind::trace:
      return "trace";
    case LoadShape::Kind::closed:
      break;
  }
  return "closed";
}

}  // namespace

double LoadShape::stated_per_s() const {
  switch (kind) {
    case Kind::poisson:
    case Kind::constant:
      return rate_per_s;
    case Kind::bursts:
      return burst / every_s;
    case Kind::trace:
      return trace->end_ns == 0 ? static_cast<double>(trace->arrivals.size())
                                : static_cast<double>(trace->arrivals.size()) * speed * 1e9 /
                                      static_cast<double>(trace->end_ns);
    case Kind::closed:
      break;
  }
  return 0;
}

load::Plan planOf(const LoadShape& s, uint64_t round) {
  load::Plan plan;
  plan.arrivals = arrivalsOf(s, round);
  plan.count_max = s.tasks_max;
  plan.outstanding_max = s.in_flight;
  plan.warm_up_ns = nanos(s.warm_up_s);
  plan.duration_ns_max = nanos(s.warm_up_s + s.time_s);
  plan.sending_ns_max = nanos((s.warm_up_s + s.time_s) * (1 + kLateShare) + kLate_s);
  return plan;
}

std::string textOf(const LoadShape& s) {
  switch (s.kind) {
    case LoadShape::Kind::poisson:
      return fmt::format("{:g}/s at random times (Poisson)", s.rate_per_s);
    case LoadShape::Kind::constant:
      return fmt::format("{:g}/s at constant gaps", s.rate_per_s);
    case LoadShape::Kind::bursts:
      return fmt::format("{} at once every {:g} s", s.burst, s.every_s);
    case LoadShape::Kind::trace:
      return fmt::format("the {} arrivals of {}, {:g} times as fast", s.trace->arrivals.size(),
                         s.trace->name, s.speed);
    case LoadShape::Kind::closed:
      break;
  }
  return fmt::format("closed loop, {} in flight", s.in_flight);
}

Json toJson(const LoadShape& s) {
  Json out = {{"kind", word(s.kind)}, {"stated_per_s", s.stated_per_s()}};
  if (s.kind == LoadShape::Kind::bursts) out.update({{"burst", s.burst}, {"every_s", s.every_s}});
  if (s.kind == LoadShape::Kind::trace) out.update({{"trace", s.trace->name}, {"speed", s.speed}});
  out.update({{"in_flight", s.in_flight},
              {"time_s", s.time_s},
              {"warm_up_s", s.warm_up_s},
              {"seed", s.seed}});
  return out;
}

Json toJson(const config::Mix& mix) {
  Json tasks = Json::array();
  for (const config::MixTask& t : mix.tasks)
    tasks.push_back({{"name", t.name},
                     {"template", t.template_name},
                     {"weight", t.weight},
                     {"tenant", t.tenant},
                     {"runs", base::printable(!t.command.empty()  ? t.command.front()
                                              : !t.script.empty() ? t.script
                                                                  : t.code)}});
  return {{"name", mix.name}, {"tasks", tasks}};
}

Session::~Session() = default;

base::Result<std::unique_ptr<Session>> Session::open(const std::string& socket, MixLoad load) {
  std::unique_ptr<Session> out(new Session());
  ConnectOptions connect;
  connect.client_name = "mayfly bench";
  MAYFLY_TRY(out->client_, Client::connect(socket, connect));
  MAYFLY_TRY(auto templates, out->client_->templates());
  for (const config::MixTask& task : load.mix->tasks)
    if (std::none_of(templates.begin(), templates.end(),
                     [&](const TemplateInfo& t) { return t.name == task.template_name; }))
      return fail(Code::notFound,
                  fmt::format("task '{}': the daemon serves no template '{}'", task.name,
                              task.template_name),
                  "`mayfly templates` lists those that it serves.");
  out->mix_ = load.mix;
  MAYFLY_TRY(out->target_, MixTarget::make(*out->client_, std::move(load)));
  return out;
}

base::Result<RoundResult> Session::round(const LoadShape& shape, uint64_t nth, const Watch& watch) {
  const uint32_t allowed = client_->server().tasks_per_connection_max;
  if (allowed != 0 && shape.in_flight > allowed)
    return fail(Code::invalidArgument,
                fmt::format("{} tasks in flight; the daemon takes {} on one connection",
                            shape.in_flight, allowed),
                fmt::format("Give --in-flight {} or less.", allowed));
  RoundResult out;
  out.of_task.resize(mix_->tasks.size());
  uint32_t unavailable = 0;  // in a row
  load::DriveBounds bounds;
  bounds.stopped = [&] { return watch.stopped() || unavailable >= kUnavailableMax; };
  bounds.heard = [&](const load::Ticket& ticket, const load::Outcome& outcome, bool recorded) {
    unavailable = outcome.error == base::name(Code::unavailable) ? unavailable + 1 : 0;
    load::Report& its = out.of_task[target_->taskOf(ticket.index)];
    ++its.sent;
    load::count(its, outcome);
    if (!recorded || !outcome.error.empty()) return;
    load::record(its, ticket, outcome);
    ++its.recorded;
  };
  const uint64_t cpu_ns = ownCpu_ns(), began_ns = base::monotonicNs();
  MAYFLY_TRY(out.all, load::drive(planOf(shape, nth), *target_, bounds));
  if (unavailable >= kUnavailableMax)
    return fail(Code::unavailable,
                fmt::format("the daemon did not take {} tasks in a row", unavailable),
                "It has stopped, or serves their template no more: see its log.");
  const double took_ns = static_cast<double>(base::monotonicNs() - began_ns);
  const double busy = static_cast<double>(ownCpu_ns() - cpu_ns) / std::max(took_ns, 1.0);
  // A round lasts as long as it is planned, also if its last task came earlier.
  if (!watch.stopped())
    out.all.ended_ns = std::max(out.all.ended_ns, out.all.began_ns + nanos(shape.time_s));
  for (load::Report& its : out.of_task) {  // the rate of a part is counted in the whole's time
    its.began_ns = out.all.began_ns;
    its.ended_ns = out.all.ended_ns;
  }
  out.generator = judgeGenerator(out.all, shape.stated_per_s(), busy);
  return out;
}

std::vector<Series> seriesOf(const config::Mix& mix, const LoadShape& shape) {
  std::vector<Series> out(1);
  out[0].name = "all";
  out[0].about = mix.name;
  out[0].stated_per_s = shape.stated_per_s();
  if (mix.tasks.size() == 1) return out;
  uint64_t weights = 0;
  for (const config::MixTask& t : mix.tasks) weights += t.weight;
  for (const config::MixTask& t : mix.tasks) {
    Series& each = out.emplace_back();
    each.name = t.name;
    each.about = fmt::format("template {}", t.template_name);
    if (shape.kind != LoadShape::Kind::trace)
      each.stated_per_s = shape.stated_per_s() * t.weight / static_cast<double>(weights);
  }
  return out;
}

void addRound(std::vector<Series>& series, const RoundResult& round) {
  series[0].add(round.all);
  for (size_t i = 1; i < series.size(); ++i) series[i].add(round.of_task[i - 1]);
}

std::string roundLine(uint32_t nth, uint32_t rounds, const RoundResult& round) {
  const load::Histogram &first = round.all.first_byte, &whole = round.all.latency;
  return fmt::format("round {} of {}: {:.1f}/s, first byte {} ms (p99 {}), receipt {} ms (p99 {})",
                     nth, rounds, round.all.per_s(), msText(ms(first.percentile_ns(50))),
                     msText(ms(first.percentile_ns(99))), msText(ms(whole.percentile_ns(50))),
                     msText(ms(whole.percentile_ns(99))));
}

}  // namespace mayfly::bench
