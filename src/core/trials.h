// The trial of a new zygote: two of its clones, one of them rehearsed, run the template's trial
// code in boxes that belong to no pool; findFault compares their findings. Meanwhile tasks wait, or
// the zygote's predecessor serves them.
//
// Layer: core. Core thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/boxes.h"
#include "core/context.h"
#include "core/tasks.h"

namespace mayfly::core {

class Trials final : public BoxKeeper, public TrialBoxes {
 public:
  Trials(Context& context, Boxes& boxes, Tasks& tasks)
      : x_(context), boxes_(boxes), tasks_(tasks) {}

  // CoreEvents::onTrialsEnded follows, unless the zygote dies first.
  void start(const ZygoteRef& zygote);
  void zygoteGone(base::ZygoteId id);

 private:
  struct Trial {
    ZygoteRef zygote;
    std::vector<std::string> printed;  // by the clones whose trial is over
    bool over = false;
  };
  class Listener;

  // TrialBoxes
  bool askTrialBox(base::ZygoteId, base::TaskId, pool::ClonePool::Rehearsed) override;
  // BoxKeeper
  void onReady(const BoxPtr& box) override;
  void onLost(const BoxPtr& box, std::string why, sched::Again again) override;

  base::TaskId take(base::BoxId box);
  void onResult(base::ZygoteId id, const sched::TaskResult& result);

  Context& x_;
  Boxes& boxes_;
  Tasks& tasks_;
  std::map<base::ZygoteId, Trial> trials_;  // of living zygotes
  std::map<base::BoxId, base::TaskId> task_of_;
};

}  // namespace mayfly::core
