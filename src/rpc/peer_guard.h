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
#include <unordered_set>

namespace mayfly::rpc {

inline constexpr uint32_t kCapsPerMessageMax = 16;  // submit brings one
inline constexpr uint32_t kPipelineOpsMax = 16;     // `task` of submit's results is one
inline constexpr bool kAnswersMayNeedNoFinish = CAPNP_VERSION >= 1000000;
// A client that has no more unfinished answers is not ended for what others have.
inline constexpr uint32_t kOwnAnswersMax = 4'096;

// Answers that the clients have not finished.
struct AnswerBounds {
  uint32_t per_connection_max;
  uint32_t all_max;
  uint32_t all = 0;
};

class PeerGuard {
 public:
  explicit PeerGuard(AnswerBounds& answers) : bounds_(answers) {}
  ~PeerGuard() { bounds_.all -= static_cast<uint32_t>(answers_.size()); }
  PeerGuard(const PeerGuard&) = delete;

  // Throws where the message is refused; the connection ends then.
  void inspect(capnp::MessageReader& message);
  // Cap'n Proto 1.x forgets an answer without capabilities as it sends it.
  void sent(capnp::MessageReader& message);
  // Finishes the next call that the client, which has gone, has not; null: there is none.
  kj::Maybe<kj::Own<capnp::MessageReader>> farewell();

 private:
  void checkCall(capnp::rpc::Call::Reader call);
  void checkTarget(capnp::rpc::MessageTarget::Reader target);
  void checkPayload(capnp::rpc::Payload::Reader payload);
  void checkReturn(capnp::rpc::Return::Reader answer);
  void begin(uint32_t question);
  void finish(uint32_t question);

  AnswerBounds& bounds_;
  std::unordered_set<uint32_t> answers_;  // by their questions' ids
};

}  // namespace mayfly::rpc
