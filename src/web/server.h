// The daemon's HTTP server: one thread of its own, GET and HEAD only.
//
// The thread shares nothing with the core but published snapshots (metrics::Board), so a slow, dead
// or flooded HTTP thread holds no task up. Everything that a client can make it hold has a bound;
// the bounds stand in Options.
//
// Layer: web. start() and stop() are called by the main thread, everything else happens on the
// HTTP thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "web/route.h"

namespace mayfly::web {

struct Options {
  std::string token;     // that clients must show; empty: none, and only on loopback
  bool loopback = true;  // the listener's address: then the Host header must name it, too
  uint16_t port = 0;     // the listener's, for that check; filled in by start()
  // Beyond these a connection that is idle, or whose client reads slowly, makes room; an
  // eighth of each is not for listeners of events.
  uint32_t connections_max = 256;
  uint32_t per_host_max = 128;        // of one host, as hostOf() says
  uint32_t head_bytes_max = 8 << 10;  // of a request
  uint32_t head_ms_max = 10'000;      // from a request's first byte to its last
  uint32_t idle_ms_max = 30'000;      // without a request
  uint32_t answer_ms_max = 5'000;     // for a handler
  uint32_t write_ms_max = 20'000;     // without progress, for one answer or block of events
  uint32_t requests_max = 1'000;      // of one connection
};

// An address and port like "127.0.0.1:9464", "[::1]:9464", "0.0.0.0:0".
struct Address {
  std::string host;  // an IP address, as text
  uint16_t port = 0;
  bool loopback = false;
};
base::Result<Address> parseAddress(std::string_view text);

// A bound and listening socket, whose options its connections inherit: so no accepted one needs a
// call of its own, and the kernel's buffers of each are small.
base::Result<base::Fd> listenHttp(const Address& address, uint32_t backlog);
uint16_t portOf(base::FdView listener);

// The token in a file that only its owner may read; one line, 16 to 256 printable characters.
base::Result<std::string> readToken(const std::string& path);

struct Counts {  // since the start
  uint64_t accepted = 0, refused = 0, requests = 0, unauthorised = 0, dropped_slow = 0;
  uint32_t open = 0, streams = 0;
};

class Server {
 public:
  // The thread runs when this returns. `routes`: called once, on the HTTP thread.
  static base::Result<std::unique_ptr<Server>> start(base::Fd listener, Options options,
                                                     std::function<void(Server&, Router&)> routes);
  // Stops within `wait`; a thread that is stuck is left alone. Returns whether it ended.
  bool stop(std::chrono::milliseconds wait);
  ~Server();

  // Any thread: runs `work` on the HTTP thread; no effect once that has stopped.
  void post(std::function<void()> work);
  // HTTP thread: runs `work` every `period`, until the server stops.
  void every(std::chrono::milliseconds period, std::function<void()> work);
  Counts counts() const;  // any thread
  uint16_t port() const;

 private:
  struct Impl;
  explicit Server(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;  // the thread holds another reference
};

}  // namespace mayfly::web
