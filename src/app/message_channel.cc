#include "app/message_channel.h"

#include <boost/asio/post.hpp>
#include <span>

namespace mayfly::app {

using boost::asio::posix::descriptor_base;

namespace {

constexpr size_t kMessagesPerTurnMax = 64;

}  // namespace

base::Status MessageChannel::open(base::Fd socket) {
  close();
  MAYFLY_CHECK(base::setNonblocking(socket.view()));
  boost::system::error_code failed;
  socket_.assign(socket.get(), failed);
  if (failed) return base::failSys(failed.value(), "epoll", "a channel of the broker");
  socket.release();
  open_ = true;
  ++opening_;
  listen();
  return base::Unit{};
}

void MessageChannel::close() {
  if (!std::exchange(open_, false)) return;
  boost::system::error_code ignored;
  socket_.close(ignored);
  out_.clear();
  waiting_to_write_ = false;
}

void MessageChannel::lost(base::Error why) {
  if (!open_) return;
  close();
  handler_.onLost(*this, why);
}

// From the loop: the caller is in the middle of a session's step.
void MessageChannel::lostSoon(base::Error why) {
  boost::asio::post(socket_.get_executor(), [this, alive = std::weak_ptr<char>(alive_),
                                             opening = opening_, why = std::move(why)]() mutable {
    if (!alive.expired() && opening == opening_) lost(std::move(why));
  });
}

void MessageChannel::listen() {
  socket_.async_wait(descriptor_base::wait_read,
                     [this, alive = std::weak_ptr<char>(alive_),
                      opening = opening_](boost::system::error_code failed) {
                       if (failed || alive.expired() || !open_ || opening != opening_) return;
                       for (size_t i = 0; i < kMessagesPerTurnMax; ++i) {
                         auto received = handler_.receive(*this, fd());
                         if (alive.expired() || !open_ || opening != opening_) return;
                         if (received) continue;
                         if (received.error().code == base::Code::unavailable) break;
                         return lost(std::move(received).error());
                       }
                       listen();
                     });
}

void MessageChannel::put(std::string bytes, std::vector<base::Fd> fds) {
  if (!open_) return;
  if (out_.size() >= kMessagesMax)
    return lostSoon(
        base::Error{base::Code::resourceExhausted,
                    "it does not read: " + std::to_string(out_.size()) + " messages wait for it",
                    {},
                    0});
  out_.push_back({std::move(bytes), std::move(fds)});
  if (!waiting_to_write_) flush();
}

void MessageChannel::flush() {
  while (!out_.empty()) {
    std::vector<int> raw;
    for (const base::Fd& each : out_.front().fds) raw.push_back(each.get());
    auto sent = base::sendMessage(
        fd(), std::as_bytes(std::span(out_.front().bytes.data(), out_.front().bytes.size())), raw);
    if (sent) {
      out_.pop_front();
      continue;
    }
    if (sent.error().code == base::Code::unavailable) break;
    return lostSoon(std::move(sent).error());
  }
  if (out_.empty()) return;
  waiting_to_write_ = true;
  socket_.async_wait(descriptor_base::wait_write,
                     [this, alive = std::weak_ptr<char>(alive_),
                      opening = opening_](boost::system::error_code failed) {
                       if (failed || alive.expired() || !open_ || opening != opening_) return;
                       waiting_to_write_ = false;
                       flush();
                     });
}

}  // namespace mayfly::app
