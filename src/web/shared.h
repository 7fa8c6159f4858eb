// What a server's connections share.
//
// Layer: web, internal to it. HTTP thread, but for the counts.
#pragma once

#include <boost/asio/io_context.hpp>

#include <atomic>
#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "web/route.h"
#include "web/server.h"

namespace mayfly::web {

class Connection;

struct Shared {
  boost::asio::io_context io{1};
  Options options;
  Router router;
  std::map<std::string, uint32_t> of_host;  // connections of each client's address
  std::set<Connection*> connections;
  // Read by any thread.
  std::atomic<uint64_t> accepted{0}, refused{0}, requests{0}, unauthorised{0}, dropped_slow{0};
  std::atomic<uint32_t> open{0}, streams{0};
};

}  // namespace mayfly::web
