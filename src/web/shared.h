// What a server's connections share.
//
// Layer: web, internal to it. HTTP thread, but for the counts.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/address.hpp>

#include <atomic>
#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "web/route.h"
#include "web/server.h"

namespace mayfly::web {

class Connection;

// Whose connections are counted together: an IPv4 address, the network of an IPv6 address (/64,
// which one host may have to itself), all of loopback.
std::string hostOf(const boost::asio::ip::address& address);

struct Shared {
  boost::asio::io_context io{1};
  Options options;
  Router router;
  std::set<Connection*> connections;
  struct Places {
    uint32_t connections = 0, streams = 0;
  };
  std::map<std::string, Places> of_host;  // of each client's host that has any
  // Read by any thread.
  std::atomic<uint64_t> accepted{0}, refused{0}, requests{0}, unauthorised{0}, dropped_slow{0};
  std::atomic<uint32_t> open{0}, streams{0};
};

}  // namespace mayfly::web
