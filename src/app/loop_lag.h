// Reports to the observer, every `kPeriod`, how late the core thread runs a timer.
//
// Layer: app. Core thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>

#include "base/observer.h"

namespace mayfly::app {

class LoopLag {
 public:
  static constexpr std::chrono::milliseconds kPeriod{250};

  LoopLag(boost::asio::io_context& io, base::Observer& observer)
      : timer_(io), observer_(observer) {}

  void start() {
    const auto due = std::chrono::steady_clock::now() + kPeriod;
    timer_.expires_at(due);
    timer_.async_wait([this, due](boost::system::error_code failed) {
      if (failed) return;
      const auto late = std::chrono::steady_clock::now() - due;
      observer_.loopLag(static_cast<uint64_t>(std::chrono::nanoseconds(late).count()));
      start();
    });
  }

 private:
  boost::asio::steady_timer timer_;
  base::Observer& observer_;
};

}  // namespace mayfly::app
