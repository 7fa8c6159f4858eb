#include "dashboard/live.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "dashboard/minute.h"
#include "dashboard/rows.h"

namespace mayfly::dashboard {

using base::Histogram;
using Json = nlohmann::ordered_json;
using metrics::Snapshot;

namespace {

// Four digits that count: a figure of a screen has no more, and the message stays small.
double rounded(double value) {
  if (!std::isfinite(value)) return 0;
  const std::string text = fmt::format("{:.4g}", value);
  double out = 0;
  std::from_chars(text.data(), text.data() + text.size(), out);
  return out;
}
double seconds(uint64_t ns) { return rounded(static_cast<double>(ns) / 1e9); }

// Null if there is nothing to take it from.
template <class Count>
Json quantile(const base::Buckets<Count>& counts, double q) {
  for (Count each : counts)
    if (each != 0) return rounded(base::quantile_s(counts, q));
  return nullptr;
}
template <class Count>
Json quantiles(const base::Buckets<Count>& counts) {
  return {{"p50S", quantile(counts, 0.5)}, {"p99S", quantile(counts, 0.99)}};
}
Json timesOf(const Histogram& h) {
  Json json{{"count", h.count()}};
  json.update(quantiles(h.counts));
  return json;
}
Json share(double value) { return value < 0 ? Json(nullptr) : Json(rounded(value)); }

// {"name": count, ...} of the counts that are not 0.
template <class Counts, class Name>
Json byName(const Counts& counts, Name name) {
  Json json = Json::object();
  for (size_t i = 0; i < counts.size(); ++i)
    if (counts[i] != 0) json[std::string(name(i))] = counts[i];
  return json;
}
template <class Counts>
uint64_t total(const Counts& counts) {
  uint64_t all = 0;
  for (auto each : counts) all += each;
  return all;
}

// Clones by the reason of their number; a pool that is to have none has a reason, too.
Json targetWhyOf(const base::PoolForecast& f) {
  Json json = Json::object();
  for (size_t i = 0; i < base::kSizeReasons; ++i)
    if (f.lanes_by_reason[i] != 0)
      json[std::string(base::name(static_cast<base::SizeReason>(i)))] = f.target_by_reason[i];
  return json;
}

bool isCap(base::Verdict verdict) {
  return metrics::outcomeOf(verdict) == metrics::Outcome::capped;
}

Json daemonOf(const Snapshot& s) {
  const uint64_t up_ms = s.made_ms > s.started_ms ? s.made_ms - s.started_ms : 0;
  return {{"instance", s.instance},
          {"version", s.version},
          {"state", s.stopping ? "stopping"
                    : s.ready  ? "ready"
                               : "starting"},
          {"startedMs", s.started_ms},
          {"uptimeS", rounded(static_cast<double>(up_ms) / 1e3)},
          {"cpuS", rounded(s.process.cpu_s)},
          {"residentBytes", s.process.resident_bytes},
          {"openFds", s.process.open_fds},
          {"fdsMax", s.process.fds_max},
          {"loopLagP99S", quantile(s.loop_lag.counts, 0.99)},
          {"loopLagMaxS", seconds(s.loop_lag_max_ns)}};
}

Json tasksOf(const Snapshot& s) {
  uint64_t running = 0, open = 0, accepted = 0, ended = 0, refused = s.refused_unknown_template;
  for (const metrics::Template& t : s.templates) {
    running += t.running;
    open += t.open;
    accepted += t.accepted;
    ended += t.ended();
    refused += t.refusedInAll();
  }
  return {{"queued", s.queued},
          {"queueAgeS", seconds(s.queue_age_ns)},
          {"running", running},
          {"open", open},
          {"boxes", s.boxes},
          {"quarantined", s.quarantined},
          {"accepted", accepted},
          {"ended", ended},
          {"refused", refused},
          {"slow", s.slow_tasks},
          {"slowTaskS", seconds(s.slow_task_ns)}};
}

Json minuteOf(const Minute& minute) {
  Json parts = Json::array();
  for (size_t i = 0; i < metrics::kParts; ++i) {
    const auto& counts = minute.parts[i];
    parts.push_back({{"part", metrics::name(static_cast<metrics::Part>(i))},
                     {"count", total(counts)},
                     {"p50S", quantile(counts, 0.5)},
                     {"p90S", quantile(counts, 0.9)},
                     {"p99S", quantile(counts, 0.99)}});
  }
  return {{"seconds", rounded(minute.seconds)},
          {"acceptedHz", rounded(minute.hz(minute.all.accepted))},
          {"endedHz", rounded(minute.hz(minute.all.ended()))},
          {"refusedHz", rounded(minute.hz(minute.all.refused))},
          {"missShare", share(minute.all.missShare())},
          {"cpuShare", rounded(minute.cpu_share)},
          {"spawnerCpuShare", rounded(minute.spawner_cpu_share)},
          {"loopLagMaxS", seconds(uint64_t{minute.loop_lag_us_max} * 1'000)},
          {"parts", std::move(parts)}};
}

Json templateOf(const metrics::Template& t, const Sums& sums, const Minute& minute) {
  const auto claim = [](size_t i) { return base::name(static_cast<base::ClaimKind>(i)); };
  const auto launch = [](size_t i) { return base::name(static_cast<base::Launch>(i)); };
  return {{"name", t.name},
          {"mechanism", t.mechanism},
          {"state", t.state},
          {"why", t.state_why},
          {"parked", t.pool.parked},
          {"parkedTarget", t.pool.parked_target},
          {"targetWhy", targetWhyOf(t.forecast)},
          {"stocked", t.pool.stocked},
          {"stockedTarget", t.pool.stocked_target},
          {"making", t.pool.making},
          {"running", t.running},
          {"dying", t.dying},
          {"quarantined", t.quarantined},
          {"waiting", t.pool.waiting},
          {"open", t.open},
          {"boxes", t.boxes},
          {"zygotes", t.pool.zygotes},
          {"renewals", t.pool.renewals},
          {"accepted", t.accepted},
          {"ended", t.ended()},
          {"refused", t.refusedInAll()},
          {"claims", byName(t.claims, claim)},
          {"launches", byName(t.launches, launch)},
          {"acceptedHz", rounded(minute.hz(sums.accepted))},
          {"forecastHz", rounded(t.forecast.arrivals_hz)},
          {"missPredicted", rounded(t.forecast.miss_share)},
          {"missMeasured", share(sums.missShare())},
          {"wanted", t.forecast.wanted},
          {"makeS", seconds(t.forecast.make_ns)},
          {"cloneBytes", t.clone_memory_bytes},
          {"clonesMade", t.clones_made},
          {"clonesLost", t.clones_lost},
          {"clonesDiscarded", t.clones_discarded},
          {"trialsFailed", t.trials_failed},
          {"zygotesDied", t.zygotes_died},
          {"start", quantiles(sums.start)},
          {"whole", quantiles(sums.whole)}};
}

// Every verdict, also one that no task has had yet.
Json verdictsOf(const Snapshot& s, const Minute& minute) {
  Json json = Json::array();
  for (size_t i = 0; i < base::kVerdicts; ++i) {
    const auto verdict = static_cast<base::Verdict>(i);
    uint64_t count = 0;
    for (const metrics::Template& t : s.templates) count += t.verdicts[i];
    json.push_back({{"name", base::name(verdict)},
                    {"cap", isCap(verdict)},
                    {"count", count},
                    {"lastMinute", minute.all.verdicts[i]}});
  }
  return json;
}

// Submissions that were refused, by error code and reason; only those that came.
Json refusalsOf(const Snapshot& s) {
  Json json = Json::array();
  const auto put = [&json](std::string_view code, base::RefusedBy by, uint64_t count) {
    if (count != 0) json.push_back({{"code", code}, {"reason", base::name(by)}, {"count", count}});
  };
  for (size_t c = 0; c < metrics::kCodes; ++c)
    for (size_t b = 0; b < base::kRefusedBys; ++b) {
      uint64_t count = 0;
      for (const metrics::Template& t : s.templates) count += t.refused[c][b];
      put(metrics::codeName(c), static_cast<base::RefusedBy>(b), count);
    }
  put("notFound", base::RefusedBy::unknownTemplate, s.refused_unknown_template);
  return json;
}

Json tenantsOf(const Snapshot& s) {
  const auto outcome = [](size_t i) { return metrics::name(static_cast<metrics::Outcome>(i)); };
  Json json = Json::array();
  for (const metrics::Tenant& t : s.tenants)
    json.push_back({{"user", t.user},
                    {"tenant", t.tenant},
                    {"others", t.others},
                    {"queued", t.queued},
                    {"running", t.running},
                    {"accepted", t.accepted},
                    {"refused", t.refused},
                    {"ended", byName(t.ended, outcome)},
                    {"cpuS", seconds(t.cpu_ns)},
                    {"startP99S", quantile(t.start.counts, 0.99)},
                    {"wholeP99S", quantile(t.whole.counts, 0.99)}});
  return json;
}

Json headroomOf(const Snapshot& s) {
  Json json = Json::array();
  for (const metrics::Headroom& h : s.headroom)
    json.push_back({{"what", h.what},
                    {"unit", *h.unit != '\0' ? h.unit : "count"},
                    {"committed", rounded(h.committed)},
                    {"budget", rounded(h.budget)}});
  return json;
}

Json brokerOf(const metrics::Broker& b) {
  Json decisions = Json::array();
  Histogram call;
  for (size_t i = 0; i < b.decisions.size(); ++i) {
    const base::BrokerCounts::Kind& of = b.decisions[i];
    call.add(of.took);
    Json one{{"kind", base::BrokerCounts::kNames[i]},
             {"allowed", of.allowed},
             {"refused", of.refused},
             {"failed", of.failed}};
    one.update(quantiles(of.took.counts));
    decisions.push_back(std::move(one));
  }
  return {{"configured", b.configured},
          {"frontUp", b.front_up},
          {"vaultUp", b.vault_up},
          {"sessions", b.sessions},
          {"frontStarts", b.front_starts},
          {"vaultStarts", b.vault_starts},
          {"frontEnds", b.front_ends},
          {"vaultEnds", b.vault_ends},
          {"openedOk", b.opened_ok},
          {"openedRefused", b.opened_refused},
          {"decisions", std::move(decisions)},
          {"call", timesOf(call)},
          {"opened", timesOf(b.opened)},
          {"revoked", timesOf(b.revoked)}};
}

Json rpcOf(const metrics::Rpc& rpc) {
  std::vector<const metrics::Method*> methods;
  uint64_t calls = 0;
  for (const metrics::Method& each : rpc.methods) {
    calls += each.took.count();
    methods.push_back(&each);
  }
  std::stable_sort(methods.begin(), methods.end(),
                   [](const auto* a, const auto* b) { return a->took.count() > b->took.count(); });
  methods.resize(std::min(methods.size(), kMethods));
  Json list = Json::array();
  for (const metrics::Method* each : methods) {
    Json one{{"name", each->name}};
    one.update(timesOf(each->took));
    list.push_back(std::move(one));
  }
  return {{"connections", rpc.connections},
          {"opened", rpc.opened},
          {"connectionsRefused", byName(rpc.connections_refused, metrics::codeName)},
          {"calls", calls},
          {"refused", byName(rpc.calls_refused, metrics::codeName)},
          {"malformed", rpc.messages_refused},
          {"bytesIn", rpc.bytes_in},
          {"bytesOut", rpc.bytes_out},
          {"methods", std::move(list)}};
}

Json receiptsOf(const Snapshot& s) {
  uint64_t all = 0, incomplete = 0, trials_failed = 0;
  for (const metrics::Template& t : s.templates) {
    all += t.receipts;
    incomplete += t.receipts_incomplete;
    trials_failed += t.trials_failed;
  }
  Json findings = Json::array();
  for (size_t i = 0; i < base::kAuditKinds; ++i)
    findings.push_back({{"kind", base::name(static_cast<base::AuditFinding::Kind>(i))},
                        {"count", s.audit_findings[i]}});
  return {{"complete", all - std::min(all, incomplete)},
          {"incomplete", incomplete},
          {"late", s.receipts_late},
          {"trialsFailed", trials_failed},
          {"auditWalks", s.audit_walks},
          {"lastWalk",
           {{"cgroups", s.audit_last.cgroups},
            {"processes", s.audit_last.processes},
            {"mounts", s.audit_last.mounts},
            {"findings", s.audit_last.findings}}},
          {"findings", std::move(findings)}};
}

Json slowOf(const Snapshot& s) {
  Json json = Json::array();
  for (auto t = s.slow.rbegin(); t != s.slow.rend(); ++t) {
    Json parts = Json::object();
    for (size_t i = 0; i < metrics::kParts; ++i)
      if (t->part_ns[i] != 0)
        parts[std::string(metrics::name(static_cast<metrics::Part>(i)))] = seconds(t->part_ns[i]);
    json.push_back({{"task", t->task},
                    {"atMs", t->at_ms},
                    {"template", t->template_name},
                    {"user", t->user},
                    {"tenant", t->tenant},
                    {"others", false},
                    {"trace", t->trace},
                    {"verdict", base::name(t->verdict)},
                    {"launch", base::name(t->launch)},
                    {"partsS", std::move(parts)}});
  }
  return json;
}

Json noticesOf(const Snapshot& s) {
  Json json = Json::array();
  for (auto n = s.notices.rbegin(); n != s.notices.rend(); ++n)
    json.push_back({{"atMs", n->at_ms}, {"kind", n->kind}, {"text", n->text}});
  return json;
}

Json headOf(const Snapshot& s) {
  const Minute minute = lastMinute(s, kLastMinute_ms);
  Json templates = Json::array();
  for (size_t i = 0; i < s.templates.size(); ++i)
    templates.push_back(templateOf(s.templates[i], minute.templates[i], minute));
  return {{"format", kFormat},
          {"serial", s.serial},
          {"atMs", s.made_ms},
          {"daemon", daemonOf(s)},
          {"tasks", tasksOf(s)},
          {"lastMinute", minuteOf(minute)},
          {"templates", std::move(templates)},
          {"verdicts", verdictsOf(s, minute)},
          {"refusals", refusalsOf(s)},
          {"tenants", tenantsOf(s)},
          {"headroom", headroomOf(s)},
          {"broker", brokerOf(s.broker)},
          {"rpc", rpcOf(s.rpc)},
          {"receipts", receiptsOf(s)},
          {"slow", slowOf(s)},
          {"notices", noticesOf(s)},
          {"columns", {{"all", columnsOfAll()}, {"template", columnsOfTemplate()}}}};
}

}  // namespace

void Live::takeRows(const Snapshot& s) {
  // The ticks of a later snapshot begin later and go on longer.
  while (!rows_.empty() && (s.ticks.empty() || rows_.front().tick != s.ticks.front()))
    rows_.pop_front();
  for (size_t i = rows_.size(); i < s.ticks.size(); ++i)
    rows_.push_back({s.ticks[i], rowOf(*s.ticks[i])});
}

std::string Live::message(const Snapshot& s, size_t rows_max) {
  takeRows(s);
  // ASCII only: a terminal may show it as it is.
  std::string out = headOf(s).dump(-1, ' ', true, Json::error_handler_t::replace);
  out.pop_back();  // the brace; the rows are text already
  out += ",\"rows\":[";
  size_t from = rows_.size(), bytes = out.size();
  while (from > 0 && rows_.size() - from < rows_max) {
    bytes += rows_[from - 1].text.size() + 1;
    if (bytes > kMessageBytes) break;
    --from;
  }
  for (size_t i = from; i < rows_.size(); ++i) {
    if (i > from) out += ',';
    out += rows_[i].text;
  }
  return out + "]}";
}

}  // namespace mayfly::dashboard
