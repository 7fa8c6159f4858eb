#include "edge/gathering_stream.h"

#include <kj/vector.h>

#include <memory>
#include <utility>

#include <boost/asio/steady_timer.hpp>

namespace mayfly::edge {

namespace {

class Gathering final : public GatheringStream {
 public:
  Gathering(AsioPort& port, kj::Own<kj::AsyncIoStream> stream)
      : port_(port),
        stream_(kj::mv(stream)),
        self_(std::make_shared<Gathering*>(this)),
        delay_(port.host()) {}
  ~Gathering() noexcept(false) { *self_ = nullptr; }
  KJ_DISALLOW_COPY(Gathering);

  kj::Promise<size_t> tryRead(void* to, size_t bytes_min, size_t bytes_max) override {
    return stream_->tryRead(to, bytes_min, bytes_max);
  }
  kj::Promise<void> write(const void* from, size_t bytes) override {
    const auto piece = kj::arrayPtr(static_cast<const kj::byte*>(from), bytes);
    return write(kj::arrayPtr(&piece, 1));
  }
  kj::Promise<void> write(kj::ArrayPtr<const kj::ArrayPtr<const kj::byte>> pieces) override {
    KJ_IF_MAYBE (fault, fault_) return kj::cp(*fault);
    for (const auto& piece : pieces) held_.addAll(piece);
    if (std::exchange(delay_next_, false) && held_.size() <= kDelayedBytesMax) {
      flushAfterDelay();
      return kj::READY_NOW;
    }
    return flushLater();
  }
  kj::Promise<void> whenWriteDisconnected() override { return stream_->whenWriteDisconnected(); }
  void shutdownWrite() override {
    ending_ = true;
    if (busy_) return;
    if (held_.size() > 0) return askForFlush();
    stream_->shutdownWrite();
  }
  void delayNext() override { delay_next_ = true; }
  void abortRead() override { stream_->abortRead(); }
  void getsockopt(int level, int option, void* value, kj::uint* length) override {
    stream_->getsockopt(level, option, value, length);
  }
  kj::Maybe<int> getFd() const override { return stream_->getFd(); }

 private:
  kj::Promise<void> flushLater() {
    if (!busy_) askForFlush();
    if (held_.size() <= kGatheredBytesMax) return kj::READY_NOW;
    auto paf = kj::newPromiseAndFulfiller<void>();
    waits_.add(kj::mv(paf.fulfiller));
    return kj::mv(paf.promise);
  }

  void flushAfterDelay() {
    if (busy_ || std::exchange(delaying_, true)) return;
    delay_.expires_after(kDelayMax);
    delay_.async_wait([self = self_](boost::system::error_code failed) {
      if (failed || *self == nullptr) return;
      Gathering& all = **self;
      all.delaying_ = false;
      if (!all.busy_ && all.held_.size() > 0) all.askForFlush();
    });
  }

  // Never from within the promise that flush() replaces.
  void askForFlush() {
    busy_ = true;
    port_.atTurnEnd([self = self_] {
      if (*self != nullptr) (*self)->flush();
    });
  }

  void flush() {
    writing_ = kj::mv(held_);
    held_ = {};
    flushing_ = stream_->write(writing_.begin(), writing_.size())
                    .then([this] { written(); })
                    .eagerlyEvaluate([this](kj::Exception&& fault) { failed(kj::mv(fault)); });
  }

  void written() {
    // Most turns write little: the next ones use the same memory.
    writing_.clear();
    if (held_.size() == 0 && writing_.capacity() <= kGatheredBytesMax) held_ = kj::mv(writing_);
    for (auto& wait : kj::mv(waits_)) wait->fulfill();
    busy_ = false;
    if (held_.size() > 0)
      askForFlush();
    else if (ending_)
      stream_->shutdownWrite();
  }

  void failed(kj::Exception&& fault) {
    for (auto& wait : kj::mv(waits_)) wait->reject(kj::cp(fault));
    fault_ = kj::mv(fault);
    held_ = {};
    // What is read is worth nothing if no answer can be sent: both sides see the end.
    stream_->abortRead();
    stream_->shutdownWrite();
  }

  AsioPort& port_;
  kj::Own<kj::AsyncIoStream> stream_;
  std::shared_ptr<Gathering*> self_;  // null once this is destroyed
  kj::Vector<kj::byte> held_, writing_;
  kj::Vector<kj::Own<kj::PromiseFulfiller<void>>> waits_;
  kj::Maybe<kj::Exception> fault_;
  bool busy_ = false;  // a flush is under way, or in the host's queue
  bool ending_ = false;
  boost::asio::steady_timer delay_;
  bool delaying_ = false;    // the timer runs
  bool delay_next_ = false;  // the next write
  kj::Promise<void> flushing_ = nullptr;
};

}  // namespace

kj::Own<GatheringStream> gatheringStream(AsioPort& port, kj::Own<kj::AsyncIoStream> stream) {
  return kj::heap<Gathering>(port, kj::mv(stream));
}

}  // namespace mayfly::edge
