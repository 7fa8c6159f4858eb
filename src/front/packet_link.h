// One end of a link of fixed-size messages with descriptors.
//
// Layer: front. The loop's thread.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include "base/fd.h"

namespace mayfly::front {

class PacketLink {
 public:
  // Takes a message of at most kMessageBytesMax; an error ends the link.
  using OnMessage = std::function<base::Status(std::span<const std::byte>, base::Received&)>;
  // Called once, with the reason; the last call.
  using OnEnd = std::function<void(std::string)>;
  static constexpr size_t kMessageBytesMax = 512;
  static constexpr size_t kUnsentMax = 65'536;

  PacketLink(boost::asio::io_context& host, base::Fd socket, OnMessage on_message, OnEnd on_end);
  ~PacketLink() { *self_ = nullptr; }
  PacketLink(const PacketLink&) = delete;

  void send(std::span<const std::byte> message);

 private:
  using Descriptor = boost::asio::posix::stream_descriptor;
  void awaitMessages();
  void receiveSome();
  void flush();
  void end(std::string why);

  Descriptor socket_;
  OnMessage on_message_;
  OnEnd on_end_;
  std::shared_ptr<PacketLink*> self_;
  std::deque<std::string> unsent_;
  bool ended_ = false, flushing_ = false;
};

}  // namespace mayfly::front
