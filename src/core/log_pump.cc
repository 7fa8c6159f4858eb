#include "core/log_pump.h"

#include <errno.h>
#include <unistd.h>

#include "base/text.h"

namespace mayfly::core {

base::Status LogPump::open(base::Fd read_end) {
  MAYFLY_CHECK(base::setNonblocking(read_end.view()));
  boost::system::error_code failed;
  fd_.assign(read_end.get(), failed);
  if (failed) return base::failSys(failed.value(), "epoll", "the log pipe of a zygote");
  read_end.release();
  wait();
  return base::Unit{};
}

void LogPump::close() {
  constexpr size_t kReadsMax = 64;
  for (size_t i = 0; i < kReadsMax && fd_.is_open() && readSome(); ++i) {
  }
  line();
  boost::system::error_code ignored;
  if (fd_.is_open()) fd_.close(ignored);
}

void LogPump::line() {
  if (line_.empty()) return;
  if (lines_ < kLogLinesMax) on_line_(base::printable(line_, kLogLineBytesMax));
  if (lines_ == kLogLinesMax) on_line_("(further lines are dropped)");
  ++lines_;
  line_.clear();
}

void LogPump::wait() {
  fd_.async_wait(boost::asio::posix::descriptor_base::wait_read,
                 [self = shared_from_this()](boost::system::error_code failed) {
                   if (failed || !self->fd_.is_open()) return;
                   self->readSome();
                   if (self->fd_.is_open()) self->wait();
                 });
}

bool LogPump::readSome() {
  char buffer[4096];
  ssize_t n = ::read(fd_.native_handle(), buffer, sizeof buffer);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (n <= 0) {
    line();
    boost::system::error_code ignored;
    fd_.close(ignored);
    return false;
  }
  for (ssize_t i = 0; i < n; ++i) {
    if (buffer[i] == '\n')
      line();
    else if (line_.size() <= kLogLineBytesMax)
      line_.push_back(buffer[i]);
  }
  return true;
}

}  // namespace mayfly::core
