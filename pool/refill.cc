#include "pool/refill.h"

#include <algorithm>
#include <utility>

namespace mayfly::pool {

using base::BoxId;

void Refill::claimBegan(uint64_t now_ns) {
  ++claims_;
  claimed_ns_ = quiet_from_ns_ = now_ns;
}

void Refill::claimOver() {
  if (claims_ > 0) --claims_;
}

void Refill::asked(const Make& make, BoxId box) {
  if (make.what == Make::What::stock)
    stocking_ = box;
  else
    pool_.asked(box, make.rehearsed());
}

void Refill::stocked(BoxId box, uint64_t now_ns) {
  if (box != stocking_) return;
  stocking_ = 0;
  stock_.push_back(box);
  quiet_from_ns_ = now_ns;
}

ClonePool::Handed Refill::ready(BoxId box, uint64_t now_ns) {
  quiet_from_ns_ = now_ns;
  return pool_.ready(box, now_ns);
}

Refill::Lost Refill::lost(BoxId box, uint64_t now_ns) {
  quiet_from_ns_ = now_ns;
  if (pool_.holds(box)) return {true, pool_.lost(box, now_ns).value_or(0)};
  const bool was_stock = std::erase(stock_, box) != 0;
  if (!was_stock && (box == 0 || box != stocking_)) return {};
  if (box == stocking_) stocking_ = 0;
  stock_after_ns_ = now_ns + kStockPause_ns;
  return {};
}

void Refill::setTarget(uint32_t parked, uint32_t stocked) {
  pool_.setTarget(parked);
  stock_target_ = stocked;
}

std::vector<BoxId> Refill::takeStock() {
  std::vector<BoxId> all(stock_.begin(), stock_.end());
  stock_.clear();
  if (stocking_ != 0) all.push_back(std::exchange(stocking_, 0));
  return all;
}

std::vector<BoxId> Refill::setZygote(base::ZygoteId zygote) {
  pool_.setZygote(zygote);
  if (std::exchange(zygote_, zygote) == zygote) return {};
  return takeStock();
}

std::vector<BoxId> Refill::endZygote(base::ZygoteId zygote) {
  std::vector<BoxId> its = pool_.endZygote(zygote);
  if (zygote == zygote_)
    for (BoxId box : takeStock()) its.push_back(box);
  return its;
}

std::vector<BoxId> Refill::drop() {
  std::vector<BoxId> all = pool_.drop();
  for (BoxId box : takeStock()) all.push_back(box);
  due_ns_ = 0;
  return all;
}

bool Refill::mayPark(uint64_t now_ns) {
  if (2 * pool_.parked() < pool_.target()) return true;
  if (pool_.parkedOfPresent() >= pool_.target()) return false;
  const uint64_t free_ns = claimed_ns_ + (claims_ == 0 ? kParkQuiet_ns : kClaimQuietMax_ns);
  if (now_ns >= free_ns) return true;
  dueAt(free_ns);
  return false;
}

Refill::Work Refill::work(bool serves, uint64_t now_ns) {
  due_ns_ = 0;
  pool::Work clones = pool_.work(serves, mayPark(now_ns), now_ns);
  Work work{std::move(clones.end), {}};
  auto add = [&](Make::What what, base::TaskId task) {
    BoxId in = 0;
    if (!stock_.empty()) {
      in = stock_.front();
      stock_.pop_front();
    }
    work.make.push_back({what, in, task});
  };
  for (uint32_t i = 0; i < clones.make_for_tasks; ++i)
    add(Make::What::forTask, pool_.waitingTask(pool_.making() + i));
  for (uint32_t i = 0; i < clones.make_to_park; ++i) add(Make::What::park, 0);
  if (uint64_t at_ns = pool_.due_ns(); at_ns != 0) dueAt(at_ns);
  if (!work.make.empty() || !work.end.empty()) quiet_from_ns_ = now_ns;
  stockUp(serves, now_ns, &work);
  return work;
}

void Refill::stockUp(bool serves, uint64_t now_ns, Work* work) {
  for (; stock_.size() > stock_target_; stock_.pop_front()) work->end.push_back(stock_.front());
  if (!serves || stocking_ != 0 || stock_.size() >= stock_target_) return;
  const bool busy = !work->make.empty() || pool_.waiting() != 0 || pool_.making() != 0;
  if (busy) return;  // their end is an event that calls work() again
  uint64_t free_ns = std::max(stock_after_ns_, quiet_from_ns_ + kStockQuiet_ns);
  if (claims_ != 0) free_ns = std::max(free_ns, claimed_ns_ + kClaimQuietMax_ns);
  if (now_ns < free_ns) return dueAt(free_ns);
  work->make.push_back({Make::What::stock});
}

}  // namespace mayfly::pool
