// The lanes' pools: boxes are made ahead, parked and stocked as pool::Plan and each lane's
// pool::Refill say, and handed to the tasks that ask.
//
// Layer: core. Core thread.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <map>
#include <string>
#include <vector>

#include "core/boxes.h"
#include "core/context.h"
#include "pool/plan.h"
#include "pool/refill.h"

namespace mayfly::core {

class Lanes final : public BoxKeeper {
 public:
  Lanes(Context& context, Boxes& boxes);

  void open(base::LaneId id, base::TemplateId tmpl);
  void close(base::LaneId id);  // what it holds ends; it has no task
  void closeAll();              // what they hold ends, nothing more is made
  void onSpawnerLost();         // there is nobody to end a box any more

  // --- tasks ---
  void arrived(base::LaneId id);
  // The task gets a parked clone (LaneTasks::giveBox) at once, or the next that gets ready.
  void obtain(base::LaneId id, base::TaskId task);
  void withdraw(base::LaneId id, base::TaskId task);
  // From the claim's message to the task's start, or its end without.
  void claimBegan(base::LaneId id, uint64_t now_ns);
  void claimOver(base::LaneId id);
  std::vector<base::TaskId> waitingTasks(base::LaneId id) const;

  // --- zygotes ---
  void setZygote(base::LaneId id, base::ZygoteId zygote);  // boxes are made of it from here on
  void endZygote(base::LaneId id, base::ZygoteId zygote);  // none of its boxes gets a task

  // Makes, ends and plans what is due now.
  void refill(base::LaneId id);
  void resize();

  void addTo(base::PoolState* state, base::TemplateId tmpl) const;

 private:
  struct Lane {
    Lane(base::TemplateId t, uint32_t making_max) : tmpl(t), refill(making_max) {}
    base::TemplateId tmpl;
    pool::Refill refill;
    base::ZygoteId zygote = 0;  // that boxes are made of
  };
  struct Finds {
    uint64_t hits = 0, misses = 0;  // tasks that found a clone parked, and that did not
  };

  // BoxKeeper
  void onReady(const BoxPtr& box) override;
  void onStocked(const BoxPtr& box) override;
  void onLost(const BoxPtr& box, std::string why, sched::Again again) override;
  void onMeasured(const BoxPtr& box, uint64_t memory_bytes) override;
  void onGone(const BoxPtr& box) override;

  Lane* find(base::LaneId id);
  void make(base::LaneId id, Lane& lane, const pool::Refill::Make& make);
  void armRefill();
  void armPlan();

  Context& x_;
  Boxes& boxes_;
  pool::Plan plan_;
  std::map<base::LaneId, Lane> lanes_;
  std::map<base::TemplateId, Finds> finds_;
  boost::asio::steady_timer refill_timer_, plan_timer_;
  uint64_t refill_due_ns_ = 0;  // what refill_timer_ waits for; 0: nothing
};

}  // namespace mayfly::core
