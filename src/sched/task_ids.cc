#include "sched/task_ids.h"

#include <sodium.h>
#include <string.h>

namespace mayfly::sched {

namespace {

constexpr uint32_t kRounds = 10;  // even: the halves end where they began
constexpr uint32_t kLowBits = 26;
constexpr uint64_t kLowMask = (uint64_t{1} << kLowBits) - 1;
constexpr uint64_t kHighMask = (uint64_t{1} << (kTaskIdBits - kLowBits)) - 1;

}  // namespace

uint64_t IdCipher::round(uint32_t number, uint64_t half) const {
  static_assert(2 * crypto_shorthash_KEYBYTES == std::tuple_size_v<IdKey>);
  const std::array<uint64_t, 2> input{number, half};
  uint64_t sum = 0;
  static_assert(sizeof sum == crypto_shorthash_BYTES);
  crypto_shorthash(reinterpret_cast<unsigned char*>(&sum),
                   reinterpret_cast<const unsigned char*>(input.data()), sizeof input,
                   key_.data() + number % 2 * crypto_shorthash_KEYBYTES);
  return sum;
}

uint64_t IdCipher::encode(uint64_t counter) const {
  uint64_t high = counter >> kLowBits & kHighMask, low = counter & kLowMask;
  for (uint32_t i = 0; i < kRounds; i += 2) {
    high ^= round(i, low) & kHighMask;
    low ^= round(i + 1, high) & kLowMask;
  }
  return high << kLowBits | low;
}

uint64_t IdCipher::decode(uint64_t id) const {
  uint64_t high = id >> kLowBits & kHighMask, low = id & kLowMask;
  for (uint32_t i = kRounds; i > 0; i -= 2) {
    low ^= round(i - 1, high) & kLowMask;
    high ^= round(i - 2, low) & kHighMask;
  }
  return high << kLowBits | low;
}

base::Status TaskIds::reserve() {
  MAYFLY_TRY(const uint64_t block, reserve_block_());
  if (block >> (kTaskIdBits - block_bits_) != 0)
    return base::fail(base::Code::internal, "no task id is left that was not given before");
  if (!first_block_) first_block_ = block;
  next_ = block << block_bits_;
  end_ = next_ + (uint64_t{1} << block_bits_);
  return base::Unit{};
}

base::Result<base::TaskId> TaskIds::take() {
  for (;;) {
    if (next_ == end_) MAYFLY_CHECK(reserve());
    // One counter becomes 0, which means "no task".
    if (const base::TaskId id = cipher_.encode(next_++); id != 0) return id;
  }
}

bool TaskIds::isOfEarlierRun(base::TaskId id) const {
  if (id == 0 || id >> kTaskIdBits != 0 || !first_block_) return false;
  return cipher_.decode(id) >> block_bits_ < *first_block_;
}

}  // namespace mayfly::sched
