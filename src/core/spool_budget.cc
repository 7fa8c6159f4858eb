#include "core/spool_budget.h"

#include <sys/stat.h>

#include <string>

#include "base/text.h"

namespace mayfly::core {

base::Status SpoolBudget::accepts(sched::OwnerId owner) const {
  std::lock_guard lock(state_->mutex);
  auto at = state_->bytes_of.find(owner);
  uint64_t its = at != state_->bytes_of.end() ? at->second : 0;
  std::string what;
  if (its >= state_->bytes_max / 2)
    what = "this client's tasks that are not closed hold " + base::humanBytes(its) +
           " of output files; one client may hold " + base::humanBytes(state_->bytes_max / 2);
  else if (state_->bytes >= state_->bytes_max)
    what = "tasks that are not closed hold " + base::humanBytes(state_->bytes) +
           " of output files; all may hold " + base::humanBytes(state_->bytes_max);
  else
    return base::Unit{};
  return base::fail(base::Code::resourceExhausted, std::move(what),
                    "Close tasks whose files were read, or try again later.", base::kRetryMs);
}

std::shared_ptr<base::Fd> SpoolBudget::hold(std::shared_ptr<base::Fd> spool, sched::OwnerId owner) {
  struct stat st {};
  if (::fstat(spool->get(), &st) != 0) return spool;
  auto bytes = static_cast<uint64_t>(st.st_blocks) * 512;
  {
    std::lock_guard lock(state_->mutex);
    state_->bytes += bytes;
    state_->bytes_of[owner] += bytes;
  }
  base::Fd* fd = spool.get();
  return {fd, [state = state_, spool = std::move(spool), owner, bytes](base::Fd*) mutable {
            spool.reset();
            std::lock_guard lock(state->mutex);
            state->bytes -= bytes;
            auto at = state->bytes_of.find(owner);
            if ((at->second -= bytes) == 0) state->bytes_of.erase(at);
          }};
}

uint64_t SpoolBudget::heldBytes() const {
  std::lock_guard lock(state_->mutex);
  return state_->bytes;
}

}  // namespace mayfly::core
