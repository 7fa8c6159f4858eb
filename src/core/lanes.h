// The lanes' pools: makes boxes ahead of tasks, parks and stocks them as pool::Plan and each lane's
// pool::Refill say, and hands them out.
//
// Layer: core. Core thread.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <map>
#include <string>
#include <vector>

#include "base/core_report.h"
#include "core/boxes.h"
#include "core/context.h"
#include "pool/plan.h"
#include "pool/refill.h"

namespace mayfly::core {

class Lanes final : public BoxKeeper {
 public:
  Lanes(Context& context, Boxes& boxes);

  void open(base::LaneId id, base::TemplateId tmpl);
  void close(base::LaneId id);  // its boxes end; it has no task
  void closeAll();              // all their boxes end; nothing more is made
  void onSpawnerLost();         // no process is left to end a box

  // --- tasks ---
  void arrived(base::LaneId id);
  // The task gets a parked clone (LaneTasks::giveBox) at once, or the next clone to become ready.
  void obtain(base::LaneId id, base::TaskId task);
  void withdraw(base::LaneId id, base::TaskId task);
  // From the claim's message to the task's start, or to its end before a start.
  void claimBegan(base::LaneId id, uint64_t now_ns);
  void claimOver(base::LaneId id);
  std::vector<base::TaskId> waitingTasks(base::LaneId id) const;

  // --- zygotes ---
  void setZygote(base::LaneId id,
                 base::ZygoteId zygote);  // from here on, new boxes are this zygote's
  void endZygote(base::LaneId id, base::ZygoteId zygote);  // none of its boxes gets a task

  // Makes, ends and plans everything that is due.
  void refill(base::LaneId id);
  void resize();

  void addTo(base::PoolState* state, base::TemplateId tmpl) const;
  void addTo(base::TemplateReport* report, base::TemplateId tmpl) const;
  void addTo(base::HostUse* use) const;

 private:
  struct Lane {
    Lane(base::TemplateId t, uint32_t making_max) : tmpl(t), refill(making_max) {}
    base::TemplateId tmpl;
    pool::Refill refill;
    base::ZygoteId zygote = 0;  // of new boxes
    bool held_back = false;     // too many boxes of its template are in quarantine
  };
  struct Finds {
    uint64_t hits = 0, misses = 0;  // tasks that found a parked clone, and tasks that did not
  };

  // BoxKeeper
  void onReady(const BoxPtr& box) override;
  void onStocked(const BoxPtr& box) override;
  void onLost(const BoxPtr& box, std::string why, sched::Again again) override;
  void onMeasured(const BoxPtr& box, uint64_t memory_bytes) override;
  void onGone(const BoxPtr& box) override;

  Lane* find(base::LaneId id);
  // Why the lane is to have the parked clones that it is to have. `wanted`: before the budget's
  // cut.
  base::SizeReason reasonOf(const Lane& lane, const pool::LaneDemand& demand,
                            uint32_t wanted) const;
  void make(base::LaneId id, Lane& lane, const pool::Refill::Make& make);
  void armRefill();
  void armPlan();

  Context& x_;
  Boxes& boxes_;
  pool::Plan plan_;
  std::map<base::LaneId, Lane> lanes_;
  std::map<base::TemplateId, Finds> finds_;
  boost::asio::steady_timer refill_timer_, plan_timer_;
  uint64_t refill_due_ns_ = 0;  // when refill_timer_ fires; 0: it is not set
};

}  // namespace mayfly::core
