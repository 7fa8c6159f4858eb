#include "reap/ledger.h"

#include <algorithm>
#include <utility>

#include "base/text.h"

namespace mayfly::reap {

void Ledger::opened(base::BoxId box, base::TemplateId tmpl, uint64_t now_ns) {
  Entry& entry = boxes_[box] = Entry();
  entry.tmpl = tmpl;
  entry.opened_ns = now_ns;
}

void Ledger::claimed(base::BoxId box, base::TaskId task, sched::AccountRef account) {
  auto at = boxes_.find(box);
  if (at == boxes_.end()) return;
  at->second.task = task;
  at->second.account = std::move(account);
}

// Between the bounds of a user and of the host: no user alone has a template refused to others, and
// no template alone the host.
uint64_t Ledger::templateMax() const {
  const auto& b = accounts_.bounds().of(sched::Resource::quarantinedBoxes);
  return std::max<uint64_t>(1, b.user_max / 2 + b.pool_max / 2);
}

uint32_t Ledger::quarantinedOf(base::TemplateId tmpl) const {
  auto at = quarantined_of_.find(tmpl);
  return at != quarantined_of_.end() ? at->second : 0;
}

void Ledger::charge(Entry& entry) {
  entry.charged = accounts_.charge(entry.account, sched::Resource::quarantinedBoxes);
}

void Ledger::quarantine(Entry& entry) {
  if (std::exchange(entry.quarantined, true)) return;
  ++quarantined_;
  if (++quarantined_of_[entry.tmpl] <= templateMax()) charge(entry);
}

void Ledger::erase(Boxes::iterator at) {
  const Entry gone = std::move(at->second);
  boxes_.erase(at);
  if (!gone.quarantined) return;
  --quarantined_;
  if (--quarantined_of_.at(gone.tmpl) == 0) quarantined_of_.erase(gone.tmpl);
  if (!gone.charged) return;
  // Its place in the template's bound is for one that was beyond.
  auto next = std::find_if(boxes_.begin(), boxes_.end(), [&](const auto& each) {
    return each.second.tmpl == gone.tmpl && each.second.quarantined && !each.second.charged;
  });
  if (next != boxes_.end()) charge(next->second);
}

Closed Ledger::neverMade(base::BoxId box, uint64_t now_ns) {
  Closed c;
  if (auto at = boxes_.find(box); at != boxes_.end()) {
    c.task = at->second.task;
    erase(at);
  }
  c.slot = Closed::Slot::free;
  c.receipt.box = box;
  c.receipt.complete = true;
  c.receipt.reaped_ns = c.receipt.unpopulated_ns = c.receipt.fds_closed_ns =
      c.receipt.cgroups_gone_ns = c.receipt.uid_free_ns = now_ns;
  return c;
}

void Ledger::reaped(const wire::Event& e) {
  if (auto at = boxes_.find(e.box); at != boxes_.end()) at->second.reaped_ns = e.at_ns;
}

std::optional<Closed> Ledger::gone(const wire::Event& e, uint64_t our_fds_closed_ns) {
  auto at = boxes_.find(e.box);
  if (at == boxes_.end()) return std::nullopt;
  Closed c;
  c.task = at->second.task;
  c.when = at->second.quarantined ? Closed::When::late : Closed::When::inTime;
  base::Receipt& r = c.receipt;
  r.box = e.box;
  r.reaped_ns = e.reaped_ns;
  r.unpopulated_ns = e.unpopulated_ns;
  r.cgroups_gone_ns = e.cgroups_gone_ns;
  r.fds_closed_ns = e.fds_closed_ns != 0 && our_fds_closed_ns != 0
                        ? std::max(e.fds_closed_ns, our_fds_closed_ns)
                        : 0;

  auto lacks = [&r](uint64_t at_ns, std::string_view what) {
    if (at_ns != 0) return;
    if (!r.missing.empty()) r.missing += ", ";
    r.missing += what;
  };
  lacks(r.reaped_ns, "a process is not reaped");
  lacks(r.unpopulated_ns, "the kernel does not say `populated 0`");
  lacks(r.fds_closed_ns, "the daemon has a descriptor of it open");
  lacks(r.cgroups_gone_ns, "a cgroup is left");
  if (e.complete == 0 && r.missing.empty()) r.missing = "the spawner reports it incomplete";
  if (!r.missing.empty() && e.text[0] != '\0') r.missing += ": " + base::printable(e.text);
  r.complete = r.missing.empty();
  if (r.complete) {
    r.uid_free_ns = e.at_ns;
    c.slot = Closed::Slot::free;
    erase(at);
  } else {
    quarantine(at->second);
  }
  return c;
}

Closed Ledger::overdue(base::BoxId box, std::string why) {
  Closed c;
  c.receipt.box = box;
  c.receipt.missing = std::move(why);
  auto at = boxes_.find(box);
  if (at == boxes_.end()) return c;
  c.task = at->second.task;
  c.receipt.reaped_ns = at->second.reaped_ns;
  quarantine(at->second);
  return c;
}

base::Status Ledger::accepts(const sched::AccountRef& account) const {
  return accounts_.accepts(account, sched::Resource::quarantinedBoxes);
}

std::vector<base::BoxId> Ledger::quarantinedBoxes() const {
  std::vector<base::BoxId> boxes;
  for (const auto& [box, entry] : boxes_)
    if (entry.quarantined) boxes.push_back(box);
  return boxes;
}

}  // namespace mayfly::reap
