// Whom a task belongs to: the connection that submitted it or, where it is
// detached, a user (detached.h).
//
// Layer: rpc. Core thread.
#pragma once

#include <kj/async.h>
#include <kj/function.h>
#include <kj/refcount.h>
#include <sys/types.h>

#include <cstdint>
#include <deque>

#include "sched/core.h"

namespace mayfly::rpc {

struct Hub;
class TaskState;

// Lives until the last of its tasks' objects is gone; the hub lives longer.
struct Owner : kj::Refcounted {
  Owner(Hub& h, sched::OwnerId i) : hub(h), id(i) {}
  // Nobody is there who could say `close`: what ends now ends as `clientGone`.
  virtual bool gone() const { return false; }
  // The task is closed or forgotten.
  virtual void onClosed(TaskState&) {}

  Hub& hub;
  sched::OwnerId id;
  uint32_t tasks = 0;  // not closed
};

// What a connection's objects share.
struct ConnectionState final : Owner {
  ConnectionState(Hub& h, sched::OwnerId i, uid_t peer_uid) : Owner(h, i), uid(peer_uid) {}
  bool gone() const override;

  uid_t uid;
  int socket = -1;       // of the connection, while it stands
  bool ended = false;    // the connection is gone; the core is told
  uint32_t calls = 0;    // that have not returned
  uint32_t uploads = 0;  // not finished
  uint32_t handles = 0;  // Task and Upload objects not released

  // Large answers are made one at a time, each when what was sent before is mostly read: else calls
  // of a few bytes could make the daemon hold megabytes for each. `room` says when that is.
  class Turn {
   public:
    explicit Turn(ConnectionState& state);
    ~Turn() noexcept(false);  // the next one's
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
