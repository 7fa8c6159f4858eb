// The log's lines on a descriptor that nobody may be reading: a full pipe never holds the core
// thread up. Lines that do not fit are dropped, and their number is the next line's news.
//
// Layer: app. One thread.
#pragma once

#include <spdlog/details/null_mutex.h>
#include <spdlog/sinks/base_sink.h>

#include <cstdint>
#include <string_view>

#include "base/fd.h"

namespace mayfly::app {

class LogSink final : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 public:
  // Writes to `out`, which outlives the sink. A pipe is opened anew, because others (a shell) share
  // its flags; a socket is sent to.
  explicit LogSink(int out);
  base::FdView descriptor() const { return base::FdView(out_); }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override;
  void flush_() override {}

 private:
  bool put(std::string_view line);

  int out_;
  base::Fd own_;  // of a pipe: the same one, non-blocking
  bool is_socket_ = false;
  uint64_t dropped_ = 0;
};

}  // namespace mayfly::app
