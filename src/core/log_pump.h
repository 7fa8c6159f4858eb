// Reads a zygote's output (stdout and stderr, one pipe) line by line, in bounded memory, for the
// daemon's log.
//
// Layer: core. Core thread. Held by shared_ptr: asio's handlers keep it alive.
#pragma once

#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::core {

inline constexpr size_t kLogLineBytesMax = 1'024;
inline constexpr size_t kLogLinesMax = 500;  // of one zygote; further lines are read and dropped

class LogPump : public std::enable_shared_from_this<LogPump> {
 public:
  using OnLine = std::function<void(std::string_view line)>;  // printable
  LogPump(boost::asio::io_context& io, OnLine on_line) : fd_(io), on_line_(std::move(on_line)) {}
  base::Status open(base::Fd read_end);
  void close();  // reads the rest of the pipe first

 private:
  void wait();
  bool readSome();  // false: nothing more to read now, or ever
  void line();

  boost::asio::posix::stream_descriptor fd_;
  OnLine on_line_;
  std::string line_;
  size_t lines_ = 0;
};

}  // namespace mayfly::core
