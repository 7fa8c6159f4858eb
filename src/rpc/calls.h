// The parts that all calls of the schema share: counting, refusing, answering, taking turns.
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

// Lets Cap'n Proto cancel a call when its caller is gone. Version 0.9 takes this permission in the
// method, 1.x in the schema (src/edge/CMakeLists.txt).
#if CAPNP_VERSION >= 1000000
#define MAYFLY_ALLOW_CANCELLATION(context) static_cast<void>(context)
#else
#define MAYFLY_ALLOW_CANCELLATION(context) (context).allowCancellation()
#endif

namespace mayfly::rpc {

// Counts a call until it returns.
class Call {
 public:
  explicit Call(ConnectionState& state)
      : state_(kj::addRef(state)),
        share_(state.hub.accounts.charge(state.account, sched::Resource::calls)) {
    ++state_->calls;
  }
  Call(Call&&) = default;
  ~Call() {
    if (state_.get() != nullptr) --state_->calls;
  }

 private:
  kj::Own<ConnectionState> state_;
  sched::Share share_;
};

// Counts an object, a Task or an Upload, until the client releases it.
class Handle {
 public:
  explicit Handle(ConnectionState& state)
      : state_(kj::addRef(state)),
        share_(state.hub.accounts.charge(state.account, sched::Resource::handles)) {
    ++state_->handles;
  }
  KJ_DISALLOW_COPY(Handle);
  ~Handle() { --state_->handles; }

 private:
  kj::Own<ConnectionState> state_;
  sched::Share share_;
};

// Results with room for `bytes` of text and data and a few fields. Without a size Cap'n Proto
// allocates 8 KiB for each answer, and keeps them while the answer waits unread.
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

// Runs `make_answer`, which returns a promise, when the connection's turn comes: one large answer
// is made at a time.
template <class MakeAnswer>
kj::Promise<void> inTurn(ConnectionState& state, MakeAnswer make_answer) {
  return state.turn().then(
      [make_answer = kj::mv(make_answer)](kj::Own<ConnectionState::Turn> turn) mutable {
        return make_answer().attach(kj::mv(turn));
      });
}

// Why the account gets no more of the resource.
inline std::optional<base::Error> refusalOf(const ConnectionState& state,
                                            sched::Resource resource) {
  auto room = state.hub.accounts.accepts(state.account, resource);
  return room ? std::nullopt : std::optional(std::move(room).error());
}

// Why the connection may begin no further call.
inline std::optional<base::Error> overloaded(const ConnectionState& state) {
  if (state.calls >= state.hub.options.calls_per_connection_max)
    return base::Error{base::Code::resourceExhausted,
                       fmt::format("{} calls of this connection have not returned", state.calls),
                       "Wait for earlier calls.", 0};
  return refusalOf(state, sched::Resource::calls);
}

// Why the connection gets no further object.
inline std::optional<base::Error> tooManyHandles(const ConnectionState& state) {
  if (state.handles >= state.hub.options.handles_per_connection_max)
    return base::Error{
        base::Code::resourceExhausted,
        fmt::format("this connection was given {} tasks and uploads that it has not released",
                    state.handles),
        "Release them, or connect anew.", 0};
  return refusalOf(state, sched::Resource::handles);
}

}  // namespace mayfly::rpc
