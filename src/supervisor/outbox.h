// Messages with descriptors that a peer has not taken yet, in order and bounded.
//
// Layer: supervisor. Never blocks.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <utility>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::supervisor {

class Outbox {
 public:
  static constexpr size_t kMessagesMax = 2'048;  // a policy, and each of its secrets, some times

  template <class Message>
  base::Status put(base::FdView socket, const Message& message, base::Fd fd = {}) {
    if (waiting_.size() >= kMessagesMax)
      return base::fail(base::Code::resourceExhausted, "a process of the broker reads no messages");
    const auto bytes = base::bytesOf(message);
    waiting_.push_back(
        {std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), std::move(fd)});
    return flush(socket);
  }
  // Sends what the peer takes now. An error: the peer is gone.
  base::Status flush(base::FdView socket) {
    while (!waiting_.empty()) {
      const Waiting& first = waiting_.front();
      const int fd = first.fd.get();
      auto sent = base::sendMessage(socket, std::as_bytes(std::span(first.bytes)),
                                    std::span(&fd, first.fd ? 1 : 0));
      if (!sent && sent.error().code == base::Code::unavailable) return base::Unit{};
      if (!sent) return sent;
      waiting_.pop_front();
    }
    return base::Unit{};
  }
  bool empty() const { return waiting_.empty(); }

 private:
  struct Waiting {
    std::string bytes;
    base::Fd fd;
  };
  std::deque<Waiting> waiting_;
};

}  // namespace mayfly::supervisor
