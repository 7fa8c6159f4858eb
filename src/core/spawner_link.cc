#include "core/spawner_link.h"

#include <errno.h>

#include <array>
#include <chrono>
#include <string>

#include "wire/check.h"

namespace mayfly::core {

using boost::asio::posix::descriptor_base;

base::Status SpawnerLink::open(base::Fd socket) {
  MAYFLY_CHECK(base::setNonblocking(socket.view()));
  boost::system::error_code failed;
  socket_.assign(socket.get(), failed);
  if (failed) return base::failSys(failed.value(), "epoll", "the spawner's channel");
  socket.release();
  open_ = true;
  listen();
  return base::Unit{};
}

void SpawnerLink::close() {
  open_ = false;
  watch_timer_.cancel();
  boost::system::error_code ignored;
  socket_.close(ignored);
  out_.clear();
}

void SpawnerLink::lost(base::Error why) {
  if (!open_) return;
  close();
  handler_.onSpawnerLost(std::move(why));
}

void SpawnerLink::watch(uint64_t period_ns, std::function<bool()> busy) {
  watch_timer_.expires_after(std::chrono::nanoseconds(static_cast<int64_t>(period_ns)));
  watch_timer_.async_wait(
      [this, period_ns, busy = std::move(busy),
       alive = std::weak_ptr<char>(alive_)](boost::system::error_code failed) mutable {
        if (failed || alive.expired() || !open_) return;
        if (owed_periods_ > 0 && !(busy && busy())) ++silent_periods_;
        if (silent_periods_ == kSilentPeriodsMax || owed_periods_ == kBusyPeriodsMax)
          return lost(base::Error{base::Code::deadlineExceeded,
                                  "the spawner did not answer within " +
                                      std::to_string(owed_periods_ * period_ns / 1'000'000) + " ms",
                                  {},
                                  0});
        if (owed_periods_++ == 0) {
          spawner::Request ping;
          ping.op = spawner::Op::ping;
          send(ping);
        }
        watch(period_ns, std::move(busy));
      });
}

void SpawnerLink::listen() {
  socket_.async_wait(descriptor_base::wait_read,
                     [this, alive = std::weak_ptr<char>(alive_)](boost::system::error_code failed) {
                       if (failed || alive.expired() || !open_) return;
                       receive();
                     });
}

void SpawnerLink::receive() {
  std::weak_ptr<char> alive = alive_;
  for (size_t i = 0; i < kEventsPerTurnMax; ++i) {
    spawner::Event event;
    auto got = base::receiveMessage(fd(), base::writableBytesOf(event));
    if (!got) {
      if (got.error().code == base::Code::unavailable) break;
      return lost(std::move(got).error().in("the spawner's channel"));
    }
    if (got->bytes == 0) return lost(base::Error{base::Code::internal, "the spawner ended", {}, 0});
    const wire::Checked checked = wire::check(event, got->bytes, got->fds);
    if (checked.fault != wire::Checked::Fault::none)
      return lost(base::Error{base::Code::internal,
                              "the spawner sent a malformed message: " + std::string(checked.what),
                              {},
                              0});
    owed_periods_ = silent_periods_ = 0;
    if (event.kind == spawner::Kind::pong) continue;
    handler_.onSpawnerEvent(event, std::span<base::Fd>(got->fd, got->fds));
    if (alive.expired() || !open_) return;
  }
  listen();
}

void SpawnerLink::send(const spawner::Request& request, std::vector<SharedFd> fds) {
  if (!open_) return;
  if (out_.size() >= kOutboundMessagesMax) {
    // Reported from the loop: the caller is in the middle of a task's step.
    boost::asio::post(socket_.get_executor(), [this, alive = std::weak_ptr<char>(alive_)] {
      if (!alive.expired())
        lost(base::Error{base::Code::internal,
                         "the spawner does not answer: " + std::to_string(kOutboundMessagesMax) +
                             " messages wait for it",
                         {},
                         0});
    });
    return;
  }
  out_.push_back(Out{request, std::move(fds)});
  if (!waiting_to_write_) flush();
}

void SpawnerLink::flush() {
  while (!out_.empty()) {
    int raw[base::kMessageFdsMax];
    size_t n = 0;
    for (const SharedFd& f : out_.front().fds) raw[n++] = f->get();
    auto sent =
        base::sendMessage(fd(), base::bytesOf(out_.front().request), std::span<const int>(raw, n));
    if (sent) {
      out_.pop_front();
      continue;
    }
    if (sent.error().code == base::Code::unavailable) break;
    boost::asio::post(socket_.get_executor(), [this, alive = std::weak_ptr<char>(alive_),
                                               why = std::move(sent).error()]() mutable {
      if (!alive.expired()) lost(std::move(why).in("the spawner's channel"));
    });
    return;
  }
  if (out_.empty()) return;
  waiting_to_write_ = true;
  socket_.async_wait(descriptor_base::wait_write,
                     [this, alive = std::weak_ptr<char>(alive_)](boost::system::error_code failed) {
                       if (alive.expired()) return;
                       waiting_to_write_ = false;
                       if (!failed && open_) flush();
                     });
}

}  // namespace mayfly::core
