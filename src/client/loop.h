// The client's event loop: Asio with KJ as its guest, like the daemon's. A thread of its
// own serves it, or the thread that made it, whenever that thread waits.
//
// KJ's objects belong to the serving thread. Other threads post jobs, which run in the
// order of posting. post() never waits.
//
// Layer: client. post(), onThread() and await() may be called by any thread.
#pragma once

#include <kj/function.h>
#include <kj/memory.h>
#include <mayfly/client.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <thread>

#include "base/result.h"

namespace boost::asio {
class io_context;
}
namespace mayfly::edge {
class AsioPort;
}

namespace mayfly::client {

class Loop {
 public:
  using Job = kj::Function<void()>;
  // Runs `setup` on the serving thread, and `teardown` there when the loop is stopped. An exception
  // of `setup` is returned as an error.
  static base::Result<std::unique_ptr<Loop>> start(ServedBy who,
                                                   std::function<void(edge::AsioPort&)> setup,
                                                   std::function<void()> teardown);
  Loop(const Loop&) = delete;
  ~Loop();  // stop()

  // Returns false if the loop has stopped; the job is then destroyed here.
  bool post(Job job);
  // Returns when all jobs have run and the thread has ended. Do not call it within a job. With
  // ServedBy::caller, call it on the serving thread only.
  void stop();
  // Whether the caller is within a job or a callback, where a wait would never end.
  bool onThread() const;

  // Waits for the future, and serves the loop meanwhile if this is the serving thread. Returns
  // false if the future is not ready in time.
  template <class Future>
  bool await(const Future& future, DeadlineMs deadline_ms) {
    using namespace std::chrono;
    auto is_ready = [&] { return future.wait_for(seconds(0)) == std::future_status::ready; };
    if (servedHere()) return serveUntil(is_ready, deadline_ms);
    if (deadline_ms)
      return future.wait_for(milliseconds(*deadline_ms)) == std::future_status::ready;
    future.wait();
    return true;
  }

 private:
  Loop(ServedBy who, std::function<void()> teardown);
  base::Status begin(const std::function<void(edge::AsioPort&)>& setup);
  void end();
  bool servedHere() const;
  bool serveUntil(const std::function<bool()>& is, DeadlineMs deadline_ms);

  struct Host;  // the io_context, and what keeps it running
  const ServedBy who_;
  std::function<void()> teardown_;
  std::unique_ptr<Host> host_;
  kj::Own<edge::AsioPort> port_;  // for the serving thread only
  std::atomic<bool> stopped_ = false;
  bool ended_ = false;    // end() has run
  bool serving_ = false;  // the caller's thread serves at the moment
  std::thread::id maker_ = std::this_thread::get_id();
  std::thread thread_;
};

}  // namespace mayfly::client
