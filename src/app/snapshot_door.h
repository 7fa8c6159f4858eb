// The socket at which root gives the daemon new snapshots of the templates that it serves: making
// one needs root, which the daemon has dropped.
//
// Only root passes: the socket is root's, mode 0600, and the kernel names each peer. An offer is
// one message of fixed size with the snapshot's folder, which nobody but root can have opened;
// nothing of it is parsed. One offer per connection, few connections at a time.
//
// Layer: app. Core thread, but for listenForSnapshots(), which needs root.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "app/message_channel.h"
#include "base/fd.h"
#include "base/result.h"
#include "wire/offer.h"

namespace mayfly::app {

// At the daemon's start, as root. The caller holds the instance's lock: a socket that is there is a
// dead daemon's.
base::Result<base::Fd> listenForSnapshots(const std::string& path);

class SnapshotDoor {
 public:
  // Called with a sound offer; calls the function once, now or later.
  using Answer = std::function<void(base::Status)>;
  using Take = std::function<void(const wire::Offer&, base::Fd folder, Answer)>;
  static constexpr size_t kConnectionsMax = 8;

  SnapshotDoor(boost::asio::io_context& io, base::Fd listener, Take take);
  ~SnapshotDoor();

 private:
  class Connection;
  void listen();
  void listenLater();
  bool acceptOne();

  boost::asio::io_context& io_;
  boost::asio::posix::stream_descriptor listener_;
  boost::asio::steady_timer pause_;
  Take take_;
  std::vector<std::shared_ptr<Connection>> connections_;
  std::shared_ptr<char> alive_ = std::make_shared<char>();
};

}  // namespace mayfly::app
