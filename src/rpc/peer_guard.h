// Inspects every message of a client before Cap'n Proto does. Refuses messages that
// Mayfly's protocol does not use, and messages that would make Cap'n Proto's tables
// grow without bound.
//
// The client controls how the tables of answers and imports grow: an answer stays
// until its `finish`, and an import costs far more than its few bytes on the wire.
//
// Layer: rpc. Core thread.
#pragma once

#include <capnp/message.h>
#include <capnp/rpc.capnp.h>

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/observer.h"
#include "sched/accounts.h"

namespace mayfly::rpc {

inline constexpr uint32_t kCapsPerMessageMax = 16;  // `submit` carries one
inline constexpr uint32_t kPipelineOpsMax = 16;     // a call on the `task` that submit returns: one
inline constexpr bool kAnswersMayNeedNoFinish = CAPNP_VERSION >= 1000000;

class PeerGuard {
 public:
  // `unfinished`: the account's share of answers. The observer outlives the guard.
  PeerGuard(uint32_t answers_max, sched::Share unfinished, base::Observer& observer)
      : answers_max_(answers_max), unfinished_(std::move(unfinished)), observer_(observer) {}
  PeerGuard(const PeerGuard&) = delete;

  // Throws to refuse the message; the connection then ends.
  void inspect(capnp::MessageReader& message, size_t bytes);
  void sent(capnp::MessageReader& message, size_t bytes);
  // Makes the `finish` of one call that the departed client did not finish; null: none is left.
  kj::Maybe<kj::Own<capnp::MessageReader>> farewell();

 private:
  void checkCall(capnp::rpc::Call::Reader call);
  void checkTarget(capnp::rpc::MessageTarget::Reader target);
  void checkPayload(capnp::rpc::Payload::Reader payload);
  void checkReturn(capnp::rpc::Return::Reader answer);
  struct Method {
    std::string name;   // for example "Mayfly.submit"; "other" for an unknown interface or method
    int error_at = -1;  // the pointer of its results that may hold an `Error`; -1: none does
  };
  struct Answer {
    const Method* method =
        nullptr;  // null: not to be reported to the observer, or reported already
    uint64_t begun_ns = 0;
  };
  static const Method& methodOf(capnp::rpc::Call::Reader call);
  void look(capnp::MessageReader& message);
  void begin(uint32_t question, const Method* method);
  void tell(const Method& method, capnp::rpc::Return::Reader answer);
  void finish(uint32_t question);
  void returned(capnp::rpc::Return::Reader answer);

  uint32_t answers_max_;
  sched::Share unfinished_;
  base::Observer& observer_;
  std::unordered_map<uint32_t, Answer> answers_;  // by question id
};

}  // namespace mayfly::rpc
