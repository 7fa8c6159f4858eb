// A client without rules: it speaks Cap'n Proto's RPC by hand over a blocking socket, and sends
// whatever its test wants.
//
// For tests/e2e/test_bad_input.py. One thread per Raw.
#pragma once

#include <capnp/any.h>
#include <capnp/message.h>
#include <capnp/rpc.capnp.h>
#include <capnp/serialize.h>
#include <mayfly/mayfly.capnp.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"

namespace mayfly::hostile {

namespace wire = capnp::rpc;
using Question = uint32_t;

inline constexpr int kAnswerMs = 60'000;

// A call's outcome: "ok" or the error's code as a word, "exception" or "ended"; and its text.
struct Answer {
  std::string code, text;
  uint32_t retry_after_ms = 0;
  bool retryable = false;
};

std::string bytesOf(capnp::MessageBuilder& message);

class Raw {
 public:
  // Connects; blocks while the daemon's queue is full. Not connected: alive() is false.
  explicit Raw(const std::string& socket);
  Raw(Raw&&) = default;
  bool alive() const { return alive_; }
  int fd() const { return fd_.get(); }
  void hangUp() { fd_.reset(); }

  // Sends all bytes, as the daemon takes them; false: the connection has ended.
  bool send(std::string_view bytes);
  // Sends as much as the daemon takes within `ms`; returns the number of bytes.
  size_t sendSome(std::string_view bytes, int ms);

  Question bootstrap();
  // A call on pointer field 0 of `on`'s answer; for the bootstrap, on the answer itself.
  // `fill(params)` fills the parameters.
  template <class Params, class Fill>
  std::string callBytes(Question question, Question on, uint64_t interface_id, uint16_t method,
                        Fill fill) {
    capnp::MallocMessageBuilder message;
    auto call = message.initRoot<wire::Message>().initCall();
    call.setQuestionId(question);
    auto target = call.initTarget().initPromisedAnswer();
    target.setQuestionId(on);
    if (on != 0) target.initTransform(1)[0].setGetPointerField(0);
    call.setInterfaceId(interface_id);
    call.setMethodId(method);
    call.initSendResultsTo().setCaller();
    auto payload = call.initParams();
    fill(payload.getContent().initAs<Params>());
    return bytesOf(message);
  }
  template <class Interface, class Params, class Fill>
  Question call(Question on, uint16_t method, Fill fill) {
    Question question = next_++;
    send(callBytes<Params>(question, on, capnp::typeId<Interface>(), method, fill));
    return question;
  }
  Question next() { return next_++; }

  // Submits with an output sink of this client's.
  template <class Fill>
  Question submitLive(Fill fill) {
    Question question = next_++;
    send(submitLiveBytes(question, fill,
                         [&](wire::CapDescriptor::Builder cap) { cap.setSenderHosted(question); }));
    return question;
  }
  // `fill_cap` writes the capability of the output sink.
  template <class Fill, class FillCap>
  static std::string submitLiveBytes(Question question, Fill fill, FillCap fill_cap);
  template <class Fill>
  Question submit(Fill fill) {
    return call<schema::Mayfly, schema::Mayfly::SubmitParams>(
        0, 2, [&](schema::Mayfly::SubmitParams::Builder params) { fill(params.initSpec()); });
  }
  Question close(Question task) {
    return call<schema::Task, schema::Task::CloseParams>(task, 5, [](auto) {});
  }
  Question wait(Question task) {
    return call<schema::Task, schema::Task::WaitParams>(task, 0, [](auto) {});
  }
  bool finish(Question question);

  // Reads until the question is answered. `error_at` is the pointer field of the answer's error.
  Answer answer(Question question, unsigned error_at, int ms = kAnswerMs);
  // The answer's message, already read by answer(); its content is the results.
  capnp::AnyPointer::Reader results(Question question);
  // Reads messages for at most `ms`; false: the connection has ended.
  bool read(int ms);
  // Whether the daemon ends the connection within `ms`; lastWords() is its last message.
  bool ends(int ms);
  const std::string& lastWords() const { return last_words_; }
  size_t answered() const { return answers_.size(); }
  void forgetAnswers() { answers_.clear(); }

  bool return_writes = true;  // answer the daemon's calls of OutputSink

 private:
  using Message = std::unique_ptr<capnp::FlatArrayMessageReader>;
  struct Held {
    kj::Array<capnp::word> words;
    Message reader;
  };
  void take(kj::Array<capnp::word> words);
  void returnTo(Question question);

  base::Fd fd_;
  bool alive_ = false;
  Question next_ = 1;
  std::string in_;
  std::map<Question, Held> answers_;
  std::string last_words_;
};

template <class Fill, class FillCap>
std::string Raw::submitLiveBytes(Question question, Fill fill, FillCap fill_cap) {
  capnp::MallocMessageBuilder message;
  auto call = message.initRoot<wire::Message>().initCall();
  call.setQuestionId(question);
  call.initTarget().initPromisedAnswer().setQuestionId(0);
  call.setInterfaceId(capnp::typeId<schema::Mayfly>());
  call.setMethodId(2);
  call.initSendResultsTo().setCaller();
  auto payload = call.initParams();
  fill_cap(payload.initCapTable(1)[0]);
  capnp::BuilderCapabilityTable table;
  auto params = table.imbue(payload.getContent()).initAs<schema::Mayfly::SubmitParams>();
  fill(params.initSpec());
  params.setOutput(schema::OutputSink::Client(KJ_EXCEPTION(FAILED, "stands for the sink")));
  return bytesOf(message);
}

}  // namespace mayfly::hostile
