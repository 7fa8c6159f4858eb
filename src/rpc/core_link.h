// The way from the RPC thread to the core and back.
//
// There: jobs posted to the core's executor, run in order on the core thread.
// Back: jobs posted to the loop's mailbox. Both sides name a task by a key that
// this room gives out; no object of one thread is touched by the other.
//
// Layer: rpc. toCore() and toLoop() may be called by any thread.
#pragma once

#include <memory>
#include <utility>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/post.hpp>

#include "edge/loop.h"
#include "sched/core.h"

namespace mayfly::rpc {

struct CoreLink {
  CoreLink(sched::Core& c, boost::asio::any_io_executor e) : core(&c), executor(std::move(e)) {}
  // Core thread only; null once the server has stopped.
  sched::Core* core;
  boost::asio::any_io_executor executor;
  // Set once before the loop serves; the server joins the loop before it is destroyed.
  edge::Loop* loop = nullptr;
};

using CoreLinkPtr = std::shared_ptr<CoreLink>;

// Runs `job(core)` on the core thread, or drops it when the server has stopped.
template <class JobOnCore>
void toCore(const CoreLinkPtr& link, JobOnCore job) {
  boost::asio::post(link->executor, [link, job = std::move(job)]() mutable {
    if (link->core != nullptr) job(*link->core);
  });
}

}  // namespace mayfly::rpc
