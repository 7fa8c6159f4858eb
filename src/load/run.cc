#include "load/run.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

namespace mayfly::load {

double Report::per_s() const {
  if (ended_ns <= began_ns) return 0;
  return static_cast<double>(recorded) * 1e9 / static_cast<double>(ended_ns - began_ns);
}

std::optional<uint64_t> Run::nextOffset_ns() {
  auto offset_ns = plan_.arrivals();
  if (offset_ns && plan_.duration_ns_max != 0 && *offset_ns > plan_.duration_ns_max) return {};
  return offset_ns;
}

// Whether another request follows; in open loop its time is then in intended_ns_.
bool Run::arrive() {
  if (exhausted_) return false;
  if (intended_ns_) return true;
  exhausted_ = plan_.count_max != 0 && report_.sent >= plan_.count_max;
  if (exhausted_ || !plan_.arrivals) return !exhausted_;
  auto offset_ns = nextOffset_ns();
  if (!offset_ns) {
    exhausted_ = true;
    return false;
  }
  intended_ns_ = *began_ns_ + *offset_ns;
  return true;
}

// The plan's time is over: what is left of it is counted, not sent.
void Run::giveUp() {
  const bool finite = plan_.count_max != 0 || plan_.duration_ns_max != 0;
  while (finite && arrive()) {
    if (!intended_ns_) break;  // a closed loop has no plan of its own
    if (plan_.count_max != 0 && report_.sent + report_.unsent >= plan_.count_max) break;
    intended_ns_.reset();
    ++report_.unsent;
  }
  stop();
}

void Run::stop() {
  exhausted_ = true;
  intended_ns_.reset();
}

bool Run::recorded(const Ticket& ticket) const {
  return ticket.index >= plan_.warm_up && ticket.intended_ns >= *began_ns_ + plan_.warm_up_ns;
}

Run::Act Run::next(uint64_t now_ns) {
  if (!began_ns_) {
    began_ns_ = now_ns;
    report_.began_ns = now_ns + plan_.warm_up_ns;
  }
  if (!plan_.arrivals && plan_.duration_ns_max != 0 && now_ns - *began_ns_ >= plan_.duration_ns_max)
    exhausted_ = true;
  if (plan_.sending_ns_max != 0 && now_ns - *began_ns_ >= plan_.sending_ns_max) giveUp();
  if (!arrive()) return {outstanding_ == 0 ? Act::Kind::over : Act::Kind::await, {}, 0};
  const bool due = !intended_ns_ || *intended_ns_ <= now_ns;
  // Full the last time, and due now: it became due while it was full, or those before it did.
  behind_ = due && intended_ns_ && (behind_ || full_);
  full_ = outstanding_ >= std::max(plan_.outstanding_max, 1u);
  if (full_) return {Act::Kind::await, {}, 0};
  if (!due) return {Act::Kind::sleep, {}, *intended_ns_};
  Ticket ticket{report_.sent++, std::exchange(intended_ns_, std::nullopt).value_or(now_ns), now_ns,
                behind_};
  ++outstanding_;
  return {Act::Kind::send, ticket, 0};
}

void count(Report& to, const Outcome& outcome) {
  if (outcome.error.empty()) {
    ++to.succeeded;
  } else {
    bool room = to.errors.count(outcome.error) != 0 || to.errors.size() < kErrorKindsMax;
    ++to.errors[room ? outcome.error : "other"];
  }
  for (size_t i = 0; i < base::kPhases; ++i) to.last[i] = std::max(to.last[i], outcome.phases[i]);
}

void Run::ended(const Ticket& ticket, const Outcome& outcome) {
  --outstanding_;
  ++ended_;
  count(report_, outcome);
  // The rate counts the ends after the last one of the warm-up.
  if (ended_ <= plan_.warm_up) {
    report_.began_ns = outcome.ended_ns;
  } else if (outcome.error.empty() &&
             (plan_.warm_up_ns == 0 || outcome.ended_ns >= report_.began_ns)) {
    ++report_.recorded;
    report_.ended_ns = std::max(report_.ended_ns, outcome.ended_ns);
  }
  if (outcome.error.empty() && recorded(ticket)) record(report_, ticket, outcome);
}

void record(Report& to, const Ticket& ticket, const Outcome& outcome) {
  auto since = [](uint64_t from_ns, uint64_t to_ns) {
    return to_ns > from_ns ? to_ns - from_ns : 0;
  };
  to.latency.record(since(ticket.intended_ns, outcome.ended_ns));
  to.service.record(since(ticket.sent_ns, outcome.ended_ns));
  to.send_lag.record(since(ticket.intended_ns, ticket.sent_ns));
  if (ticket.held)
    ++to.held;
  else
    to.own_lag.record(since(ticket.intended_ns, ticket.sent_ns));
  if (outcome.first_byte_ns != 0)
    to.first_byte.record(since(ticket.intended_ns, outcome.first_byte_ns));
  uint64_t before_ns = ticket.sent_ns;
  bool any = false;
  for (size_t i = 0; i < base::kPhases; ++i) {
    uint64_t at_ns = outcome.phases[i];
    if (at_ns == 0) continue;
    any = true;
    to.steps[std::string(base::name(static_cast<base::Phase>(i)))].record(since(before_ns, at_ns));
    before_ns = std::max(before_ns, at_ns);
  }
  if (any) to.steps["answer"].record(since(before_ns, outcome.ended_ns));
  auto at = [&](base::Phase p) { return outcome.phases[static_cast<size_t>(p)]; };
  auto between = [&](base::Phase from, base::Phase until, Histogram& histogram) {
    if (at(from) != 0 && at(until) != 0) histogram.record(since(at(from), at(until)));
  };
  between(base::Phase::queued, base::Phase::claimed, to.claim);
  between(base::Phase::started, base::Phase::exited, to.run);
  // The daemon never reports a phase before an earlier one: if a clone or box was ready before its
  // task asked for it, their times are equal.
  uint64_t asked_ns = at(base::Phase::box);
  if (asked_ns == 0) return;
  if (at(base::Phase::clone) == asked_ns)
    ++to.parked;
  else if (at(base::Phase::boxReady) == asked_ns)
    ++to.stocked;
}

void add(Report& to, const Report& other) {
  to.latency.add(other.latency);
  to.first_byte.add(other.first_byte);
  to.service.add(other.service);
  to.send_lag.add(other.send_lag);
  to.own_lag.add(other.own_lag);
  to.claim.add(other.claim);
  to.run.add(other.run);
  for (const auto& [step, histogram] : other.steps) to.steps[step].add(histogram);
  for (const auto& [kind, count] : other.errors) to.errors[kind] += count;
  to.sent += other.sent;
  to.succeeded += other.succeeded;
  to.unsent += other.unsent;
  to.unfinished += other.unfinished;
  to.held += other.held;
  to.parked += other.parked;
  to.stocked += other.stocked;
  to.recorded += other.recorded;
  for (size_t i = 0; i < base::kPhases; ++i) to.last[i] = std::max(to.last[i], other.last[i]);
  to.began_ns = to.began_ns == 0 ? other.began_ns : std::min(to.began_ns, other.began_ns);
  to.ended_ns = std::max(to.ended_ns, other.ended_ns);
}

nlohmann::ordered_json toJson(const Report& r) {
  nlohmann::ordered_json out = {
      {"sent", r.sent},         {"succeeded", r.succeeded}, {"errors", r.errors},
      {"recorded", r.recorded}, {"parked", r.parked},       {"stocked", r.stocked},
      {"per_s", r.per_s()},     {"began_ns", r.began_ns},   {"ended_ns", r.ended_ns},
      {"unsent", r.unsent},     {"held", r.held},           {"unfinished", r.unfinished}};
  out["latency"] = toJson(r.latency);
  out["first_byte"] = toJson(r.first_byte);
  out["service"] = toJson(r.service);
  out["send_lag"] = toJson(r.send_lag);
  out["own_lag"] = toJson(r.own_lag);
  if (r.claim.count() != 0) out["claim"] = toJson(r.claim);
  if (r.run.count() != 0) out["run"] = toJson(r.run);
  auto& steps = out["steps"] = nlohmann::ordered_json::object();
  for (size_t i = 0; i <= base::kPhases; ++i) {
    std::string name =
        i < base::kPhases ? std::string(base::name(static_cast<base::Phase>(i))) : "answer";
    if (auto at = r.steps.find(name); at != r.steps.end()) steps[name] = toJson(at->second);
  }
  return out;
}

}  // namespace mayfly::load
