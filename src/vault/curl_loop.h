// libcurl's multi interface on Asio's loop: many transfers, their sockets and one pool of kept
// connections.
//
// Each connection carries one transfer at a time, HTTP/2 included: a box that does not read its
// answer must not hold up another box's stream on the same connection.
//
// Layer: vault. One thread. The port outlives it.
#pragma once

#include <curl/curl.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/result.h"
#include "edge/asio_port.h"

namespace mayfly::vault {

class CurlLoop {
 public:
  using Done = std::function<void(CURLcode)>;
  using Clock = std::chrono::steady_clock;

  // curl_global_init() has run.
  CurlLoop(edge::AsioPort& port, uint32_t connections_max);
  ~CurlLoop();
  CurlLoop(const CurlLoop&) = delete;
  CurlLoop& operator=(const CurlLoop&) = delete;

  // `done` is called once, in a later turn, unless the transfer is removed before. The handle stays
  // until it is removed, which `done` may do.
  base::Status add(CURL* easy, Done done);
  // Its connection is closed if the transfer is not done. Not from within one of its callbacks.
  void remove(CURL* easy);
  // The transfer is over: `done` is called in a later turn.
  void end(CURL* easy, CURLcode code);
  // A new socket of libcurl's. One that had the number before is closed: libcurl does not tell of
  // each.
  void opened(curl_socket_t fd) { drop(fd); }
  boost::asio::io_context& io() { return io_; }
  uint32_t transfers() const { return static_cast<uint32_t>(done_.size()); }

 private:
  struct Socket;
  static int onSocket(CURL*, curl_socket_t fd, int what, void* self, void* socket);
  static int onClose(void* self, curl_socket_t fd);
  static int onTimer(CURLM*, long ms, void* self);
  void watch(curl_socket_t fd, int what);
  void drop(curl_socket_t fd);
  void await(const std::shared_ptr<Socket>& socket);
  void actSoon();
  void arm();
  void act(curl_socket_t fd, int events);
  void takeDone();

  edge::AsioPort& port_;
  boost::asio::io_context& io_;
  boost::asio::steady_timer timer_;
  CURLM* multi_;
  std::optional<Clock::time_point> due_;    // when libcurl wants to be called
  std::optional<Clock::time_point> armed_;  // when the timer fires; none: it does not
  bool soon_ = false;                       // a call comes at the turn's end
  std::unordered_map<curl_socket_t, std::shared_ptr<Socket>> sockets_;
  std::unordered_map<CURL*, Done> done_;
  std::shared_ptr<CurlLoop*> self_ = std::make_shared<CurlLoop*>(this);  // null: destroyed
};

}  // namespace mayfly::vault
