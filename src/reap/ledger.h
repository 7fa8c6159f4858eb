// The ledger of boxes: which exist, which are proven gone, and which are in quarantine because a
// proof is missing.
//
// A slot is free only when the receipt is complete. If a box's receipt is not complete in time, the
// box stays here until a later message of the spawner completes it. It counts for its template and
// for the account of its task: a template with too many of them gets no more boxes, and the book
// refuses an account with too many. Everybody is refused if all together have too many; a template
// counts there up to its own bound, so it takes several templates to make the host unfit.
//
// Layer: reap. Pure: time is an argument. Core thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "sched/accounts.h"
#include "wire/spawner.h"

namespace mayfly::reap {

struct Closed {
  base::TaskId task = 0;
  base::Receipt receipt;
  enum class Slot : uint8_t { free, kept } slot = Slot::kept;
  // Whether the receipt came while the result still waited for it, or later.
  enum class When : uint8_t { inTime, late } when = When::inTime;
};

class Ledger {
 public:
  explicit Ledger(sched::Accounts& accounts) : accounts_(accounts) {}

  void opened(base::BoxId box, base::TemplateId tmpl, uint64_t now_ns);
  void claimed(base::BoxId box, base::TaskId task, sched::AccountRef account);
  // The box was never made: the spawner has undone it.
  Closed neverMade(base::BoxId box, uint64_t now_ns);
  void reaped(const wire::Event& box_reaped);
  // boxGone. `our_fds_closed_ns`: when the daemon closed its own descriptors. Nothing if the ledger
  // does not know the box.
  std::optional<Closed> gone(const wire::Event& box_gone, uint64_t our_fds_closed_ns);
  // No receipt in time, or the spawner is gone: into quarantine.
  Closed overdue(base::BoxId box, std::string why);

  base::Status accepts(const sched::AccountRef& account) const;
  // Whether more boxes of the template may be made.
  bool serves(base::TemplateId tmpl) const { return quarantinedOf(tmpl) < templateMax(); }
  uint32_t quarantinedOf(base::TemplateId tmpl) const;
  size_t alive() const { return boxes_.size(); }  // quarantined ones included
  size_t quarantined() const { return quarantined_; }
  bool knows(base::BoxId box) const { return boxes_.contains(box); }
  std::vector<base::BoxId> quarantinedBoxes() const;

 private:
  struct Entry {
    base::TaskId task = 0;
    sched::AccountRef account;  // empty: a box without a task, the daemon's own
    base::TemplateId tmpl = 0;
    uint64_t opened_ns = 0, reaped_ns = 0;
    bool quarantined = false;
    sched::Share charged;  // empty: in quarantine beyond its template's bound, or not at all
  };
  using Boxes = std::unordered_map<base::BoxId, Entry>;
  uint64_t templateMax() const;
  void quarantine(Entry& entry);
  void charge(Entry& entry);
  void erase(Boxes::iterator at);

  sched::Accounts& accounts_;
  Boxes boxes_;
  std::unordered_map<base::TemplateId, uint32_t> quarantined_of_;
  size_t quarantined_ = 0;
};

}  // namespace mayfly::reap
