// What all connections share. Made and stopped on the RPC thread; lives longer than the loop.
//
// Layer: rpc. RPC thread.
#pragma once

#include <kj/timer.h>

#include "edge/byte_budget.h"
#include "edge/message_stream.h"
#include "rpc/blobs.h"
#include "rpc/core_link.h"
#include "rpc/detached.h"
#include "rpc/leases.h"
#include "rpc/peer_guard.h"
#include "rpc/server.h"
#include "rpc/task.h"

namespace mayfly::rpc {

struct Hub {
  Hub(Options o, CoreLinkPtr l, kj::Timer& t);
  KJ_DISALLOW_COPY(Hub);
  // Before the loop ends. What of Cap'n Proto ends with the loop still finds the hub.
  void stop();

  const Options options;
  CoreLinkPtr link;
  kj::Timer& timer;
  sched::OwnerId next_owner = 1;
  uint32_t calls = 0;    // that have not returned, of all connections
  uint32_t handles = 0;  // objects that are not released, of all connections
  AnswerBounds answers;
  edge::Backlog answers_unread;
  edge::ByteBudget requests;
  TaskTable tasks;
  Leases leases;  // of ended tasks, by their key
  Users users;
  Blobs blobs;
};

}  // namespace mayfly::rpc
