#include "app/log_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include <fmt/format.h>

namespace mayfly::app {

LogSink::LogSink(int out) : out_(out) {
  struct stat st;
  if (::fstat(out, &st) != 0) return;
  is_socket_ = S_ISSOCK(st.st_mode);
  if (S_ISFIFO(st.st_mode)) {
    const std::string path = fmt::format("/proc/self/fd/{}", out);
    own_ = base::Fd(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    if (own_) out_ = own_.get();
  }
}

// Returns false if there is no room now.
bool LogSink::put(std::string_view line) {
  while (!line.empty()) {
    const ssize_t n = is_socket_
                          ? ::send(out_, line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL)
                          : ::write(out_, line.data(), line.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 && errno != EAGAIN;  // other errors of the log are ignored
    line.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

void LogSink::sink_it_(const spdlog::details::log_msg& message) {
  spdlog::memory_buf_t text;
  if (dropped_ > 0) {
    spdlog::details::log_msg news = message;
    const std::string words =
        fmt::format("{} lines of this log were dropped: nobody read them in time", dropped_);
    news.level = spdlog::level::warn;
    news.payload = words;
    formatter_->format(news, text);
    if (!put({text.data(), text.size()})) {
      ++dropped_;
      return;
    }
    dropped_ = 0;
    text.clear();
  }
  formatter_->format(message, text);
  if (!put({text.data(), text.size()})) ++dropped_;
}

}  // namespace mayfly::app
