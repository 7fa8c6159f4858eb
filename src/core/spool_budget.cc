#include "core/spool_budget.h"

#include <sys/stat.h>

#include <utility>

namespace mayfly::core {

void SpoolBudget::giveBack() {
  std::vector<uint64_t> ended;
  {
    std::lock_guard lock(ended_->mutex);
    ended.swap(ended_->holds);
  }
  for (uint64_t hold : ended) holds_.erase(hold);
}

base::Status SpoolBudget::accepts(const sched::AccountRef& account) {
  giveBack();
  return accounts_.accepts(account, sched::Resource::outFileBytes);
}

std::shared_ptr<base::Fd> SpoolBudget::hold(std::shared_ptr<base::Fd> spool,
                                            const sched::AccountRef& account) {
  giveBack();
  struct stat st {};
  if (::fstat(spool->get(), &st) != 0) return spool;
  const uint64_t hold = next_hold_++;
  holds_.emplace(hold, accounts_.charge(account, sched::Resource::outFileBytes,
                                        static_cast<uint64_t>(st.st_blocks) * 512));
  base::Fd* fd = spool.get();
  return {fd, [ended = ended_, spool = std::move(spool), hold](base::Fd*) mutable {
            spool.reset();
            std::lock_guard lock(ended->mutex);
            ended->holds.push_back(hold);
          }};
}

uint64_t SpoolBudget::heldBytes() {
  giveBack();
  return accounts_.usedByAll(sched::Resource::outFileBytes);
}

}  // namespace mayfly::core
