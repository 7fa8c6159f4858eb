// Layer: broker. See journal_key.h.
#include "broker/journal_key.h"

#include <fmt/format.h>

namespace mayfly::broker {
namespace {

void hashNumber(crypto_generichash_state& state, uint64_t number) {
  std::array<unsigned char, 8> bytes{};
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(number >> 8 * i);
  crypto_generichash_update(&state, bytes.data(), bytes.size());
}

// Behind its length, so that no two lists of texts are alike.
void hashText(crypto_generichash_state& state, std::string_view text) {
  hashNumber(state, text.size());
  crypto_generichash_update(&state, reinterpret_cast<const unsigned char*>(text.data()),
                            text.size());
}

}  // namespace

JournalHash::JournalHash(uint64_t task, std::string_view step, std::string_view action,
                         std::string_view method, std::string_view target) {
  crypto_generichash_init(&state_, nullptr, 0, JournalKey().size());
  hashNumber(state_, task);
  for (std::string_view text : {step, action, method, target}) hashText(state_, text);
}

void JournalHash::body(std::string_view part) {
  crypto_generichash_update(&state_, reinterpret_cast<const unsigned char*>(part.data()),
                            part.size());
}

JournalKey JournalHash::finish() {
  JournalKey out{};
  crypto_generichash_final(&state_, out.data(), out.size());
  return out;
}

Decision<WriteVerdict> decideWrite(std::string_view rule, const std::optional<WriteRecord>& record,
                                   uint32_t epoch, uint32_t newest_epoch, bool in_flight) {
  const std::string at = fmt::format("{}.write", rule);
  if (epoch < newest_epoch || (record && record->epoch > epoch))
    return refuse({base::Code::failedPrecondition,
                   409,
                   at,
                   "the task has a newer session with the broker",
                   {},
                   0});
  if (!record) return WriteVerdict::run;
  if (record->state == WriteState::done) return WriteVerdict::recorded;
  if (in_flight)
    return refuse({base::Code::unavailable, 409, at, "the same write is being done",
                   "Ask again a little later: the answer is then the recorded one.",
                   base::kRetryMs});
  return refuse({base::Code::failedPrecondition, 409, at,
                 "the same write was begun, and its outcome is unknown: the broker or its "
                 "connection ended in the middle. The broker does not do it again",
                 "Look at the upstream whether it was done.", 0});
}

}  // namespace mayfly::broker
