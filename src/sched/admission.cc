#include "sched/admission.h"

#include <algorithm>
#include <string>

namespace mayfly::sched {

Demand& Demand::operator+=(const Demand& d) {
  memory_bytes += d.memory_bytes;
  fds += d.fds;
  pids += d.pids;
  ptys += d.ptys;
  cpu_milli += d.cpu_milli;
  return *this;
}

Demand& Demand::operator-=(const Demand& d) {
  memory_bytes -= d.memory_bytes;
  fds -= d.fds;
  pids -= d.pids;
  ptys -= d.ptys;
  cpu_milli -= d.cpu_milli;
  return *this;
}

bool Admission::fits(const Sum& taken, const Demand& d) const {
  return taken.boxes < budget_.boxes_max &&
         taken.demand.memory_bytes + d.memory_bytes <= budget_.memory_bytes_max &&
         taken.demand.fds + d.fds <= budget_.fds_max &&
         taken.demand.pids + d.pids <= budget_.pids_max &&
         taken.demand.ptys + d.ptys <= budget_.ptys_max;
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

std::optional<base::TaskId> Admission::next(uint64_t now_ns,
                                            const std::function<bool(base::LaneId)>& ready) {
  const Sum taken{held_.size(), used_};
  if (taken.boxes >= budget_.boxes_max) return std::nullopt;
  Reservation reservation;
  if (reserved_ != 0) {
    const Place place = whose_.at(reserved_);
    const auto w = waiting(place, reserved_);
    if (!ready(w->lane) || !accounts_.fits(w->queued.whose(), Resource::runningTasks))
      reserved_ = 0;
    else if (fits(taken, w->demand))
      return start(place, w, now_ns);
    else
      reservation = reserve(w->demand, now_ns);
  }
  auto mayPass = [&](const Demand& d) {
    return reserved_ == 0 || d.time_ns < reservation.at_ns - now_ns || fits(reservation.taken, d);
  };
  for (auto& [user_id, user] : users_) {
    for (auto& [account_id, tenant] : user) {
      for (auto& [owner, line] : tenant) {
        if (!accounts_.fits(line.front().queued.whose(), Resource::runningTasks))
          break;  // another tenant's turn
        for (auto w = line.begin(); w != line.end(); ++w) {
          if (!ready(w->lane)) continue;
          if (!fits(taken, w->demand)) {
            if (reserved_ != 0) continue;
            reserved_ = w->task;
            reservation = reserve(w->demand, now_ns);
          } else if (mayPass(w->demand)) {
            return start({user_id, account_id, owner}, w, now_ns);
          }
        }
      }
    }
  }
  return std::nullopt;
}

// Running tasks free their shares in the order of their latest ends.
Admission::Reservation Admission::reserve(const Demand& demand, uint64_t now_ns) const {
  std::vector<const Running*> ends;
  ends.reserve(held_.size());
  for (const auto& [task, running] : held_) ends.push_back(&running);
  std::sort(ends.begin(), ends.end(),
            [](const Running* a, const Running* b) { return a->until_ns < b->until_ns; });
  Reservation r{now_ns, {held_.size(), used_}};
  for (const Running* running : ends) {
    if (fits(r.taken, demand)) break;
    r.at_ns = std::max(now_ns, running->until_ns);
    --r.taken.boxes;
    r.taken.demand -= running->demand;
  }
  ++r.taken.boxes;
  r.taken.demand += demand;
  return r;
}

Admission::Line::iterator Admission::waiting(const Place& place, base::TaskId task) {
  Line& line =
      users_.find(place.user)->second.find(place.account)->second.find(place.owner)->second;
  return std::find_if(line.begin(), line.end(), [&](const Waiting& w) { return w.task == task; });
}

base::TaskId Admission::start(const Place& place, Line::iterator w, uint64_t now_ns) {
  const base::TaskId task = w->task;
  const Demand& d = w->demand;
  used_ += d;
  const uint64_t until_ns = now_ns + std::min(d.time_ns, UINT64_MAX - now_ns);
  held_.emplace(task, Running{d, place.owner, until_ns,
                              accounts_.charge(w->queued.whose(), Resource::runningTasks)});
  auto user = users_.find(place.user);
  auto tenant = user->second.find(place.account);
  tenant->second.toBack(tenant->second.find(place.owner));
  user->second.toBack(tenant);
  users_.toBack(user);
  withdraw(task);
  return task;
}

// Takes the task out of its queue; entries that become empty lose their turn.
void Admission::withdraw(base::TaskId task) {
  auto at = whose_.find(task);
  if (at == whose_.end()) return;
  const Place place = at->second;
  whose_.erase(at);
  if (task == reserved_) reserved_ = 0;
  auto user = users_.find(place.user);
  auto tenant = user->second.find(place.account);
  auto owner = tenant->second.find(place.owner);
  Line& line = owner->second;
  line.erase(waiting(place, task));
  if (!line.empty()) return;
  tenant->second.erase(owner);
  if (!tenant->second.empty()) return;
  user->second.erase(tenant);
  if (user->second.empty()) users_.erase(user);
}

void Admission::release(base::TaskId task) {
  auto h = held_.find(task);
  if (h == held_.end()) return;
  used_ -= h->second.demand;
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
