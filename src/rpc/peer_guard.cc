#include "rpc/peer_guard.h"

#include <kj/debug.h>

namespace mayfly::rpc {

namespace wire = capnp::rpc;

void PeerGuard::inspect(capnp::MessageReader& reader) {
  auto message = reader.getRoot<wire::Message>();
  switch (message.which()) {
    case wire::Message::BOOTSTRAP:
      return begin();
    case wire::Message::CALL:
      checkCall(message.getCall());
      return begin();
    case wire::Message::RETURN:
      return checkReturn(message.getReturn());
    case wire::Message::FINISH:
      return finish();
    case wire::Message::DISEMBARGO:
      return checkTarget(message.getDisembargo().getTarget());
    case wire::Message::RESOLVE:
    case wire::Message::RELEASE:
    case wire::Message::UNIMPLEMENTED:
    case wire::Message::ABORT:
      return;
    default:
      // Cap'n Proto would send the whole message back as `unimplemented`.
      KJ_FAIL_REQUIRE("message refused: of a kind that is not spoken here",
                      static_cast<uint16_t>(message.which()));
  }
}

void PeerGuard::checkCall(wire::Call::Reader call) {
  checkTarget(call.getTarget());
  // Results that are sent elsewhere stay in memory until somebody takes them.
  KJ_REQUIRE(call.getSendResultsTo().isCaller(),
             "message refused: results can be sent to the caller only");
  checkPayload(call.getParams());
}

void PeerGuard::checkTarget(wire::MessageTarget::Reader target) {
  if (!target.isPromisedAnswer()) return;
  auto ops = target.getPromisedAnswer().getTransform().size();
  KJ_REQUIRE(ops <= kPipelineOpsMax, "message refused: its target is too deep", ops);
}

void PeerGuard::checkPayload(wire::Payload::Reader payload) {
  auto caps = payload.getCapTable().size();
  KJ_REQUIRE(caps <= kCapsPerMessageMax, "message refused: it brings too many capabilities", caps,
             kCapsPerMessageMax);
}

void PeerGuard::checkReturn(wire::Return::Reader answer) {
  switch (answer.which()) {
    case wire::Return::RESULTS:
      return checkPayload(answer.getResults());
    case wire::Return::EXCEPTION:
    case wire::Return::CANCELED:
      return;
    default:
      KJ_FAIL_REQUIRE("message refused: an answer of a kind that was not asked for");
  }
}

void PeerGuard::begin() {
  KJ_REQUIRE(answers_ < bounds_.per_connection_max &&
                 (answers_ < kOwnAnswersMax || bounds_.all < bounds_.all_max),
             "message refused: too many calls were answered and not finished", answers_);
  ++answers_;
  ++bounds_.all;
}

void PeerGuard::finish() {
  KJ_REQUIRE(answers_ > 0, "message refused: it finishes a call that was not made");
  --answers_;
  --bounds_.all;
}

}  // namespace mayfly::rpc
