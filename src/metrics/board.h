// Where the core puts its snapshots, and where readers ask for them.
//
// A reader never waits for the core, and the core never for a reader. The core makes a snapshot
// only when somebody has asked since the last one, and at most every `kPeriod`.
//
// Layer: metrics. ask() belongs to one thread, the reader's; publish() and due() to the core's.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "metrics/snapshot.h"

namespace mayfly::metrics {

class Board {
 public:
  static constexpr uint64_t kPeriod_ns = 250'000'000;
  using Post = std::function<void(std::function<void()>)>;
  using Done = std::function<void(SnapshotPtr)>;
  static constexpr size_t kAskers_max = 4'096;

  // --- any thread ---
  SnapshotPtr latest() const;  // null before the first one; as old as its last asker

  // --- the reader's thread ---
  // Calls `done` with a snapshot that is at most `age_ns_max` old: at once, or when the core has
  // made one, by `to_reader`. Not at all if the core never answers; the asker keeps its own time.
  void ask(uint64_t now_ns, uint64_t age_ns_max, Done done);
  void setReader(Post to_reader);

  // --- the core's thread ---
  bool asked() const { return asked_.load(std::memory_order_acquire); }
  void publish(SnapshotPtr snapshot);

 private:
  mutable std::mutex mutex_;  // of latest_ and to_reader_; held for a copy of a pointer
  SnapshotPtr latest_;
  Post to_reader_;
  std::atomic<bool> asked_{false};
  std::vector<Done> askers_;  // the reader's
};

}  // namespace mayfly::metrics
