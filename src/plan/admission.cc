#include "plan/admission.h"

#include <algorithm>
#include <utility>

namespace mayfly::plan {

std::string_view name(Bound bound) {
  switch (bound) {
    case Bound::boxes:
      return "boxes (places for tasks)";
    case Bound::memory:
      return "memory (the sum of the tasks' caps)";
    case Bound::descriptors:
      return "descriptors of the daemon";
    case Bound::processes:
      return "processes (the sum of the tasks' caps)";
    case Bound::terminals:
      return "pseudo-terminals";
    case Bound::share:
      break;
  }
  return "a user's or tenant's own share";
}

HostAdmission::HostAdmission(const sched::Budget& budget, const sched::AccountBounds& bounds,
                             std::vector<sched::Demand> demands,
                             std::vector<pool::TraceTenant> tenants, uint64_t count_from_ns,
                             uint64_t count_to_ns)
    : budget_(budget),
      accounts_(bounds),
      admission_(budget, accounts_),
      demands_(std::move(demands)),
      tenants_(std::move(tenants)),
      count_from_ns_(count_from_ns),
      count_to_ns_(count_to_ns) {
  if (tenants_.empty()) tenants_.emplace_back();
  if (!demands_.empty()) least_ = demands_[0];
  for (const sched::Demand& d : demands_) {
    least_.memory_bytes = std::min(least_.memory_bytes, d.memory_bytes);
    least_.fds = std::min(least_.fds, d.fds);
    least_.pids = std::min(least_.pids, d.pids);
    least_.ptys = std::min(least_.ptys, d.ptys);
  }
}

std::array<double, kBounds> HostAdmission::used() const {
  return {static_cast<double>(admission_.held()), static_cast<double>(used_.memory_bytes),
          static_cast<double>(used_.fds),         static_cast<double>(used_.pids),
          static_cast<double>(used_.ptys),        0};
}

// The bound for which not even the smallest task fits.
std::optional<Bound> HostAdmission::full() const {
  if (admission_.queued() == 0) return std::nullopt;
  if (admission_.held() >= budget_.boxes_max) return Bound::boxes;
  if (used_.memory_bytes + least_.memory_bytes > budget_.memory_bytes_max) return Bound::memory;
  if (used_.fds + least_.fds > budget_.fds_max) return Bound::descriptors;
  if (used_.pids + least_.pids > budget_.pids_max) return Bound::processes;
  if (used_.ptys + least_.ptys > budget_.ptys_max) return Bound::terminals;
  return Bound::share;
}

// Adds up the time since the last change.
void HostAdmission::pass(uint64_t now_ns) {
  const uint64_t from = std::max(passed_ns_, count_from_ns_), to = std::min(now_ns, count_to_ns_);
  if (from < to) {
    const auto ns = static_cast<double>(to - from);
    const std::array<double, kBounds> now = used();
    for (size_t i = 0; i < kBounds; ++i) {
      uses_[i].mean += ns * now[i];
      uses_[i].most = std::max(uses_[i].most, now[i]);
    }
    if (full_) uses_[static_cast<size_t>(*full_)].full_share += ns;
  }
  passed_ns_ = std::max(passed_ns_, now_ns);
}

bool HostAdmission::enqueue(base::TaskId task, const pool::Arrival& arrival, uint64_t now_ns) {
  pass(now_ns);
  const pool::TraceTenant& whose =
      tenants_[std::min<size_t>(arrival.tenant_index, tenants_.size() - 1)];
  auto account = accounts_.open(sched::Account::ofSubject(whose.user, whose.tenant, false));
  if (!account) return false;
  if (template_of_.size() <= task) template_of_.resize(task + 1);
  template_of_[task] = arrival.template_index;
  // A tenant's tasks come over one connection.
  return admission_
      .enqueue(task, *account, arrival.tenant_index + 1, arrival.template_index + 1,
               demands_[arrival.template_index])
      .has_value();
}

std::optional<base::TaskId> HostAdmission::next(uint64_t now_ns) {
  pass(now_ns);
  const auto task = admission_.next(now_ns, [](base::LaneId) { return true; });
  if (task) used_ += demands_[template_of_[*task]];
  full_ = task ? std::nullopt : full();
  return task;
}

void HostAdmission::release(base::TaskId task, uint64_t now_ns) {
  pass(now_ns);
  admission_.release(task);
  used_ -= demands_[template_of_[task]];
}

std::array<Use, kBounds> HostAdmission::uses() const {
  std::array<Use, kBounds> out = uses_;
  const double of[kBounds] = {
      static_cast<double>(budget_.boxes_max), static_cast<double>(budget_.memory_bytes_max),
      static_cast<double>(budget_.fds_max),   static_cast<double>(budget_.pids_max),
      static_cast<double>(budget_.ptys_max),  0};
  const double ns =
      count_to_ns_ > count_from_ns_ ? static_cast<double>(count_to_ns_ - count_from_ns_) : 1;
  for (size_t i = 0; i < kBounds; ++i) {
    out[i].of = of[i];
    out[i].mean /= ns;
    out[i].full_share /= ns;
  }
  return out;
}

}  // namespace mayfly::plan
