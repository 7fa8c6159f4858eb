// Fixed-size messages with descriptors over a SEQPACKET socket. Sending never blocks: messages that
// the peer has not taken wait, up to a bound.
//
// Layer: app. Core thread.
#pragma once

#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::app {

class MessageChannel {
 public:
  static constexpr size_t kMessagesMax = 16'384;
  struct Handler {
    virtual ~Handler() = default;
    // Reads one message from the socket; an error (but Code::unavailable: nothing is there), or the
    // end, closes the channel.
    virtual base::Status receive(MessageChannel& channel, base::FdView socket) = 0;
    // Once, from the loop; the channel is closed.
    virtual void onLost(MessageChannel& channel, const base::Error& why) = 0;
  };

  MessageChannel(boost::asio::io_context& io, Handler& handler) : handler_(handler), socket_(io) {}

  base::Status open(base::Fd socket);
  bool isOpen() const { return open_; }
  void close();
  template <class Message>
  void send(const Message& message, std::vector<base::Fd> fds = {}) {
    const auto bytes = base::bytesOf(message);
    put(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), std::move(fds));
  }

 private:
  struct Out {
    std::string bytes;
    std::vector<base::Fd> fds;
  };
  void put(std::string bytes, std::vector<base::Fd> fds);
  void listen();
  void flush();
  void lost(base::Error why);
  void lostSoon(base::Error why);
  base::FdView fd() { return base::FdView(socket_.native_handle()); }

  Handler& handler_;
  boost::asio::posix::stream_descriptor socket_;
  std::deque<Out> out_;
  bool open_ = false, waiting_to_write_ = false;
  uint64_t opening_ = 0;  // which socket: handlers of an earlier one do nothing
  // Asio's handlers hold it weakly: it is gone once the channel is.
  std::shared_ptr<char> alive_ = std::make_shared<char>();
};

}  // namespace mayfly::app
