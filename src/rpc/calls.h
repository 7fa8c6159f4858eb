// What every call of the schema does alike: it is counted, refused, answered or made in its turn.
//
// Layer: rpc. Core thread.
#pragma once

#include <capnp/common.h>
#include <fmt/format.h>

#include <optional>
#include <utility>

#include "base/result.h"
#include "edge/convert.h"
#include "rpc/hub.h"

// Lets a call's work be dropped when its caller goes: Cap'n Proto 0.9 wants it said in the method,
// 1.x in the schema (src/edge/CMakeLists.txt).
#if CAPNP_VERSION >= 1000000
#define MAYFLY_ALLOW_CANCELLATION(context) static_cast<void>(context)
#else
#define MAYFLY_ALLOW_CANCELLATION(context) (context).allowCancellation()
#endif

namespace mayfly::rpc {

using base::kRetryMs;

// What a connection always has, whatever the others hold.
inline constexpr uint32_t kOwnCallsMax = 64;
inline constexpr uint32_t kOwnHandlesMax = 64;
inline constexpr uint32_t kOwnTasksMax = 4;

// A call that has not returned.
class Call {
 public:
  explicit Call(ConnectionState& state) : state_(kj::addRef(state)) {
    ++state_->calls;
    ++state_->hub.calls;
  }
  Call(Call&&) = default;
  ~Call() {
    if (state_.get() == nullptr) return;
    --state_->calls;
    --state_->hub.calls;
  }

 private:
  kj::Own<ConnectionState> state_;
};

// An object that a client was given and has not released.
class Handle {
 public:
  explicit Handle(ConnectionState& state) : state_(kj::addRef(state)) {
    ++state_->handles;
    ++state_->hub.handles;
  }
  KJ_DISALLOW_COPY(Handle);
  ~Handle() {
    --state_->handles;
    --state_->hub.handles;
  }

 private:
  kj::Own<ConnectionState> state_;
};

// Results of so many bytes of text and data and a few fields. Without the size Cap'n Proto takes
// 8 KiB for each answer, also for those that wait unread.
template <class Context>
auto resultsOf(Context& context, size_t bytes, unsigned caps = 0) {
  return context.getResults(capnp::MessageSize{bytes / sizeof(capnp::word) + 16, caps});
}

template <class Context>
kj::Promise<void> refuse(Context& context, const base::Error& error) {
  edge::put(resultsOf(context, error.message.size() + error.advice.size()).initError(), error);
  return kj::READY_NOW;
}

template <class Context>
void answer(Context& context, const base::Status& status) {
  if (!status) refuse(context, status.error());
}

// Runs `answer()` as the connection's one large answer of the moment; it gives a promise.
template <class MakeAnswer>
kj::Promise<void> inTurn(ConnectionState& state, MakeAnswer make_answer) {
  return state.turn().then(
      [make_answer = kj::mv(make_answer)](kj::Own<ConnectionState::Turn> turn) mutable {
        return make_answer().attach(kj::mv(turn));
      });
}

// Why no further call of this connection is begun.
inline std::optional<base::Error> overloaded(const ConnectionState& state) {
  const Options& options = state.hub.options;
  if (state.calls >= options.calls_per_connection_max)
    return base::Error{base::Code::resourceExhausted,
                       fmt::format("{} calls of this connection have not returned", state.calls),
                       "Wait for earlier calls.", 0};
  if (state.calls >= kOwnCallsMax && state.hub.calls >= options.calls_max)
    return base::Error{
        base::Code::resourceExhausted,
        fmt::format("{} calls of all connections have not returned", state.hub.calls),
        "Try again later.", 0, kRetryMs};
  return std::nullopt;
}

// Why it gets no further object.
inline std::optional<base::Error> tooManyHandles(const ConnectionState& state) {
  const Options& options = state.hub.options;
  if (state.handles >= options.handles_per_connection_max)
    return base::Error{
        base::Code::resourceExhausted,
        fmt::format("this connection was given {} tasks and uploads that it has not released",
                    state.handles),
        "Release them, or connect anew.", 0};
  if (state.handles >= kOwnHandlesMax && state.hub.handles >= options.handles_max)
    return base::Error{
        base::Code::resourceExhausted,
        fmt::format("{} tasks and uploads of all connections are not released", state.hub.handles),
        "Release them, or try later.", 0, kRetryMs};
  return std::nullopt;
}

}  // namespace mayfly::rpc
