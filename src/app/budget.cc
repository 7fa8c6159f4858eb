#include "app/budget.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/engine.h"

namespace mayfly::app {

namespace {

// Descriptors that clients may make the daemon hold beside those of running boxes.
uint64_t clientsFds(const host::HostBudget& host, const config::Daemon& settings) {
  using sched::Resource;
  const sched::AccountBounds accounts = deriveAccountBounds(host, settings);
  return settings.connections_max + accounts.of(Resource::blobs).pool_max +
         accounts.of(Resource::spools).pool_max;
}

}  // namespace

base::Status checkOpenFiles(const host::HostBudget& host, const config::Daemon& settings) {
  const uint64_t least = kOwnFdsLeast + clientsFds(host, settings) + host::kFdsReckonedPerBox;
  if (host.fds_hard >= least) return base::Unit{};
  return base::fail(
      base::Code::hostUnfit,
      fmt::format("the hard limit on open files (ulimit -n, RLIMIT_NOFILE) is {}; with {} "
                  "connections the daemon needs at least {}",
                  host.fds_hard, settings.connections_max, least),
      "Raise it (LimitNOFILE of the service, `ulimit -n` in a shell), or lower `connections_max`.");
}

sched::Budget deriveBudget(const host::HostBudget& host, const config::Daemon& settings) {
  sched::Budget b;
  const uint64_t reserved = host::kFdsReserved + clientsFds(host, settings);
  uint64_t fds = host.fds_hard > reserved ? host.fds_hard - reserved : 0;
  uint64_t pids = host.pids_max > host::kPidsReserved ? host.pids_max - host::kPidsReserved : 0;
  b.boxes_max = std::min({kBoxesMax, host.boxes_by_fds, host.boxes_by_namespaces});
  if (settings.boxes_max != 0) b.boxes_max = std::min(b.boxes_max, settings.boxes_max);
  b.boxes_max = std::max(b.boxes_max, 1u);
  const uint32_t ahead_max = b.boxes_max - std::min((b.boxes_max + 3) / 4, kTaskBoxesKept);
  b.parked_max = std::min(settings.parked_max, ahead_max);
  b.stocked_max = std::min(settings.stocked_max, ahead_max - b.parked_max);
  b.boxes_max -= b.parked_max + b.stocked_max;
  b.fds_max = static_cast<uint32_t>(
      std::clamp<uint64_t>(fds, core::kFdsPerBox, uint64_t{b.boxes_max} * core::kFdsPerBox));
  b.pids_max = static_cast<uint32_t>(std::min<uint64_t>(pids, UINT32_MAX));
  b.ptys_max = static_cast<uint32_t>(std::min<uint64_t>(host.ptys_max, UINT32_MAX));
  if (settings.ptys_max != 0) b.ptys_max = std::min(b.ptys_max, settings.ptys_max);
  b.memory_bytes_max = host.memory_total_bytes / 100 * kMemoryPercentOfHost;
  if (b.parked_max + b.stocked_max > 0)
    b.memory_bytes_max -= std::min(b.memory_bytes_max / 2, settings.parked_memory_bytes);
  // One connection cannot fill the whole queue, unless the queue is very short.
  b.queue_tasks_per_owner_max = std::max(settings.queue_max - settings.queue_max / 8, 1u);
  return b;
}

uint32_t grantPtys(const sched::Budget& budget, uint32_t wished) {
  return std::min(wished, budget.ptys_max / std::min(budget.boxes_max, kPtyTasksLeast));
}

sched::AccountBounds deriveAccountBounds(const host::HostBudget& host,
                                         const config::Daemon& settings) {
  using sched::Resource;
  sched::AccountBounds b;
  b.setPool(Resource::queuedTasks, settings.queue_max);
  b.setPool(Resource::openTasks, settings.tasks_max);
  b.setPool(Resource::detachedTasks, settings.tasks_max,
            std::min(settings.detached_per_user_max, settings.tasks_max));
  b.setPool(Resource::outputBytes, settings.output_held_bytes_max);
  b.setPool(Resource::outFileBytes, std::min(settings.out_files_held_bytes_max,
                                             host.memory_total_bytes / kOutFilesMemoryShare));
  b.setPool(Resource::connections, settings.connections_max);
  b.setPool(Resource::requestBytes, settings.in_flight_bytes_max);
  b.setPool(Resource::spools,
            std::min<uint64_t>(b.of(Resource::spools).pool_max, host.fds_hard / kSpoolFdsShare));
  const uint64_t blob_bytes =
      std::min(settings.blob_store_bytes_max, host.memory_total_bytes / kBlobMemoryShare);
  b.setPool(Resource::blobBytes, blob_bytes, std::min(settings.blob_user_bytes_max, blob_bytes));
  b.setPool(Resource::blobs,
            std::min<uint64_t>(b.of(Resource::blobs).pool_max, host.fds_hard / kBlobFdsShare),
            std::min<uint64_t>(b.of(Resource::blobs).user_max, host.fds_hard / kBlobFdsShare));
  return b;
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
