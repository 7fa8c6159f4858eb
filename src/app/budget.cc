#include "app/budget.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/engine.h"

namespace mayfly::app {

static_assert(host::kDaemonFdsPerBox == core::kFdsPerBox);
static_assert(host::kDoorFdsPerBox == core::kDoorFdsPerBox);
static_assert(budget::kPidsPerBox == core::kPidsPerBox);

base::Status checkOpenFiles(const host::HostBudget& host, const config::Daemon& settings) {
  const uint64_t least = kOwnFdsLeast + host::capacityOf(host, boxSettings(settings)).client_fds +
                         host::kFdsReckonedPerBox;
  if (host.fds_hard >= least) return base::Unit{};
  return base::fail(
      base::Code::hostUnfit,
      fmt::format("the hard limit on open files (ulimit -n, RLIMIT_NOFILE) is {}; with {} "
                  "connections the daemon needs at least {}",
                  host.fds_hard, settings.connections_max, least),
      "Raise it (LimitNOFILE of the service, `ulimit -n` in a shell), or lower `connections_max`.");
}

core::EngineOptions engineOptions(const host::HostBudget& host, const config::Daemon& settings) {
  core::EngineOptions e;
  e.budget = deriveBudget(host, settings);
  e.accounts = deriveAccountBounds(host, settings);
  e.parked_memory_bytes_max = settings.parked_memory_bytes;
  e.bounds.receipt_ns = (settings.receipt_ms_max + settings.collect_ms_max) * 1'000'000;
  e.collect_ms_max = static_cast<uint32_t>(settings.collect_ms_max);
  return e;
}

rpc::Options edgeOptions(const config::Daemon& settings) {
  rpc::Options edge;
  edge.instance = settings.instance;
  edge.blob_ttl_ms = settings.blob_ttl_ms;
  edge.upload_idle_ms = static_cast<uint32_t>(settings.upload_idle_ms);
  edge.detach_lease_ms_max = static_cast<uint32_t>(settings.detach_lease_ms_max);
  edge.result_lease_ms = static_cast<uint32_t>(settings.result_lease_ms);
  edge.connection_idle_ms = static_cast<uint32_t>(settings.connection_idle_ms);
  edge.message_ms_max = static_cast<uint32_t>(settings.message_ms_max);
  return edge;
}

}  // namespace mayfly::app
