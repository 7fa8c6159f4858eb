// The streams of one box: the control socket to its clone, then stdin, stdout and stderr. Reads and
// writes never block, and output never accumulates here.
//
// Output is counted against its cap; live output also waits for the listener's window. At most 4
// descriptors a box.
//
// Layer: core. Core thread. Held by shared_ptr: asio's handlers keep it alive.
#pragma once

#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"
#include "sched/core.h"
#include "wire/zygote.h"

namespace mayfly::core {

namespace zygote = wire;

inline constexpr size_t kStreamFds = 4;
inline constexpr size_t kChunkBytes = 64u << 10;
inline constexpr size_t kChunksPerTurnMax = 4;

enum class Delivery : uint8_t { live, captured };

class TaskIo : public std::enable_shared_from_this<TaskIo> {
 public:
  // Reports to the engine. The TaskIo may be closed within each call.
  class Sink {
   public:
    virtual ~Sink() = default;
    virtual void onCloneReady(base::BoxId, const zygote::CloneReady&) = 0;
    virtual void onCloneStarted(base::BoxId, const zygote::Started&) = 0;
    virtual void onControlBroken(base::BoxId, std::string why) = 0;
    virtual void onTaskOutput(base::BoxId, sched::Stream, std::string_view bytes) = 0;
    virtual void onOutputOver(base::BoxId, sched::Stream) = 0;  // the output exceeded the cap
    virtual void onStdinTaken(base::BoxId, uint64_t bytes) = 0;
  };

  TaskIo(boost::asio::io_context& io, Sink& sink, base::BoxId box);

  // fds: control, stdin, stdout, stderr, as in boxMade. Then waits for the clone's messages.
  base::Status open(std::span<base::Fd> fds);
  // Handles the clone's messages now, so that the spawner's reports do not overtake them.
  void pollControl();
  // Before claim(): how to deliver the task's output.
  void bind(Delivery delivery, uint64_t output_bytes_max);
  base::Status claim(const zygote::Claim& claim, std::span<const int> fds);
  void begin();  // the task runs: starts the streams, closes the control socket

  void pushStdin(std::string bytes);
  void endStdin();  // after the pushed bytes

  void acknowledge(sched::Stream stream, uint64_t bytes);
  // All writers are dead: reads the rest, whatever the window.
  void drain();
  void close();  // closes every descriptor; no report follows

  uint64_t bytes(sched::Stream s) const { return outputs_[static_cast<size_t>(s)].total_bytes; }

 private:
  using Descriptor = boost::asio::posix::stream_descriptor;
  struct Output {
    explicit Output(boost::asio::io_context& io) : fd(io) {}
    Descriptor fd;
    uint64_t total_bytes = 0, unacknowledged_bytes = 0;
    bool waiting = false, over = false;
  };
  base::Status adopt(Descriptor& to, base::Fd& fd);
  void waitControl();
  void waitOutput(sched::Stream s);
  void readOutput(sched::Stream s);
  void writeStdin();
  void dropStdin();
  void closeDescriptor(Descriptor& d);

  Sink& sink_;
  base::BoxId box_;
  Delivery delivery_ = Delivery::captured;
  uint64_t output_bytes_max_ = 0;
  Descriptor control_, stdin_;
  std::array<Output, 2> outputs_;
  std::deque<std::string> stdin_queue_;
  size_t stdin_done_bytes_ = 0;  // written bytes of the front
  bool stdin_waiting_ = false, stdin_ends_ = false;
  bool running_ = false, draining_ = false, closed_ = false;
};

}  // namespace mayfly::core
