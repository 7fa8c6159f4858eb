// The entrance of tasks: checks a submission against every bound before it changes anything; then
// holds the task's place in the queue and its share of the daemon's memory until the task's end.
//
// Layer: core. Core thread.
#pragma once

#include <memory>
#include <vector>

#include "base/core_report.h"
#include "core/context.h"
#include "core/lanes.h"
#include "core/task.h"
#include "sched/admission.h"
#include "sched/core.h"

namespace mayfly::core {

class Intake {
 public:
  Intake(Context& context, Lanes& lanes);

  // The queued task, or the typed refusal; `by` is then set.
  base::Result<TaskPtr> accept(base::TaskId id, sched::TaskSpec spec,
                               std::shared_ptr<sched::TaskListener> listener, base::RefusedBy* by);
  // The task that gets a slot now; 0: none.
  base::TaskId next();
  void putBack(const Task& t);
  // The task has its result. Its slot is free, unless a receipt is missing.
  void ended(Task& t);
  void slotFree(base::TaskId task) { admission_.release(task); }
  std::vector<base::TaskId> queuedFor(base::LaneId lane) { return admission_.queuedFor(lane); }
  uint32_t queued() const { return static_cast<uint32_t>(admission_.queued()); }
  void addTo(base::HostUse* use) const;

 private:
  base::Status hasRoom(const sched::AccountRef& account, sched::Resource resource, uint64_t amount,
                       base::RefusedBy* by) const;

  Context& x_;
  Lanes& lanes_;
  sched::Admission admission_;
};

}  // namespace mayfly::core
