// Writes the log to a descriptor that perhaps nobody reads: a full pipe never holds up the core
// thread. Lines that do not fit are dropped, and a line with their number comes before the next.
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
  // Writes to `out`, which outlives the sink. A pipe is reopened as non-blocking, because other
  // processes (a shell) share the flags of `out`.
  explicit LogSink(int out);
  base::FdView descriptor() const { return base::FdView(out_); }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override;
  void flush_() override {}

 private:
  bool put(std::string_view line);

  int out_;
  base::Fd own_;  // the reopened pipe; empty if `out` is no pipe
  bool is_socket_ = false;
  uint64_t dropped_ = 0;
};

}  // namespace mayfly::app
