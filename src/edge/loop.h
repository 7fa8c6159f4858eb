// A thread that runs a KJ event loop, and the mailbox through which other
// threads reach it.
//
// KJ's objects never leave their thread. Another thread posts a job; jobs run on
// the loop in the order in which they were posted. A poster never waits.
//
// Layer: edge. post() and onThread() may be called by any thread.
#pragma once

#include <kj/async-io.h>
#include <kj/async.h>
#include <kj/function.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "base/result.h"

// Lets a call's work be dropped when its caller goes: Cap'n Proto 0.9 wants it said in the method,
// 1.x in the schema (src/edge/CMakeLists.txt).
#if CAPNP_VERSION >= 1000000
#define MAYFLY_ALLOW_CANCELLATION(context) static_cast<void>(context)
#else
#define MAYFLY_ALLOW_CANCELLATION(context) (context).allowCancellation()
#endif

namespace mayfly::edge {

class Loop {
 public:
  using Job = kj::Function<void()>;
  // Runs `setup` on the new thread, then serves jobs until stop(); then runs `teardown`, still with
  // the loop alive. What `setup` throws is returned as an error. `name` is the thread's.
  static base::Result<std::unique_ptr<Loop>> start(const char* name,
                                                   std::function<void(kj::AsyncIoContext&)> setup,
                                                   std::function<void()> teardown);
  Loop(const Loop&) = delete;
  ~Loop();  // stop()

  // false: the loop has stopped, the job was dropped (destroyed here).
  bool post(Job job);
  // Returns when the thread has ended. Not to be called on the loop's own thread.
  void stop();
  bool onThread() const { return std::this_thread::get_id() == thread_.get_id(); }

 private:
  Loop() = default;
  void main(const char* name, std::function<void(kj::AsyncIoContext&)> setup,
            std::function<void()> teardown, std::function<void(base::Status)> ready);
  kj::Promise<void> serve();

  std::mutex mutex_;  // guards the next three
  std::vector<Job> jobs_;
  kj::Own<kj::CrossThreadPromiseFulfiller<void>> wake_;  // null: a wake-up is already under way
  bool stopped_ = false;
  std::thread thread_;
};

// Words for what KJ threw: the connection is gone, the daemon is older, or a fault.
base::Error errorOf(const kj::Exception& exception);

}  // namespace mayfly::edge
