// What every call of the schema does alike: it is counted, refused, answered, made in its turn, or
// asked of the core.
//
// Layer: rpc. RPC thread.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <utility>

#include "base/result.h"
#include "edge/convert.h"
#include "rpc/blobs.h"
#include "rpc/core_link.h"
#include "rpc/server.h"
#include "rpc/task.h"

namespace mayfly::rpc {

// What all connections share. Lives longer than each.
struct Hub {
  Hub(Options o, CoreLinkPtr l) : options(std::move(o)), link(std::move(l)) {}
  Options options;
  CoreLinkPtr link;
  TaskTable tasks;
  std::optional<Blobs> blobs;  // while the loop is
};

// A call that has not returned.
class Call {
 public:
  explicit Call(ConnectionState& state) : state_(kj::addRef(state)) { ++state_->calls; }
  Call(Call&&) = default;
  ~Call() {
    if (state_.get() != nullptr) --state_->calls;
  }

 private:
  kj::Own<ConnectionState> state_;
};

template <class Context>
kj::Promise<void> refuse(Context& context, const base::Error& error) {
  edge::put(context.getResults().initError(), error);
  return kj::READY_NOW;
}

template <class Context>
void answer(Context& context, const base::Status& status) {
  if (!status) edge::put(context.getResults().initError(), status.error());
}

// Runs `answer()` as the connection's one large answer of the moment; it gives a promise.
template <class MakeAnswer>
kj::Promise<void> inTurn(ConnectionState& state, MakeAnswer make_answer) {
  return state.turn().then([make_answer = kj::mv(make_answer)](
                               kj::Own<ConnectionState::Turn> turn) mutable {
    return make_answer().attach(kj::mv(turn));
  });
}

// Asks the core; the answer comes back by the mailbox. The fulfiller is one for any thread, for
// the core's thread destroys it where the server has stopped.
template <class T, class JobOnCore>
kj::Promise<T> ask(const CoreLinkPtr& link, JobOnCore job) {
  auto paf = kj::newPromiseAndCrossThreadFulfiller<T>();
  toCore(link, [loop = link->loop, fulfiller = kj::mv(paf.fulfiller),
                job = std::move(job)](sched::Core& core) mutable {
    loop->post([fulfiller = kj::mv(fulfiller), value = job(core)]() mutable {
      fulfiller->fulfill(kj::mv(value));
    });
  });
  return kj::mv(paf.promise);
}

inline std::optional<base::Error> overloaded(const ConnectionState& state, const Options& options) {
  if (state.calls < options.calls_per_connection_max) return std::nullopt;
  return base::Error{base::Code::resourceExhausted,
               fmt::format("{} calls of this connection have not returned", state.calls),
               "Wait for earlier calls.", 0};
}

}  // namespace mayfly::rpc
