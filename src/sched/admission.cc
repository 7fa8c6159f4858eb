#include "sched/admission.h"

#include <algorithm>
#include <string>

namespace mayfly::sched {

bool Admission::fits(const Demand& d) const {
  return held_.size() < budget_.boxes_max &&
         used_.memory_bytes + d.memory_bytes <= budget_.memory_bytes_max &&
         used_.fds + d.fds <= budget_.fds_max && used_.pids + d.pids <= budget_.pids_max &&
         used_.ptys + d.ptys <= budget_.ptys_max;
}

bool Admission::couldEverFit(const Demand& d) const {
  return budget_.boxes_max > 0 && d.memory_bytes <= budget_.memory_bytes_max &&
         d.fds <= budget_.fds_max && d.pids <= budget_.pids_max && d.ptys <= budget_.ptys_max;
}

base::Status Admission::accepts(OwnerId owner, const Demand& demand) const {
  if (!couldEverFit(demand))
    return base::fail(base::Code::invalidArgument,
                      "the task asks for more than the whole budget of the host: " +
                          std::to_string(demand.memory_bytes) + " of " +
                          std::to_string(budget_.memory_bytes_max) + " bytes, " +
                          std::to_string(demand.pids) + " of " + std::to_string(budget_.pids_max) +
                          " processes, " + std::to_string(demand.ptys) + " of " +
                          std::to_string(budget_.ptys_max) + " pseudo-terminals",
                      "Ask for less, or raise the daemon's budget.");
  if (queued_ >= budget_.queue_tasks_max)
    return base::fail(base::Code::resourceExhausted,
                      "the queue is full: " + std::to_string(queued_) + " tasks wait",
                      "Try again later.", base::kRetryMs);
  auto line = lines_.find(owner);
  if (line != lines_.end() && line->second.size() >= budget_.queue_tasks_per_owner_max)
    return base::fail(base::Code::resourceExhausted,
                      "this client has " + std::to_string(line->second.size()) +
                          " tasks waiting, as many as one may have",
                      "Wait for some of them to end.", base::kRetryMs);
  return base::Unit{};
}

base::Status Admission::enqueue(base::TaskId task, OwnerId owner, base::LaneId lane,
                                Demand demand) {
  MAYFLY_CHECK(accepts(owner, demand));
  auto& line = lines_[owner];
  if (line.empty()) ring_.push_back(owner);
  line.push_back(Waiting{task, lane, demand});
  owner_of_[task] = owner;
  ++queued_;
  return base::Unit{};
}

std::optional<base::TaskId> Admission::next(const std::function<bool(base::LaneId)>& ready) {
  for (auto at = ring_.begin(); at != ring_.end(); ++at) {
    auto& line = lines_[*at];
    auto w =
        std::find_if(line.begin(), line.end(), [&](const Waiting& x) { return ready(x.lane); });
    if (w == line.end()) continue;
    if (!fits(w->demand)) return std::nullopt;
    Waiting chosen = *w;
    line.erase(w);
    OwnerId owner = *at;
    ring_.erase(at);
    if (line.empty())
      lines_.erase(owner);
    else
      ring_.push_back(owner);
    owner_of_.erase(chosen.task);
    --queued_;
    held_[chosen.task] = chosen.demand;
    used_.memory_bytes += chosen.demand.memory_bytes;
    used_.fds += chosen.demand.fds;
    used_.pids += chosen.demand.pids;
    used_.ptys += chosen.demand.ptys;
    return chosen.task;
  }
  return std::nullopt;
}

void Admission::withdraw(base::TaskId task) {
  auto who = owner_of_.find(task);
  if (who == owner_of_.end()) return;
  OwnerId owner = who->second;
  auto& line = lines_[owner];
  line.erase(
      std::find_if(line.begin(), line.end(), [&](const Waiting& w) { return w.task == task; }));
  if (line.empty()) {
    lines_.erase(owner);
    ring_.remove(owner);
  }
  owner_of_.erase(who);
  --queued_;
}

void Admission::release(base::TaskId task) {
  auto h = held_.find(task);
  if (h == held_.end()) return;
  used_.memory_bytes -= h->second.memory_bytes;
  used_.fds -= h->second.fds;
  used_.pids -= h->second.pids;
  used_.ptys -= h->second.ptys;
  held_.erase(h);
}

void Admission::putBack(base::TaskId task, OwnerId owner, base::LaneId lane) {
  auto h = held_.find(task);
  if (h == held_.end()) return;
  Demand demand = h->second;
  release(task);
  auto& line = lines_[owner];
  if (!line.empty()) ring_.remove(owner);
  ring_.push_front(owner);
  line.push_front(Waiting{task, lane, demand});
  owner_of_[task] = owner;
  ++queued_;
}

std::vector<base::TaskId> Admission::queuedFor(base::LaneId lane) const {
  std::vector<base::TaskId> tasks;
  for (const auto& [owner, line] : lines_)
    for (const Waiting& w : line)
      if (w.lane == lane) tasks.push_back(w.task);
  return tasks;
}

}  // namespace mayfly::sched
