// Metrics of the host's budget, the broker, the audit, the RPC and the daemon itself.
#include <algorithm>

#include "metrics/families.h"

namespace mayfly::metrics {

namespace {

double count(uint64_t n) { return static_cast<double>(n); }
double inSeconds(uint64_t ns) { return static_cast<double>(ns) / 1e9; }

// --- the host ---

// A resource with a unit has metrics of its own, because a metric has one unit.
const Headroom* room(const Snapshot& s, std::string_view what) {
  const auto at = std::find_if(s.headroom.begin(), s.headroom.end(),
                               [&](const Headroom& h) { return h.what == what; });
  return at != s.headroom.end() ? &*at : nullptr;
}

enum class Of : uint8_t { memory, cpu, parkedMemory };
constexpr std::string_view kWhat[] = {"memory", "cpu", "parked_memory"};

template <Of kOf, auto kMember>
void budget(const Snapshot& s, const Scrape&, Series& out) {
  if (const Headroom* h = room(s, kWhat[static_cast<size_t>(kOf)])) out.add({}, h->*kMember);
}

template <auto kMember>
void counted(const Snapshot& s, const Scrape&, Series& out) {
  for (const Headroom& h : s.headroom)
    if (std::string_view(h.unit).empty()) out.add({h.what}, h.*kMember);
}

void ratios(const Snapshot& s, const Scrape&, Series& out) {
  for (const Headroom& h : s.headroom)
    if (h.budget > 0) out.add({h.what}, h.committed / h.budget);
}

// --- the broker: nothing if the daemon has none ---

template <auto kFront, auto kVault>
void ofBroker(const Snapshot& s, const Scrape&, Series& out) {
  if (!s.broker.configured) return;
  out.add({"front"}, count(s.broker.*kFront));
  out.add({"vault"}, count(s.broker.*kVault));
}

template <auto kMember>
void brokerTimes(const Snapshot& s, const Scrape&, Series& out) {
  if (s.broker.configured) out.add({}, s.broker.*kMember);
}

void decisions(const Snapshot& s, const Scrape&, Series& out) {
  if (!s.broker.configured) return;
  for (size_t i = 0; i < s.broker.decisions.size(); ++i) {
    const auto& kind = s.broker.decisions[i];
    out.add({base::BrokerCounts::kNames[i], "allowed"}, count(kind.allowed));
    out.add({base::BrokerCounts::kNames[i], "refused"}, count(kind.refused));
    out.add({base::BrokerCounts::kNames[i], "failed"}, count(kind.failed));
  }
}

// A session's own line is no call.
void calls(const Snapshot& s, const Scrape&, Series& out) {
  if (!s.broker.configured) return;
  for (size_t i = 0; i < s.broker.decisions.size(); ++i)
    if (base::BrokerCounts::kNames[i] != "session")
      out.add({base::BrokerCounts::kNames[i]}, s.broker.decisions[i].took);
}

void opened(const Snapshot& s, const Scrape&, Series& out) {
  if (!s.broker.configured) return;
  out.add({"opened"}, count(s.broker.opened_ok));
  out.add({"refused"}, count(s.broker.opened_refused));
}

// --- RPC, audit ---

template <auto kMember>
void codes(const Snapshot& s, const Scrape&, Series& out) {
  for (size_t c = 0; c < kCodes; ++c)
    if ((s.rpc.*kMember)[c] != 0 || c != 0) out.add({codeName(c)}, count((s.rpc.*kMember)[c]));
}

template <auto kIn, auto kOut>
void bothWays(const Snapshot& s, const Scrape&, Series& out) {
  out.add({"in"}, count(s.rpc.*kIn));
  out.add({"out"}, count(s.rpc.*kOut));
}

void methods(const Snapshot& s, const Scrape&, Series& out) {
  for (const Method& m : s.rpc.methods) out.add({m.name}, m.took);
}

void findings(const Snapshot& s, const Scrape&, Series& out) {
  for (size_t k = 0; k < base::kAuditKinds; ++k)
    out.add({name(static_cast<base::AuditFinding::Kind>(k))}, count(s.audit_findings[k]));
}

void looked(const Snapshot& s, const Scrape&, Series& out) {
  out.add({"cgroups"}, count(s.audit_last.cgroups));
  out.add({"processes"}, count(s.audit_last.processes));
  out.add({"mounts"}, count(s.audit_last.mounts));
}

// --- single figures ---

template <auto kMember>
void one(const Snapshot& s, const Scrape&, Series& out) {
  out.add({}, static_cast<double>(s.*kMember));
}
template <auto kMember>
void ofRpc(const Snapshot& s, const Scrape&, Series& out) {
  out.add({}, static_cast<double>(s.rpc.*kMember));
}
template <auto kMember>
void ofProcess(const Snapshot& s, const Scrape&, Series& out) {
  out.add({}, static_cast<double>(s.process.*kMember));
}
template <auto kMember>
void ofScrape(const Snapshot&, const Scrape& scrape, Series& out) {
  out.add({}, static_cast<double>(scrape.*kMember));
}

constexpr Family kDaemonFamilies[] = {
    {"mayfly_build_info", Type::gauge, "version instance", "Always 1.",
     [](const Snapshot& s, const Scrape&, Series& out) {
       out.add({s.version, s.instance}, 1);
     }},
    {"mayfly_start_time_seconds", Type::gauge, "", "When the daemon started, since 1970.",
     [](const Snapshot& s, const Scrape&, Series& out) { out.add({}, count(s.started_ms) / 1e3); }},
    {"mayfly_ready", Type::gauge, "", "1: takes tasks, and every template is ready or given up.",
     one<&Snapshot::ready>},
    {"mayfly_stopping", Type::gauge, "", "1: the daemon ends.", one<&Snapshot::stopping>},
    {"mayfly_snapshot_age_seconds", Type::gauge, "",
     "The age of these figures; large: the core thread does not come to make new ones.",
     [](const Snapshot&, const Scrape& scrape, Series& out) {
       out.add({}, inSeconds(scrape.age_ns));
     }},
    {"mayfly_memory_committed_bytes", Type::gauge, "", "Memory caps of all tasks with a box.",
     budget<Of::memory, &Headroom::committed>},
    {"mayfly_memory_budget_bytes", Type::gauge, "", "The most that it may be.",
     budget<Of::memory, &Headroom::budget>},
    {"mayfly_cpu_committed_cores", Type::gauge, "",
     "CPU caps of all tasks with a box; may be more than the host has.",
     budget<Of::cpu, &Headroom::committed>},
    {"mayfly_cpu_cores", Type::gauge, "", "The host's cores.", budget<Of::cpu, &Headroom::budget>},
    {"mayfly_pool_memory_bytes", Type::gauge, "", "Memory of parked clones and stocked boxes.",
     budget<Of::parkedMemory, &Headroom::committed>},
    {"mayfly_pool_memory_budget_bytes", Type::gauge, "", "The setting parked_memory.",
     budget<Of::parkedMemory, &Headroom::budget>},
    {"mayfly_budget_used", Type::gauge, "resource",
     "Boxes, descriptors, processes, pseudo-terminals, parked clones, queue places in use.",
     counted<&Headroom::committed>},
    {"mayfly_budget_limit", Type::gauge, "resource", "The daemon's bound on each of them.",
     counted<&Headroom::budget>},
    {"mayfly_budget_used_ratio", Type::gauge, "resource",
     "Used over budget, memory and cpu included.", ratios},
    {"mayfly_broker_up", Type::gauge, "process", "1: the broker's process runs.",
     ofBroker<&Broker::front_up, &Broker::vault_up>},
    {"mayfly_broker_starts_total", Type::counter, "process", "Starts of the process.",
     ofBroker<&Broker::front_starts, &Broker::vault_starts>},
    {"mayfly_broker_ends_total", Type::counter, "process", "Ends of the process while needed.",
     ofBroker<&Broker::front_ends, &Broker::vault_ends>},
    {"mayfly_broker_sessions", Type::gauge, "", "Open sessions of tasks with grants or tools.",
     [](const Snapshot& s, const Scrape&, Series& out) {
       if (s.broker.configured) out.add({}, s.broker.sessions);
     }},
    {"mayfly_broker_decisions_total", Type::counter, "kind outcome",
     "Calls of tasks that were allowed, refused, or failed.", decisions},
    {"mayfly_broker_call_seconds", Type::histogram, "kind",
     "A task's call to the broker, from its decision to the end of its answer.", calls},
    {"mayfly_broker_sessions_opened_total", Type::counter, "result",
     "Submissions with grants or tools.", opened},
    {"mayfly_broker_session_open_seconds", Type::histogram, "",
     "The vault's answer to a submission with grants or tools.", brokerTimes<&Broker::opened>},
    {"mayfly_broker_session_end_seconds", Type::histogram, "",
     "From a task's end to the proof that no call of it works.", brokerTimes<&Broker::revoked>},
    {"mayfly_audit_findings_total", Type::counter, "kind",
     "Differences between the host and the ledger; each is counted once.", findings},
    {"mayfly_audit_walks_total", Type::counter, "", "Walks of the audit over the whole host.",
     one<&Snapshot::audit_walks>},
    {"mayfly_audit_objects", Type::gauge, "object", "What the last walk looked at.", looked},
    {"mayfly_audit_open_findings", Type::gauge, "", "Findings of the last walk, known ones too.",
     [](const Snapshot& s, const Scrape&, Series& out) {
       out.add({}, count(s.audit_last.findings));
     }},
    {"mayfly_rpc_connections", Type::gauge, "", "Open connections of clients.",
     ofRpc<&Rpc::connections>},
    {"mayfly_rpc_connections_opened_total", Type::counter, "", "Connections that were admitted.",
     ofRpc<&Rpc::opened>},
    {"mayfly_rpc_connections_refused_total", Type::counter, "code",
     "Connections that were not; permissionDenied: an unauthorised user.",
     codes<&Rpc::connections_refused>},
    {"mayfly_rpc_messages_total", Type::counter, "direction", "Messages of clients.",
     bothWays<&Rpc::messages_in, &Rpc::messages_out>},
    {"mayfly_rpc_bytes_total", Type::counter, "direction", "Bytes of these messages.",
     bothWays<&Rpc::bytes_in, &Rpc::bytes_out>},
    {"mayfly_rpc_call_seconds", Type::histogram, "method", "From a call's message to the answer's.",
     methods},
    {"mayfly_rpc_calls_refused_total", Type::counter, "code",
     "Calls that were answered with an error, by its code.", codes<&Rpc::calls_refused>},
    {"mayfly_rpc_messages_refused_total", Type::counter, "",
     "Malformed or forbidden messages, each of which ended its connection.",
     ofRpc<&Rpc::messages_refused>},
    {"mayfly_loop_lag_seconds", Type::histogram, "",
     "How late the core thread came to a timer, four times a second.",
     [](const Snapshot& s, const Scrape&, Series& out) { out.add({}, s.loop_lag); }},
    {"mayfly_loop_lag_max_seconds", Type::gauge, "", "The most since the daemon's start.",
     [](const Snapshot& s, const Scrape&, Series& out) {
       out.add({}, inSeconds(s.loop_lag_max_ns));
     }},
    {"mayfly_process_cpu_seconds_total", Type::counter, "", "CPU time of mayflyd itself.",
     ofProcess<&Process::cpu_s>},
    {"mayfly_spawner_cpu_seconds_total", Type::counter, "",
     "CPU time of mayfly-spawner itself, without the children that make boxes.",
     ofProcess<&Process::spawner_cpu_s>},
    {"mayfly_process_resident_memory_bytes", Type::gauge, "", "Memory of mayflyd itself.",
     ofProcess<&Process::resident_bytes>},
    {"mayfly_process_open_fds", Type::gauge, "", "Descriptors of mayflyd itself.",
     ofProcess<&Process::open_fds>},
    {"mayfly_process_max_fds", Type::gauge, "", "The most that it may have.",
     ofProcess<&Process::fds_max>},
    {"mayfly_http_connections", Type::gauge, "", "Open connections to this server.",
     ofScrape<&Scrape::http_connections>},
    {"mayfly_http_streams", Type::gauge, "", "Of those: listeners to server-sent events.",
     ofScrape<&Scrape::http_streams>},
    {"mayfly_http_requests_total", Type::counter, "", "Requests to this server.",
     ofScrape<&Scrape::http_requests>},
    {"mayfly_http_connections_refused_total", Type::counter, "",
     "Connections beyond its bounds: refused, or ended to make room.",
     ofScrape<&Scrape::http_refused>},
    {"mayfly_http_unauthorised_total", Type::counter, "",
     "Requests without the right token, or for another host.",
     ofScrape<&Scrape::http_unauthorised>},
    {"mayfly_http_slow_clients_total", Type::counter, "",
     "Clients that were dropped because they did not read or write in time.",
     ofScrape<&Scrape::http_slow>},
};

}  // namespace

std::span<const Family> daemonFamilies() { return kDaemonFamilies; }

}  // namespace mayfly::metrics
