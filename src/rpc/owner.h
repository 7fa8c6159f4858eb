// The owner of a task: the connection that submitted it or, if it is detached, a
// user (detached.h).
//
// Layer: rpc. Core thread.
#pragma once

#include <kj/async.h>
#include <kj/function.h>
#include <kj/refcount.h>

#include <cstdint>
#include <deque>
#include <utility>

#include "sched/core.h"

namespace mayfly::rpc {

struct Hub;
class TaskState;

// Lives until the last object of its tasks is gone. The hub outlives it.
struct Owner : kj::Refcounted {
  Owner(Hub& h, sched::OwnerId i, sched::AccountRef whose)
      : hub(h), id(i), account(std::move(whose)) {}
  // Whether the client is gone. Its tasks then end as `clientGone`, not as `cancelled`.
  virtual bool gone() const { return false; }
  // Called when the task is closed or forgotten.
  virtual void onClosed(TaskState&) {}

  Hub& hub;
  sched::OwnerId id;
  sched::AccountRef account;  // empty if the connection is refused
  uint32_t tasks = 0;         // not closed
  uint32_t undelivered = 0;   // of them: ended, and their last output is on its way to the client
};

// The state that the objects of one connection share.
struct ConnectionState final : Owner {
  using Owner::Owner;
  bool gone() const override;

  int socket = -1;       // borrowed from the connection until `ended`
  bool ended = false;    // the connection is gone
  uint32_t calls = 0;    // not returned
  uint32_t uploads = 0;  // not finished
  uint32_t handles = 0;  // Task and Upload objects not released

  // The permission to make a large answer. A connection makes one at a time, and only after the
  // client has read most of the earlier answers (`room`): otherwise each call of a few bytes could
  // make the daemon hold megabytes.
  class Turn {
   public:
    explicit Turn(ConnectionState& state);
    ~Turn() noexcept(false);  // passes the turn on
    KJ_DISALLOW_COPY(Turn);

   private:
    kj::Own<ConnectionState> state_;
  };
  kj::Promise<kj::Own<Turn>> turn();
  kj::Maybe<kj::Function<kj::Promise<void>()>> room;  // null once the connection is gone

 private:
  bool turn_taken_ = false;
  std::deque<kj::Own<kj::PromiseFulfiller<kj::Own<Turn>>>> turns_waited_for_;  // <= `calls`
};

}  // namespace mayfly::rpc
