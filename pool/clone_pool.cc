#include "pool/clone_pool.h"

#include <algorithm>

namespace mayfly::pool {

using base::BoxId;
using base::TaskId;

void ClonePool::erase(std::unordered_map<BoxId, Clone>::iterator it) {
  const Clone& clone = it->second;
  if (clone.state == CloneState::ready) {
    ready_.erase(clone.at);
    if (clone.zygote != zygote_) --old_parked_;
  } else {
    --making_;
  }
  boxes_.erase(it);
}

std::optional<BoxId> ClonePool::claim(TaskId task) {
  if (ready_.empty()) {
    waiting_.push_back(task);
    return std::nullopt;
  }
  BoxId box = ready_.front();
  erase(boxes_.find(box));
  park_after_ns_ = pause_ns_ = 0;
  return box;
}

void ClonePool::withdraw(TaskId task) {
  auto at = std::find(waiting_.begin(), waiting_.end(), task);
  if (at != waiting_.end()) waiting_.erase(at);
}

void ClonePool::asked(BoxId box, Rehearsed rehearsed) {
  boxes_[box] = Clone{CloneState::making, rehearsed, zygote_, false, {}};
  ++making_;
}

void ClonePool::setZygote(base::ZygoteId zygote) {
  zygote_ = zygote;
  old_parked_ = static_cast<uint32_t>(std::count_if(
      ready_.begin(), ready_.end(), [&](BoxId box) { return boxes_.at(box).zygote != zygote; }));
}

std::vector<BoxId> ClonePool::endZygote(base::ZygoteId zygote) {
  std::vector<BoxId> parked;
  for (auto& [box, clone] : boxes_) {
    if (clone.zygote != zygote) continue;
    clone.stale = true;
    if (clone.state == CloneState::ready) parked.push_back(box);
  }
  std::sort(parked.begin(), parked.end());
  for (BoxId box : parked) erase(boxes_.find(box));
  return parked;
}

ClonePool::Handed ClonePool::ready(BoxId box, uint64_t now_ns) {
  auto it = boxes_.find(box);
  if (it == boxes_.end() || it->second.state != CloneState::making) return {0, true};
  Clone& clone = it->second;
  if (!clone.stale && !waiting_.empty()) {
    TaskId task = waiting_.front();
    waiting_.pop_front();
    erase(it);
    park_after_ns_ = pause_ns_ = 0;
    return {task, false};
  }
  // A clone without a rehearsal is worth less than a parked one.
  if (clone.stale || clone.zygote != zygote_ || clone.rehearsed == Rehearsed::no ||
      parkedOfPresent() >= target_) {
    erase(it);
    return {0, true};
  }
  clone.state = CloneState::ready;
  clone.ready_ns = now_ns;
  --making_;
  clone.at = ready_.insert(ready_.end(), box);
  return {};
}

std::optional<TaskId> ClonePool::lost(BoxId box, uint64_t now_ns) {
  auto it = boxes_.find(box);
  if (it == boxes_.end()) return std::nullopt;
  bool was_making = it->second.state == CloneState::making;
  bool early = was_making || now_ns - it->second.ready_ns < kEarlyDeath_ns;
  erase(it);
  if (early) {
    bool again = pause_ns_ != 0 && now_ns - failed_ns_ < kParkPauseForget_ns;
    pause_ns_ = again ? std::min(2 * pause_ns_, kParkPauseMax_ns) : kParkPauseFirst_ns;
    failed_ns_ = now_ns;
    park_after_ns_ = now_ns + pause_ns_;
  }
  if (!was_making || waiting_.size() <= making_) return std::nullopt;
  TaskId task = waiting_.front();
  waiting_.pop_front();
  return task;
}

Work ClonePool::work(bool may_make, bool park, uint64_t now_ns) {
  Work work;
  if (now_ns >= park_after_ns_) park_after_ns_ = 0;
  while (parked() > target_) {
    work.end.push_back(ready_.front());
    erase(boxes_.find(ready_.front()));
  }
  if (!may_make) return work;
  uint32_t room = making_ < making_max_ ? making_max_ - making_ : 0;
  uint32_t wanted = waiting() > making_ ? waiting() - making_ : 0;
  work.make_for_tasks = std::min(room, wanted);
  room -= work.make_for_tasks;
  uint32_t coming = making_ + work.make_for_tasks, used = std::min(waiting(), coming);
  uint32_t held = parkedOfPresent() + coming - used;
  if (park && park_after_ns_ == 0 && waiting() <= coming && held < target_)
    work.make_to_park = std::min(room, target_ - held);
  return work;
}

std::vector<BoxId> ClonePool::drop() {
  std::vector<BoxId> all;
  for (const auto& [box, clone] : boxes_) all.push_back(box);
  std::sort(all.begin(), all.end());
  boxes_.clear();
  ready_.clear();
  making_ = old_parked_ = 0;
  park_after_ns_ = pause_ns_ = 0;
  return all;
}

}  // namespace mayfly::pool
