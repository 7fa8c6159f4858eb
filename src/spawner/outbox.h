// The spawner's events on their way to mayflyd. Sending never blocks: events that the socket does
// not take wait, in order and bounded.
//
// Layer: spawner. One thread.
#pragma once

#include <deque>
#include <span>
#include <vector>

#include "base/fd.h"
#include "spawner/poller.h"
#include "wire/spawner.h"

namespace mayfly::spawner {

class Outbox {
 public:
  Outbox(base::FdView daemon, Poller& poller) : daemon_(daemon), poller_(poller) {}

  void send(const wire::Event& event, std::span<const int> fds = {});
  void flush();  // the socket can take more
  // mayflyd is gone, or has stopped reading: nothing more is sent.
  bool broken() const { return broken_; }
  void close() { broken_ = true; }

 private:
  static constexpr size_t kEventsMax = 65'536;
  struct Outgoing {
    wire::Event event;
    std::vector<base::Fd> fds;
  };

  base::FdView daemon_;
  Poller& poller_;
  std::deque<Outgoing> waiting_;
  bool broken_ = false;
};

}  // namespace mayfly::spawner
