#include "rpc/peer_guard.h"

#include <capnp/any.h>
#include <capnp/schema.h>
#include <kj/debug.h>
#include <mayfly/mayfly.capnp.h>

#include <map>
#include <string>

#include "base/clock.h"
#include "base/result.h"

namespace mayfly::rpc {

namespace wire = capnp::rpc;

namespace {

constexpr unsigned kFinishWords = 16;

}  // namespace

const PeerGuard::Method& PeerGuard::methodOf(wire::Call::Reader call) {
  using Key = std::pair<uint64_t, uint16_t>;
  static const Method other{"other"};
  static const std::map<Key, Method> methods = [] {
    std::map<Key, Method> all;
    auto add = [&](const char* name, capnp::InterfaceSchema interface) {
      for (auto method : interface.getMethods()) {
        Method& m = all[{interface.getProto().getId(), method.getIndex()}];
        m.name = std::string(name) + "." + method.getProto().getName().cStr();
        KJ_IF_MAYBE (field, method.getResultType().findFieldByName("error"))
          m.error_at = static_cast<int>(field->getProto().getSlot().getOffset());
      }
    };
    add("Mayfly", capnp::Schema::from<schema::Mayfly>());
    add("Task", capnp::Schema::from<schema::Task>());
    add("Upload", capnp::Schema::from<schema::Upload>());
    return all;
  }();
  auto at = methods.find({call.getInterfaceId(), call.getMethodId()});
  return at != methods.end() ? at->second : other;
}

void PeerGuard::inspect(capnp::MessageReader& reader, size_t bytes) {
  observer_.messageReceived(bytes);
  KJ_IF_MAYBE (refusal, kj::runCatchingExceptions([&] { look(reader); })) {
    observer_.messageRefused();
    kj::throwFatalException(kj::mv(*refusal));
  }
}

void PeerGuard::look(capnp::MessageReader& reader) {
  auto message = reader.getRoot<wire::Message>();
  switch (message.which()) {
    case wire::Message::BOOTSTRAP:
      return begin(message.getBootstrap().getQuestionId(), nullptr);
    case wire::Message::CALL:
      checkCall(message.getCall());
      return begin(message.getCall().getQuestionId(), &methodOf(message.getCall()));
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
  // Results sent elsewhere would stay in memory until somebody takes them.
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

void PeerGuard::begin(uint32_t question, const Method* method) {
  KJ_REQUIRE(answers_.size() < answers_max_,
             "message refused: too many calls of this connection were answered and not finished",
             answers_.size());
  // Cap'n Proto 1.x refuses a repeated question, too, but then loses the first call's answer.
  KJ_REQUIRE(!answers_.contains(question), "message refused: its question is asked already",
             question);
  if (auto room = unfinished_.grow(1); !room)
    KJ_FAIL_REQUIRE("message refused", room.error().message.c_str());
  answers_[question] = {method, method != nullptr ? base::monotonicNs() : 0};
}

void PeerGuard::finish(uint32_t question) {
  bool known = answers_.erase(question) == 1;
  if (known) unfinished_.shrink(1);
  // Cap'n Proto 1.x ignores an unknown `finish`: it may have crossed an answer that needed none.
  KJ_REQUIRE(known || kAnswersMayNeedNoFinish,
             "message refused: it finishes a call that was not made");
}

void PeerGuard::sent(capnp::MessageReader& reader, size_t bytes) {
  observer_.messageSent(bytes);
  auto message = reader.getRoot<wire::Message>();
  if (message.isReturn()) returned(message.getReturn());
}

void PeerGuard::returned(wire::Return::Reader answer) {
  auto at = answers_.find(answer.getAnswerId());
  if (at == answers_.end()) return;
  if (const Method* method = std::exchange(at->second.method, nullptr)) {
    observer_.callAnswered(method->name, base::monotonicNs() - at->second.begun_ns);
    tell(*method, answer);
  }
#if CAPNP_VERSION >= 1000000
  // Cap'n Proto 1.x forgets an answer without capabilities when it sends it.
  if (answer.getNoFinishNeeded()) {
    answers_.erase(at);
    unfinished_.shrink(1);
  }
#endif
}

// Whether the answer is a refusal: an `Error` with a code, or an exception.
void PeerGuard::tell(const Method& method, wire::Return::Reader answer) {
  if (answer.isException())
    return observer_.callRefused(method.name, base::name(base::Code::internal));
  if (!answer.isResults() || method.error_at < 0) return;
  const auto content = answer.getResults().getContent();
  if (content.isNull() || !content.isStruct()) return;
  const auto pointers = content.getAs<capnp::AnyStruct>().getPointerSection();
  const auto at = static_cast<unsigned>(method.error_at);
  if (at >= pointers.size() || !pointers[at].isStruct()) return;
  if (const auto code = static_cast<uint16_t>(pointers[at].getAs<schema::Error>().getCode());
      code != 0)
    observer_.callRefused(method.name, base::name(static_cast<base::Code>(code)));
}

kj::Maybe<kj::Own<capnp::MessageReader>> PeerGuard::farewell() {
  if (answers_.empty()) return nullptr;
  uint32_t question = answers_.begin()->first;
  finish(question);
  auto words = kj::heap<capnp::MallocMessageBuilder>(kFinishWords);
  words->initRoot<wire::Message>().initFinish().setQuestionId(question);
  auto reader = kj::heap<capnp::SegmentArrayMessageReader>(words->getSegmentsForOutput());
  return kj::Own<capnp::MessageReader>(reader.attach(kj::mv(words)));
}

}  // namespace mayfly::rpc
