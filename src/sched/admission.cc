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

Admission::Place Admission::placeOf(const AccountRef& account, OwnerId owner) {
  return {account.user(), account.id(), owner};
}

const Admission::Line* Admission::lineOf(const Place& place) const {
  const User* user = users_.look(place.user);
  const Tenant* tenant = user != nullptr ? user->look(place.account) : nullptr;
  return tenant != nullptr ? tenant->look(place.owner) : nullptr;
}

base::Status Admission::accepts(const AccountRef& account, OwnerId owner,
                                const Demand& demand) const {
  if (!couldEverFit(demand))
    return base::fail(base::Code::invalidArgument,
                      "the task asks for more than the whole budget of the host: " +
                          std::to_string(demand.memory_bytes) + " of " +
                          std::to_string(budget_.memory_bytes_max) + " bytes, " +
                          std::to_string(demand.pids) + " of " + std::to_string(budget_.pids_max) +
                          " processes, " + std::to_string(demand.ptys) + " of " +
                          std::to_string(budget_.ptys_max) + " pseudo-terminals",
                      "Ask for less, or raise the daemon's budget.");
  MAYFLY_CHECK(accounts_.accepts(account, Resource::queuedTasks));
  const Line* line = lineOf(placeOf(account, owner));
  if (line != nullptr && line->size() >= budget_.queue_tasks_per_owner_max)
    return base::fail(base::Code::resourceExhausted,
                      "this connection has " + std::to_string(line->size()) +
                          " waiting tasks, the most that it may have",
                      "Wait for some of them to end.", base::kRetryMs);
  return base::Unit{};
}

base::Status Admission::enqueue(base::TaskId task, const AccountRef& account, OwnerId owner,
                                base::LaneId lane, Demand demand) {
  MAYFLY_CHECK(accepts(account, owner, demand));
  const Place place = placeOf(account, owner);
  Line& line = users_.get(place.user)->second.get(place.account)->second.get(place.owner)->second;
  line.push_back(Waiting{task, lane, demand, accounts_.charge(account, Resource::queuedTasks)});
  whose_[task] = place;
  return base::Unit{};
}

std::optional<base::TaskId> Admission::next(const std::function<bool(base::LaneId)>& ready) {
  for (auto user = users_.begin(); user != users_.end(); ++user) {
    for (auto tenant = user->second.begin(); tenant != user->second.end(); ++tenant) {
      for (auto owner = tenant->second.begin(); owner != tenant->second.end(); ++owner) {
        Line& line = owner->second;
        const AccountRef& account = line.front().queued.whose();
        if (!accounts_.fits(account, Resource::runningTasks)) break;  // another tenant's turn
        auto w =
            std::find_if(line.begin(), line.end(), [&](const Waiting& x) { return ready(x.lane); });
        if (w == line.end()) continue;
        if (!fits(w->demand)) return std::nullopt;
        const base::TaskId task = w->task;
        const Demand& d = w->demand;
        used_.memory_bytes += d.memory_bytes;
        used_.fds += d.fds;
        used_.pids += d.pids;
        used_.ptys += d.ptys;
        held_.emplace(task,
                      Running{d, owner->first, accounts_.charge(account, Resource::runningTasks)});
        tenant->second.toBack(owner);
        user->second.toBack(tenant);
        users_.toBack(user);
        withdraw(task);
        return task;
      }
    }
  }
  return std::nullopt;
}

// Takes the task out of its queue; entries that become empty lose their turn.
void Admission::withdraw(base::TaskId task) {
  auto at = whose_.find(task);
  if (at == whose_.end()) return;
  const Place place = at->second;
  whose_.erase(at);
  auto user = users_.find(place.user);
  auto tenant = user->second.find(place.account);
  auto owner = tenant->second.find(place.owner);
  Line& line = owner->second;
  line.erase(
      std::find_if(line.begin(), line.end(), [&](const Waiting& w) { return w.task == task; }));
  if (!line.empty()) return;
  tenant->second.erase(owner);
  if (!tenant->second.empty()) return;
  user->second.erase(tenant);
  if (user->second.empty()) users_.erase(user);
}

void Admission::release(base::TaskId task) {
  auto h = held_.find(task);
  if (h == held_.end()) return;
  const Demand& d = h->second.demand;
  used_.memory_bytes -= d.memory_bytes;
  used_.fds -= d.fds;
  used_.pids -= d.pids;
  used_.ptys -= d.ptys;
  held_.erase(h);
}

void Admission::putBack(base::TaskId task, base::LaneId lane) {
  auto h = held_.find(task);
  if (h == held_.end()) return;
  const Demand demand = h->second.demand;
  const OwnerId owner = h->second.owner;
  Share queued = accounts_.charge(h->second.running.whose(), Resource::queuedTasks);
  release(task);
  const Place place = placeOf(queued.whose(), owner);
  auto user = users_.get(place.user);
  auto tenant = user->second.get(place.account);
  auto line = tenant->second.get(place.owner);
  users_.toFront(user);
  user->second.toFront(tenant);
  tenant->second.toFront(line);
  line->second.push_front(Waiting{task, lane, demand, std::move(queued)});
  whose_[task] = place;
}

std::vector<base::TaskId> Admission::queuedFor(base::LaneId lane) const {
  std::vector<base::TaskId> tasks;
  for (const auto& [user, tenants] : users_)
    for (const auto& [account, owners] : tenants)
      for (const auto& [owner, line] : owners)
        for (const Waiting& w : line)
          if (w.lane == lane) tasks.push_back(w.task);
  return tasks;
}

}  // namespace mayfly::sched
