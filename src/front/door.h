// A door: the two listening sockets of one box, and its connections.
//
// A door accepts while it has fewer connections than its bound and the front has room; the others
// wait in the kernel's queue, which belongs to the box. Each door has a few connections for itself,
// whatever the other doors hold.
//
// Layer: front. The loop's thread.
#pragma once

#include <kj/async.h>

#include <array>
#include <list>
#include <memory>

#include <boost/asio/posix/stream_descriptor.hpp>

#include "front/connection.h"

namespace mayfly::front {

// The connections of all doors. Counts each door with its guaranteed number at least.
class Capacity {
 public:
  Capacity(uint32_t connections_max, uint32_t guaranteed)
      : left_(connections_max), guaranteed_(guaranteed) {}
  bool openDoor();
  void closeDoor() { left_ += guaranteed_; }
  // `count`: of the door, before. False: there is no room.
  bool add(uint32_t count);
  void remove(uint32_t count);

 private:
  uint32_t left_, guaranteed_;
};

class Door final : public kj::TaskSet::ErrorHandler {
 public:
  struct Shared {
    edge::AsioPort& port;
    VaultLink& vault;
    const Options& options;
    Gate& gate;
    Capacity& capacity;
  };
  // The capacity has counted the door. `connections_max`: its own bound.
  Door(Shared shared, uint64_t session, uint32_t connections_max, base::Fd local, base::Fd tcp);
  // Closes both sockets and resets all connections; afterwards no descriptor of the door is open.
  ~Door() noexcept(false);
  KJ_DISALLOW_COPY(Door);

  void sweep(kj::TimePoint now);
  uint64_t accepted() const { return accepted_; }
  uint64_t refused() const { return context_.refused; }

 private:
  using Descriptor = boost::asio::posix::stream_descriptor;
  struct Listener {
    Descriptor socket;
    Transport transport;
    bool waiting = false;  // the host will report a connection
    bool broken = false;
  };
  struct Held;
  void taskFailed(kj::Exception&&) override {}
  void awaitConnections();
  void acceptSome(Listener& listener);
  void serve(base::Fd socket, Transport transport);

  Shared shared_;
  DoorContext context_;
  uint32_t connections_max_;
  std::array<Listener, 2> listeners_;
  std::shared_ptr<Door*> self_;  // for the host's handlers; null once the door is destroyed
  uint64_t accepted_ = 0;
  uint32_t count_ = 0;
  std::list<Connection*> connections_;
  kj::Own<kj::TaskSet> tasks_;
};

}  // namespace mayfly::front
