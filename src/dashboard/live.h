// A snapshot as the JSON message that the built-in page and `mayfly top` read. docs/dashboard.md
// has the format.
//
// A message says all that is now, and the past as rows, one for each tick. Each message is whole,
// so a reader that misses some loses nothing but rows. Rows are made once and kept as text.
//
// Layer: dashboard (uses base and metrics). No clock: the snapshot has its times. HTTP thread.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <string>

#include "metrics/snapshot.h"

namespace mayfly::dashboard {

inline constexpr int kFormat = 1;           // of the message; one more for each change of it
inline constexpr size_t kRowsOfUpdate = 5;  // in all messages but a client's first one
inline constexpr size_t kMessageBytes = 512u << 10;  // older rows beyond this size are left out
inline constexpr uint64_t kLastMinute_ms = 60'000;
inline constexpr size_t kMethods = 8;  // of RPC, the most called ones

class Live {
 public:
  // With the latest `rows_max` rows, or fewer: see kMessageBytes.
  std::string message(const metrics::Snapshot& snapshot, size_t rows_max);

 private:
  struct Row {
    std::shared_ptr<const metrics::Tick> tick;
    std::string text;
  };
  void takeRows(const metrics::Snapshot& snapshot);

  std::deque<Row> rows_;  // of the last snapshot's ticks, in their order
};

}  // namespace mayfly::dashboard
