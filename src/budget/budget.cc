#include "budget/budget.h"

#include <algorithm>

namespace mayfly::budget {

host::BoxSettings boxSettings(const config::Daemon& s) {
  return {s.boxes_max,
          s.ptys_max,
          s.parked_max,
          s.stocked_max,
          s.parked_memory_bytes,
          s.connections_max + (s.http.listen.empty() ? 0 : s.http.connections_max),
          !s.broker_policy.empty()};
}

sched::Budget deriveBudget(const host::HostBudget& host, const config::Daemon& settings) {
  const host::Capacity c = host::capacityOf(host, boxSettings(settings));
  const auto small = [](uint64_t n) {
    return static_cast<uint32_t>(std::min<uint64_t>(n, UINT32_MAX));
  };
  sched::Budget b;
  b.boxes_max = c.boxes_max;
  b.parked_max = c.parked_max;
  b.stocked_max = c.stocked_max;
  b.fds_max = small(c.fds_max);
  b.pids_max = small(c.pids_max);
  b.ptys_max = small(c.ptys_max);
  b.memory_bytes_max = c.memory_bytes_max;
  // One connection cannot fill the whole queue, unless the queue is very short.
  b.queue_tasks_per_owner_max = std::max(settings.queue_max - settings.queue_max / 8, 1u);
  return b;
}

uint32_t grantPtys(const sched::Budget& budget, uint32_t wished) {
  return std::min(wished, budget.ptys_max / std::min(budget.boxes_max, host::kPtyTasksLeast));
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
  b.setPool(Resource::spools, std::min<uint64_t>(b.of(Resource::spools).pool_max,
                                                 host.fds_hard / host::kClientFdsShare));
  const uint64_t blob_bytes =
      std::min(settings.blob_store_bytes_max, host.memory_total_bytes / kBlobMemoryShare);
  b.setPool(Resource::blobBytes, blob_bytes, std::min(settings.blob_user_bytes_max, blob_bytes));
  b.setPool(
      Resource::blobs,
      std::min<uint64_t>(b.of(Resource::blobs).pool_max, host.fds_hard / host::kClientFdsShare),
      std::min<uint64_t>(b.of(Resource::blobs).user_max, host.fds_hard / host::kClientFdsShare));
  return b;
}

}  // namespace mayfly::budget
