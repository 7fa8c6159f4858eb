// The daemon's RPC edge: serves include/mayfly/mayfly.capnp on a unix socket.
//
// The server runs on the core thread. Its KJ event loop is a guest of the core's loop
// (edge::AsioPort), so server and core call each other directly. Each turn of KJ's
// work is bounded, so a flood of RPC messages does not hold up the core.
//
// Layer: rpc. Core thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/observer.h"
#include "base/result.h"
#include "sched/core.h"

namespace boost::asio {
class io_context;
}

namespace mayfly::edge {
class AsioPort;
}

namespace mayfly::rpc {

class KeptKeys;

// Bounds on what one connection may hold, and for how long. The core's book of accounts bounds each
// user and all users together; the bounds here protect a user's connections from each other.
struct Options {
  std::string instance = "default";
  std::string version;
  std::vector<uid_t> uids_allowed;               // besides root and the daemon's own
  std::vector<gid_t> gids_allowed;               // whose members may connect, too
  uint32_t tasks_per_connection_max = 1'024;     // Task objects that are not closed yet
  uint32_t calls_per_connection_max = 8'192;     // calls that have not returned
  uint32_t uploads_per_connection_max = 16;      // not finished
  uint64_t blob_ttl_ms = 600'000;                // since a blob's last use
  uint32_t upload_idle_ms = 60'000;              // since the last write
  uint32_t handles_per_connection_max = 65'536;  // Task and Upload objects not released
  uint32_t detach_lease_ms_max = 24 * 3'600'000;
  uint32_t result_lease_ms = 600'000;                    // of an ended task that is not closed
  uint32_t connection_idle_ms = 600'000;                 // without activity and tasks
  uint32_t answers_per_connection_max = 262'144;         // that the client has not finished
  uint64_t unsent_bytes_per_connection_max = 16u << 20;  // answers that the client has not read
  // Of requests in progress. Beyond this bound nothing more is read from the connection.
  uint64_t in_flight_bytes_per_connection_max = 16u << 20;
  // The connection's own bytes, of requests and of unread answers each: it may hold them however
  // much the others hold.
  uint64_t own_bytes = 256u << 10;
  uint32_t message_ms_max = 30'000;  // from a message's first byte to its last
  std::shared_ptr<KeptKeys> keys;    // of detached tasks; null: they end with the daemon
};

class Server {
 public:
  // `listener`: a bound and listening unix stream socket. Call on the thread that runs `io`. Core,
  // `io` and the observer outlive the server.
  static base::Result<std::unique_ptr<Server>> start(sched::Core& core, boost::asio::io_context& io,
                                                     base::Fd listener, Options options,
                                                     base::Observer& observer);
  // KJ's loop, for other RPC of this thread; it ends with the server.
  edge::AsioPort& port();
  // At the end, when the core has told every result: calls `done` once each client has its results
  // and, if it asks for them at once, their files; at the latest after `ms_max`, so a client that
  // does not read holds nothing up. `done` must not destroy the server.
  void deliver(uint64_t ms_max, std::function<void()> done);
  // Sends the finished answers as far as the clients' sockets take them at once, then ends every
  // connection. Nothing calls the core afterwards.
  ~Server();

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace mayfly::rpc
