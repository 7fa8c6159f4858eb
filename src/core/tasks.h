// All tasks, each from its submission to its result: feeds each task's TaskMachine the events of
// edges, boxes and the clock, and executes its actions.
//
// Layer: core. Core thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/boxes.h"
#include "core/claims.h"
#include "core/context.h"
#include "core/intake.h"
#include "core/lanes.h"
#include "core/task.h"
#include "core/task_table.h"
#include "sched/core.h"

namespace mayfly::core {

class Tasks final : public BoxClaimant, public LaneTasks {
 public:
  Tasks(Context& context, Boxes& boxes, Lanes& lanes);

  TaskTable& table() { return table_; }
  const TaskTable& table() const { return table_; }
  const Intake& intake() const { return intake_; }

  // --- calls of the edges: see sched::Core ---
  base::Result<base::TaskId> submit(sched::TaskSpec spec,
                                    std::shared_ptr<sched::TaskListener> listener);
  base::Status cancel(base::TaskId id, const sched::AccountRef& asks, sched::Cancel how);
  void ownerGone(sched::OwnerId owner);

  // --- trials ---
  // Submits a task that runs the template's trial code in a clone of that zygote.
  void tryOut(const ZygoteRef& zygote, pool::ClonePool::Rehearsed rehearsed,
              std::shared_ptr<sched::TaskListener> listener);

  // --- templates ---
  void dispatch();  // tasks may have a slot, a lane or a zygote now
  // Requeues the zygote's trials, and the `waiting` tasks that wait for one of its boxes.
  void zygoteGone(base::ZygoteId zygote, const std::vector<base::TaskId>& waiting);
  void failQueue(base::LaneId lane, const std::string& why);

  // --- the end ---
  void stopAll(sched::Cause cause);
  // Ends all tasks now, for `why` if it is not empty; boxes without a receipt are overdue.
  void abandon(sched::Cause cause, const std::string& why, const std::string& no_receipt);

  // LaneTasks
  const base::Limits* limitsOf(base::TaskId task) const override;
  bool giveBox(base::TaskId task, const BoxPtr& box, base::ClaimKind found) override;
  void boxFailed(base::TaskId task, std::string why, sched::Again again) override;

 private:
  // BoxClaimant
  void onCloneStarted(base::TaskId, const zygote::Started&) override;
  void onControlBroken(base::TaskId, std::string why) override;
  void onTaskOutput(base::TaskId, sched::Stream, std::string_view bytes) override;
  void onOutputOver(base::TaskId, sched::Stream) override;
  void onStdinTaken(base::TaskId, uint64_t bytes) override;
  void onBoxEvent(base::TaskId, const spawner::Event&) override;
  bool onBoxGone(base::TaskId, const spawner::Event&, const reap::Closed&) override;
  void onSlotFree(base::TaskId) override;

  void act(const TaskPtr& t, const sched::Acts& acts);
  void make(const TaskPtr& t);
  void begin(const TaskPtr& t);
  void queueAgain(const TaskPtr& t);
  void end(const TaskPtr& t);
  void leaveBroker(const TaskPtr& t);
  void finish(const TaskPtr& t);
  void armTimer(const TaskPtr& t);

  Context& x_;
  Boxes& boxes_;
  Lanes& lanes_;
  TaskTable table_;
  Intake intake_;
  Claims claims_;
  base::TaskId next_trial_ = kTrialIds;
  bool dispatching_ = false;
};

}  // namespace mayfly::core
