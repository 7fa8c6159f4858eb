// How the journal of writes knows a request again, and what follows when it does.
//
// Layer: broker. Pure.
#pragma once

#include <sodium.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "broker/refusal.h"

namespace mayfly::broker {

inline constexpr size_t kStepBytesMax = 200;
using JournalKey = std::array<uint8_t, 32>;

// The header by which a task names a step, so that two equal requests can be two writes.
inline constexpr const char* kStepHeader = "idempotency-key";

// The task, its step and all of the request: the key of one write. The epoch is no part of it: the
// same task finds its writes of an earlier vault.
class JournalHash {
 public:
  // `target`: of HTTP, the URL; of SQL, the bound parameters, each behind its length.
  JournalHash(uint64_t task, std::string_view step, std::string_view action,
              std::string_view method, std::string_view target);
  void body(std::string_view part);  // in order; the borders between parts do not matter
  JournalKey finish();               // once

 private:
  crypto_generichash_state state_;
};

enum class WriteState : uint8_t {
  begun,  // recorded; no outcome
  done,   // with its outcome
};

struct WriteRecord {
  uint32_t epoch = 0;  // of the session that began it
  WriteState state = WriteState::begun;
};

enum class WriteVerdict : uint8_t {
  run,      // record it as begun, then do it
  recorded  // answer with the recorded outcome
};

// `newest_epoch`: the newest that this task has had. `in_flight`: this vault is doing it now.
Decision<WriteVerdict> decideWrite(std::string_view rule, const std::optional<WriteRecord>& record,
                                   uint32_t epoch, uint32_t newest_epoch, bool in_flight);

}  // namespace mayfly::broker
