// Looks at every message of a client before Cap'n Proto does: refuses what Mayfly's
// protocol has no use for and what Cap'n Proto would keep without bound.
//
// The tables of answers and imports grow at the client's word: an answer stays
// until its `finish`, an import costs far more than its few bytes on the wire.
//
// Layer: rpc. Core thread.
#pragma once

#include <capnp/message.h>
#include <capnp/rpc.capnp.h>

#include <cstdint>
#include <unordered_map>
#include <utility>

#include "base/observer.h"
#include "sched/accounts.h"

namespace mayfly::rpc {

inline constexpr uint32_t kCapsPerMessageMax = 16;  // submit brings one
inline constexpr uint32_t kPipelineOpsMax = 16;     // `task` of submit's results is one
inline constexpr bool kAnswersMayNeedNoFinish = CAPNP_VERSION >= 1000000;

class PeerGuard {
 public:
  // `unfinished`: the account's share of answers. The observer outlives the guard.
  PeerGuard(uint32_t answers_max, sched::Share unfinished, base::Observer& observer)
      : answers_max_(answers_max), unfinished_(std::move(unfinished)), observer_(observer) {}
  PeerGuard(const PeerGuard&) = delete;

  // Throws where the message is refused; the connection ends then.
  void inspect(capnp::MessageReader& message, size_t bytes);
  void sent(capnp::MessageReader& message, size_t bytes);
  // Finishes the next call that the client, which has gone, has not; null: there is none.
  kj::Maybe<kj::Own<capnp::MessageReader>> farewell();

 private:
  void checkCall(capnp::rpc::Call::Reader call);
  void checkTarget(capnp::rpc::MessageTarget::Reader target);
  void checkPayload(capnp::rpc::Payload::Reader payload);
  void checkReturn(capnp::rpc::Return::Reader answer);
  struct Answer {
    const char* method = nullptr;  // that the observer has not heard of yet
    uint64_t begun_ns = 0;
  };
  void begin(uint32_t question, const char* method);
  void finish(uint32_t question);
  void returned(capnp::rpc::Return::Reader answer);

  uint32_t answers_max_;
  sched::Share unfinished_;
  base::Observer& observer_;
  std::unordered_map<uint32_t, Answer> answers_;  // by their questions' ids
};

}  // namespace mayfly::rpc
