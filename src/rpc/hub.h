// What all connections share. Lives longer than KJ's loop.
//
// Layer: rpc. Core thread.
#pragma once

#include <kj/timer.h>

#include "edge/byte_budget.h"
#include "edge/message_stream.h"
#include "rpc/blobs.h"
#include "rpc/detached.h"
#include "rpc/leases.h"
#include "rpc/peer_guard.h"
#include "rpc/server.h"
#include "rpc/task.h"

namespace mayfly::edge {
class AsioPort;
}

namespace mayfly::rpc {

struct Hub {
  Hub(Options o, sched::Core& c, edge::AsioPort& p);
  KJ_DISALLOW_COPY(Hub);
  // Before the loop ends. What of Cap'n Proto ends with the loop still finds the hub.
  void stop();

  const Options options;
  sched::Core& core;
  edge::AsioPort& port;
  kj::Timer& timer;
  sched::OwnerId next_owner = 1;
  uint32_t calls = 0;    // that have not returned, of all connections
  uint32_t handles = 0;  // objects that are not released, of all connections
  AnswerBounds answers;
  edge::Backlog answers_unread;
  edge::ByteBudget requests;
  TasksHeld tasks;
  Leases leases;  // of ended tasks
  Users users;
  Blobs blobs;
};

}  // namespace mayfly::rpc
