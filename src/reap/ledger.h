// The ledger of boxes: which exist, which are proven gone, and which are in
// quarantine because a proof is missing.
//
// A slot is free only when the receipt is complete. A box whose receipt is not
// complete within its bound stays here until a later word of the spawner's
// completes it; too many of those and the owner, then the host, is refused.
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
#include "sched/core.h"
#include "wire/spawner.h"

namespace mayfly::reap {

struct QuarantineBounds {
  uint32_t boxes_max = 32;
  uint32_t boxes_per_owner_max = 8;
};

struct Closed {
  base::TaskId task = 0;
  base::Receipt receipt;
  enum class Slot : uint8_t { free, kept } slot = Slot::kept;
  // A receipt that came while the result was still waiting for it, or afterwards.
  enum class When : uint8_t { inTime, late } when = When::inTime;
};

// What an audit finds: a stray box, which the host shows and the ledger does not
// know (any more), or a lost one, which is in quarantine and gone from the host.
struct Finding {
  base::BoxId box = 0;
  enum class Kind : uint8_t { stray, lost } kind = Kind::stray;
};

class Ledger {
 public:
  explicit Ledger(const QuarantineBounds& bounds) : bounds_(bounds) {}

  void opened(base::BoxId box, uint64_t now_ns);
  void claimed(base::BoxId box, base::TaskId task, sched::OwnerId owner);
  // The box never came to be: the spawner has undone it.
  Closed neverMade(base::BoxId box, uint64_t now_ns);
  void reaped(const wire::Event& box_reaped);
  // boxGone. `our_fds_closed_ns`: when the daemon closed its own ends. Nothing for a
  // box that the ledger does not know.
  std::optional<Closed> gone(const wire::Event& box_gone, uint64_t our_fds_closed_ns);
  // No receipt within the bound, or no spawner any more: into quarantine.
  Closed overdue(base::BoxId box, std::string why);

  base::Status accepts(sched::OwnerId owner) const;
  size_t alive() const { return boxes_.size(); }  // quarantined ones included
  size_t quarantined() const { return quarantined_; }
  std::vector<Finding> audit(const std::vector<base::BoxId>& seen_on_host) const;

 private:
  struct Entry {
    base::TaskId task = 0;
    sched::OwnerId owner = 0;
    uint64_t opened_ns = 0, reaped_ns = 0;
    bool quarantined = false;
  };
  void quarantine(Entry& entry);
  void erase(base::BoxId box);

  QuarantineBounds bounds_;
  std::unordered_map<base::BoxId, Entry> boxes_;
  std::unordered_map<sched::OwnerId, uint32_t> quarantined_of_;
  size_t quarantined_ = 0;
};

}  // namespace mayfly::reap
