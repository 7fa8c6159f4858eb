#include "core/task_io.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>

namespace mayfly::core {

using boost::asio::posix::descriptor_base;
using boost::system::error_code;
using sched::Stream;

namespace {

// The core is one thread: one buffer serves every read.
std::array<char, kChunkBytes>& chunk() {
  static thread_local std::array<char, kChunkBytes> buffer;
  return buffer;
}

static_assert(sizeof(zygote::CloneReady) == sizeof(zygote::Started));

}  // namespace

TaskIo::TaskIo(boost::asio::io_context& io, Sink& sink, base::BoxId box)
    : sink_(sink), box_(box), control_(io), stdin_(io), outputs_{Output(io), Output(io)} {}

base::Status TaskIo::adopt(Descriptor& to, base::Fd& fd) {
  MAYFLY_CHECK(base::setNonblocking(fd.view()));
  error_code failed;
  to.assign(fd.get(), failed);
  if (failed) return base::failSys(failed.value(), "epoll", "a stream of a box");
  fd.release();
  return base::Unit{};
}

base::Status TaskIo::open(std::span<base::Fd> fds) {
  if (fds.size() != 4)
    return base::fail(base::Code::resourceExhausted,
                      "of a box's 4 descriptors " + std::to_string(fds.size()) +
                          " arrived: the daemon has none free",
                      "Raise the limit on its open files (LimitNOFILE, ulimit -n).");
  MAYFLY_CHECK(adopt(control_, fds[0]));
  MAYFLY_CHECK(adopt(stdin_, fds[1]));
  MAYFLY_CHECK(adopt(outputs_[0].fd, fds[2]));
  MAYFLY_CHECK(adopt(outputs_[1].fd, fds[3]));
  waitControl();
  return base::Unit{};
}

void TaskIo::closeDescriptor(Descriptor& d) {
  error_code ignored;
  if (d.is_open()) d.close(ignored);
}

void TaskIo::close() {
  closed_ = true;
  closeDescriptor(control_);
  closeDescriptor(stdin_);
  for (Output& o : outputs_) closeDescriptor(o.fd);
  stdin_queue_.clear();
}

void TaskIo::waitControl() {
  control_.async_wait(descriptor_base::wait_read, [self = shared_from_this()](error_code failed) {
    if (failed || self->closed_ || !self->control_.is_open()) return;
    self->pollControl();
    if (!self->closed_ && self->control_.is_open()) self->waitControl();
  });
}

void TaskIo::pollControl() {
  auto self = shared_from_this();
  while (!closed_ && control_.is_open()) {
    zygote::CloneReady word;  // Started has the same size
    auto got =
        base::receiveMessage(base::FdView(control_.native_handle()), base::writableBytesOf(word));
    if (!got && got.error().code == base::Code::unavailable) return;
    if (!got || got->bytes == 0) {
      closeDescriptor(control_);
      sink_.onControlBroken(box_, got ? "the clone ended before the task started"
                                      : std::move(got).error().in("the clone's channel").message);
      return;
    }
    zygote::Started started;
    memcpy(static_cast<void*>(&started), &word, sizeof started);
    if (wire::faultOf(word, got->bytes, got->fds) == nullptr) {
      sink_.onCloneReady(box_, word);
    } else if (wire::faultOf(started, got->bytes, got->fds) == nullptr) {
      closeDescriptor(control_);
      sink_.onCloneStarted(box_, started);
    } else {
      closeDescriptor(control_);
      sink_.onControlBroken(box_, "the clone sent a message of a wrong size, magic or kind");
    }
  }
}

void TaskIo::bind(Delivery delivery, uint64_t output_bytes_max) {
  delivery_ = delivery;
  output_bytes_max_ = output_bytes_max;
}

base::Status TaskIo::claim(const zygote::Claim& claim, std::span<const int> fds) {
  if (closed_ || !control_.is_open())
    return base::fail(base::Code::failedPrecondition, "the clone's channel is closed");
  return base::sendMessage(base::FdView(control_.native_handle()), base::bytesOf(claim), fds);
}

void TaskIo::begin() {
  if (closed_ || running_) return;
  running_ = true;
  closeDescriptor(control_);
  writeStdin();
  waitOutput(Stream::out);
  waitOutput(Stream::err);
}

// --- stdin -------------------------------------------------------------------

void TaskIo::pushStdin(std::string bytes) {
  if (closed_ || bytes.empty()) return;
  stdin_queue_.push_back(std::move(bytes));
  if (running_) writeStdin();
}

void TaskIo::endStdin() {
  stdin_ends_ = true;
  if (running_) writeStdin();
}

// The task reads no more: queued bytes count as taken, as in a shell.
void TaskIo::dropStdin() {
  uint64_t bytes = 0;
  for (const std::string& s : stdin_queue_) bytes += s.size();
  bytes -= stdin_done_bytes_;
  stdin_queue_.clear();
  stdin_done_bytes_ = 0;
  closeDescriptor(stdin_);
  if (bytes > 0) sink_.onStdinTaken(box_, bytes);
}

void TaskIo::writeStdin() {
  if (closed_ || stdin_waiting_) return;
  if (!stdin_.is_open()) return dropStdin();
  uint64_t taken_bytes = 0;
  bool full = false;
  while (!stdin_queue_.empty() && !full) {
    const std::string& front = stdin_queue_.front();
    ssize_t n = ::write(stdin_.native_handle(), front.data() + stdin_done_bytes_,
                        front.size() - stdin_done_bytes_);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) return dropStdin();
    if (n < 0) {
      full = true;
      break;
    }
    taken_bytes += static_cast<uint64_t>(n);
    stdin_done_bytes_ += static_cast<size_t>(n);
    if (stdin_done_bytes_ == front.size()) {
      stdin_queue_.pop_front();
      stdin_done_bytes_ = 0;
    }
  }
  if (full) {
    stdin_waiting_ = true;
    stdin_.async_wait(descriptor_base::wait_write, [self = shared_from_this()](error_code failed) {
      self->stdin_waiting_ = false;
      if (!failed && !self->closed_) self->writeStdin();
    });
  } else if (stdin_ends_) {
    closeDescriptor(stdin_);
  }
  if (taken_bytes > 0) sink_.onStdinTaken(box_, taken_bytes);
}

// --- stdout, stderr ------------------------------------------------------------

void TaskIo::waitOutput(Stream s) {
  Output& o = outputs_[static_cast<size_t>(s)];
  if (closed_ || o.waiting || o.over || !o.fd.is_open()) return;
  o.waiting = true;
  o.fd.async_wait(descriptor_base::wait_read, [self = shared_from_this(), s](error_code failed) {
    self->outputs_[static_cast<size_t>(s)].waiting = false;
    if (!failed && !self->closed_) self->readOutput(s);
  });
}

void TaskIo::readOutput(Stream s) {
  auto self = shared_from_this();
  Output& o = outputs_[static_cast<size_t>(s)];
  for (size_t turn = 0; draining_ || turn < kChunksPerTurnMax; ++turn) {
    if (closed_ || o.over || !o.fd.is_open()) return;
    size_t room = kChunkBytes;
    if (delivery_ == Delivery::live && !draining_) {
      uint64_t held = o.unacknowledged_bytes;
      if (held >= sched::kOutputWindowBytes) return;  // acknowledge() resumes reading
      room = std::min<uint64_t>(room, sched::kOutputWindowBytes - held);
    }
    ssize_t n = ::read(o.fd.native_handle(), chunk().data(), room);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) break;
    if (n <= 0) return closeDescriptor(o.fd);
    // One byte beyond the cap reaches the cap; the bytes below it are still delivered.
    uint64_t left = output_bytes_max_ - o.total_bytes;
    size_t give = static_cast<size_t>(std::min<uint64_t>(left, static_cast<uint64_t>(n)));
    o.over = static_cast<size_t>(n) > give;
    o.total_bytes += give;
    if (delivery_ == Delivery::live) o.unacknowledged_bytes += give;
    if (give > 0) sink_.onTaskOutput(box_, s, std::string_view(chunk().data(), give));
    if (o.over && !closed_) sink_.onOutputOver(box_, s);
  }
  waitOutput(s);
}

void TaskIo::acknowledge(Stream s, uint64_t bytes) {
  Output& o = outputs_[static_cast<size_t>(s)];
  o.unacknowledged_bytes -= std::min(bytes, o.unacknowledged_bytes);
  if (running_) waitOutput(s);
}

void TaskIo::drain() {
  if (closed_ || !running_) return;
  draining_ = true;
  auto self = shared_from_this();
  readOutput(Stream::out);
  readOutput(Stream::err);
}

}  // namespace mayfly::core
