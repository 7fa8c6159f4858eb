// The ids of tasks: they never repeat, and nobody can guess one.
//
// Each id is a counter under a keyed permutation of the 53-bit numbers, which are the integers that
// JSON and JavaScript hold exactly. The counter comes in blocks; a block is reserved for good
// before its first id is given, so a restarted daemon begins with a block that nobody had. The
// permutation runs backwards too: it tells an id of an earlier run from a number that was never an
// id.
//
// Layer: sched. Pure: the key and the blocks are arguments.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "base/result.h"
#include "base/task.h"

namespace mayfly::sched {

inline constexpr uint32_t kTaskIdBits = 53;
inline constexpr uint32_t kIdBlockBits =
    24;  // 16.7 million ids; a start of the daemon takes a block

using IdKey = std::array<uint8_t, 32>;

// The permutation: a Feistel network of ten rounds over halves of 27 and 26 bits. The round
// function is SipHash-2-4, under the key's halves in turn.
class IdCipher {
 public:
  explicit IdCipher(const IdKey& key) : key_(key) {}
  uint64_t encode(uint64_t counter) const;  // both below 2^kTaskIdBits
  uint64_t decode(uint64_t id) const;

 private:
  uint64_t round(uint32_t number, uint64_t half) const;
  IdKey key_;
};

class TaskIds {
 public:
  // The number of a block that nobody has had, below kIdBlocksMax; or why there is none.
  using ReserveBlock = std::function<base::Result<uint64_t>()>;
  // `since`: when this run of the daemon began, for people. `block_bits`: of all runs.
  TaskIds(const IdKey& key, ReserveBlock reserve, std::string since,
          uint32_t block_bits = kIdBlockBits)
      : cipher_(key),
        block_bits_(block_bits),
        reserve_block_(std::move(reserve)),
        since_(std::move(since)) {}

  // Begins a new block. Called at the start, so that a daemon that cannot is refused there.
  base::Status reserve();
  // A new id; 0 never is one. Reserves a block when the last one is used up.
  base::Result<base::TaskId> take();
  // Whether the id was given by an earlier run of this daemon.
  bool isOfEarlierRun(base::TaskId id) const;
  const std::string& since() const { return since_; }

 private:
  IdCipher cipher_;
  uint32_t block_bits_;
  ReserveBlock reserve_block_;
  std::string since_;
  std::optional<uint64_t> first_block_;  // of this run
  uint64_t next_ = 0, end_ = 0;
};

}  // namespace mayfly::sched
