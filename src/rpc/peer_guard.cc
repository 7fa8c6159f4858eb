#include "rpc/peer_guard.h"

#include <kj/debug.h>

namespace mayfly::rpc {

namespace wire = capnp::rpc;

namespace {

constexpr unsigned kFinishWords = 16;

}  // namespace

void PeerGuard::inspect(capnp::MessageReader& reader) {
  auto message = reader.getRoot<wire::Message>();
  switch (message.which()) {
    case wire::Message::BOOTSTRAP:
      return begin(message.getBootstrap().getQuestionId());
    case wire::Message::CALL:
      checkCall(message.getCall());
      return begin(message.getCall().getQuestionId());
    case wire::Message::RETURN:
      return checkReturn(message.getReturn());
    case wire::Message::FINISH:
      return finish(message.getFinish().getQuestionId());
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

void PeerGuard::begin(uint32_t question) {
  KJ_REQUIRE(answers_.size() < bounds_.per_connection_max &&
                 (answers_.size() < kOwnAnswersMax || bounds_.all < bounds_.all_max),
             "message refused: too many calls were answered and not finished", answers_.size());
  // Cap'n Proto 1.x finds it too, and gives up the first call's answer on the way.
  KJ_REQUIRE(answers_.insert(question).second, "message refused: its question is asked already",
             question);
  ++bounds_.all;
}

void PeerGuard::finish(uint32_t question) {
  bool known = answers_.erase(question) == 1;
  // 1.x ignores it: it may have crossed an answer that needed none.
  KJ_REQUIRE(known || kAnswersMayNeedNoFinish,
             "message refused: it finishes a call that was not made");
  if (known) --bounds_.all;
}

void PeerGuard::sent(capnp::MessageReader& reader) {
#if CAPNP_VERSION >= 1000000
  auto message = reader.getRoot<wire::Message>();
  if (message.isReturn() && message.getReturn().getNoFinishNeeded() &&
      answers_.erase(message.getReturn().getAnswerId()) == 1)
    --bounds_.all;
#else
  static_cast<void>(reader);
#endif
}

kj::Maybe<kj::Own<capnp::MessageReader>> PeerGuard::farewell() {
  if (answers_.empty()) return nullptr;
  uint32_t question = *answers_.begin();
  finish(question);
  auto words = kj::heap<capnp::MallocMessageBuilder>(kFinishWords);
  words->initRoot<wire::Message>().initFinish().setQuestionId(question);
  auto reader = kj::heap<capnp::SegmentArrayMessageReader>(words->getSegmentsForOutput());
  return kj::Own<capnp::MessageReader>(reader.attach(kj::mv(words)));
}

}  // namespace mayfly::rpc
