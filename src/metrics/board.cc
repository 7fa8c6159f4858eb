#include "metrics/board.h"

#include <utility>

namespace mayfly::metrics {

SnapshotPtr Board::latest() const {
  std::lock_guard lock(mutex_);
  return latest_;
}

void Board::setReader(Post to_reader) {
  std::lock_guard lock(mutex_);
  to_reader_ = std::move(to_reader);
}

void Board::ask(uint64_t now_ns, uint64_t age_ns_max, Done done) {
  SnapshotPtr now = latest();
  if (now && now->made_ns + age_ns_max >= now_ns) return done(std::move(now));
  if (askers_.size() >= kAskers_max) return;
  askers_.push_back(std::move(done));
  asked_.store(true, std::memory_order_release);
}

void Board::publish(SnapshotPtr snapshot) {
  Post to_reader;
  {
    // The reader's thread is of low priority, and may be off its processor with the lock.
    std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return;  // still asked for: at the next look
    asked_.store(false, std::memory_order_release);
    latest_ = snapshot;
    to_reader = to_reader_;
  }
  if (!to_reader) return;
  to_reader([this, snapshot = std::move(snapshot)] {
    for (const Done& done : std::exchange(askers_, {})) done(snapshot);
  });
}

}  // namespace mayfly::metrics
