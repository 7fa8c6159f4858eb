// The spawner: the only process with host capabilities. It makes and ends boxes on mayflyd's
// request and reports the kernel's events about them.
//
// One thread, one loop, which waits only for its next event. mayflyd decides what to do and when;
// the spawner only does it. The end of mayflyd's connection ends every box and the spawner.
//
// Layer: spawner. Wiring; Zygotes and Boxes do the work.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "spawner/boxes.h"
#include "spawner/cgroup.h"
#include "spawner/outbox.h"
#include "spawner/lock_watch.h"
#include "spawner/poller.h"
#include "spawner/room.h"
#include "spawner/zygotes.h"
#include "wire/spawner.h"

namespace mayfly::spawner {

struct Options {
  std::string instance;
  std::string images_dir;
  uint32_t uid_slot = 0;
};

class Spawner {
 public:
  // Enters the room, finds the cgroups, drops to the least capabilities.
  static base::Result<std::unique_ptr<Spawner>> start(base::Fd daemon, const Options& options);
  // Until mayflyd goes. The exit code: 0, if nothing is left.
  int run();
  // One turn: waits for events, at most so long (-1: for the first one), and handles them. False:
  // the loop can wait for nothing any more.
  bool step(int wait_ms);
  // mayflyd is gone, and so is all that the spawner made, or its time is over.
  bool done() const { return stopping_ && (late_ || (boxes_.empty() && zygotes_.empty())); }

 private:
  Spawner(base::Fd daemon, const Options& options);

  struct Pending {  // read, but not yet done
    wire::Request request;
    base::Received fds;
    const char* unsound;  // the fault of the request, or null
  };
  bool readRequests();
  void pong();
  void doOneRequest();
  void dispatch(Source source, uint64_t id);
  int msUntilNextTimer() const;
  void reapStrays();
  void shutDown();

  const base::Fd daemon_;
  Poller poller_;
  Room room_;
  CgroupTree tree_;
  Outbox out_;
  Zygotes zygotes_;
  Boxes boxes_;
  LockWatch lock_watch_;
  std::deque<Pending> requests_;
  bool stopping_ = false, late_ = false;
  uint64_t stop_deadline_ns_ = 0;
};

}  // namespace mayfly::spawner
