#include "core/trials.h"

#include <optional>

#include "base/text.h"
#include "pool/trial.h"

namespace mayfly::core {

using pool::BoxMachine;
using pool::ClonePool;

class Trials::Listener final : public sched::TaskListener {
 public:
  Listener(Trials& trials, base::ZygoteId id) : trials_(trials), id_(id) {}
  void onResult(sched::TaskResult result) override { trials_.onResult(id_, result); }

 private:
  Trials& trials_;  // outlives its tasks
  base::ZygoteId id_;
};

void Trials::start(const ZygoteRef& zygote) {
  trials_[zygote.id] = {zygote, {}, false};
  for (auto rehearsed : {ClonePool::Rehearsed::yes, ClonePool::Rehearsed::no})
    tasks_.tryOut(zygote, rehearsed, std::make_shared<Listener>(*this, zygote.id));
}

void Trials::zygoteGone(base::ZygoteId id) { trials_.erase(id); }

bool Trials::askTrialBox(base::ZygoteId id, base::TaskId task, ClonePool::Rehearsed rehearsed) {
  auto at = trials_.find(id);
  if (at == trials_.end()) return false;
  const ZygoteRef& zygote = at->second.zygote;
  BoxPtr box = boxes_.make(zygote, *this, BoxMachine::First::making,
                           x_.registry.get(zygote.tmpl)->defaults, rehearsed);
  task_of_[box->id] = task;
  return true;
}

// The task of the box; forgets it, because a task is taken once.
base::TaskId Trials::take(base::BoxId box) {
  auto at = task_of_.extract(box);
  return at ? at.mapped() : 0;
}

void Trials::onReady(const BoxPtr& box) {
  const base::TaskId task = take(box->id);
  if (task == 0 || !tasks_.giveBox(task, box, base::ClaimKind::made)) boxes_.end(box);
}

void Trials::onLost(const BoxPtr& box, std::string why, sched::Again again) {
  if (base::TaskId task = take(box->id)) tasks_.boxFailed(task, std::move(why), again);
}

void Trials::onResult(base::ZygoteId id, const sched::TaskResult& result) {
  auto at = trials_.find(id);
  if (at == trials_.end() || at->second.over) return;
  Trial& trial = at->second;
  std::optional<std::string> fault;
  if (result.verdict != base::Verdict::succeeded)
    fault = "its trial ended with " + std::string(base::name(result.verdict)) + ": " +
            result.reason + " " + base::printable(result.captured[1], 400);
  else if (trial.printed.emplace_back(result.captured[0]); trial.printed.size() == 2)
    fault = pool::findFault(trial.printed[0], trial.printed[1]);
  else
    return;
  trial.over = true;
  trial.printed.clear();
  x_.observer.trialEnded(x_.registry.get(trial.zygote.tmpl)->name, fault.value_or(""));
  x_.events.onTrialsEnded(trial.zygote, fault.value_or(""));
}

}  // namespace mayfly::core
