// The daemon's RPC edge: serves include/mayfly/mayfly.capnp on a unix socket.
//
// It lives on the core thread, with a KJ event loop that is a guest of the core's
// (edge::AsioPort): the two call each other directly, and a turn of KJ's work is
// bounded, so that what floods the RPC does not hold the core up.
//
// Layer: rpc. Core thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "rpc/blob_store.h"
#include "sched/core.h"

namespace boost::asio {
class io_context;
}

namespace mayfly::rpc {

struct Options {
  std::string instance = "default";
  std::string version;
  std::vector<uid_t> uids_allowed;  // besides root and the daemon's own
  uint32_t connections_max = 256;
  uint32_t tasks_per_connection_max = 1'024;  // Task objects that are not closed yet
  uint32_t tasks_max = 4'096;                 // the same, of all connections together
  uint32_t calls_per_connection_max = 8'192;  // calls that have not returned
  uint32_t calls_max = 65'536;                // the same, of all connections together
  BlobBounds blobs;
  uint32_t uploads_per_connection_max = 16;      // that are not finished
  uint32_t upload_idle_ms = 60'000;              // since the last write
  uint32_t handles_per_connection_max = 65'536;  // Task and Upload objects not released
  uint32_t handles_max = 524'288;                // the same, of all connections together
  uint32_t detached_per_user_max = 256;          // tasks that are not forgotten
  uint32_t detach_lease_ms_max = 24 * 3'600'000;
  uint32_t result_lease_ms = 600'000;              // of an ended task that is not closed
  uint32_t connection_idle_ms = 600'000;           // nothing happens, and it has no task
  uint64_t output_held_bytes_max = 2ull << 30;     // of tasks that are not closed: what they print
  uint64_t out_files_held_bytes_max = 2ull << 30;  // the core's, told to clients
  uint32_t answers_per_connection_max = 262'144;   // that the client has not finished
  uint32_t answers_max = 1'048'576;                // the same, of all connections together
  uint64_t unsent_bytes_per_connection_max = 16u << 20;  // answers that the client does not read
  uint64_t unsent_bytes_max = 256u << 20;                // the same, of all connections together
  // Of requests that are being worked on; beyond it nothing more is read. A connection always has
  // the own bytes, whatever the others hold.
  uint64_t in_flight_bytes_per_connection_max = 16u << 20;
  uint64_t in_flight_bytes_max = 512u << 20;
  uint64_t in_flight_own_bytes = 256u << 10;
  uint32_t message_ms_max = 30'000;  // from a message's first byte to its last
};

class Server {
 public:
  // `listener`: a bound and listening unix stream socket. Called on the thread that runs `io`;
  // core and `io` outlive the server.
  static base::Result<std::unique_ptr<Server>> start(sched::Core& core, boost::asio::io_context& io,
                                                     base::Fd listener, Options options);
  // Sends what was answered, as far as the clients' sockets take it at once, and ends every
  // connection. Nothing calls the core afterwards.
  ~Server();

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace mayfly::rpc
