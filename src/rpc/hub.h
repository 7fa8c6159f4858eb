// The state that all connections share. Outlives KJ's loop.
//
// Layer: rpc. Core thread.
#pragma once

#include <kj/timer.h>

#include "edge/byte_budget.h"
#include "edge/message_stream.h"
#include "rpc/blobs.h"
#include "rpc/detached.h"
#include "rpc/leases.h"
#include "rpc/server.h"
#include "rpc/task.h"

namespace mayfly::edge {
class AsioPort;
}

namespace mayfly::rpc {

struct Hub {
  Hub(Options o, sched::Core& c, edge::AsioPort& p, base::Observer& told);
  KJ_DISALLOW_COPY(Hub);
  // Call before the loop ends. The objects of Cap'n Proto that end with the loop still use the hub.
  void stop();

  const Options options;
  sched::Core& core;
  sched::Accounts& accounts;  // the core's book
  base::Observer& observer;
  edge::AsioPort& port;
  kj::Timer& timer;
  sched::OwnerId next_owner = 1;
  edge::ByteBudget requests;
  Leases leases;  // of ended tasks
  Users users;
  Blobs blobs;
};

}  // namespace mayfly::rpc
