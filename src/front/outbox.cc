#include "front/outbox.h"

#include <kj/debug.h>

#include <algorithm>
#include <utility>

#include "front/gate.h"

namespace mayfly::front {

void Outbox::add(std::string_view bytes) {
  begun_ = true;
  pending_ += bytes;
  put_bytes_ += bytes.size();
}

void Outbox::put(std::string_view bytes) {
  if (failed_) return;
  add(bytes);
  if (pumping_) return;
  pumping_ = waiting_ = true;
  // What the vault sent together is written together.
  run(endOfTurn(port_).then([this] {
    waiting_ = false;
    return pump();
  }));
}

void Outbox::putAndWrite(std::string_view bytes) {
  if (failed_) return;
  add(bytes);
  if (std::exchange(pumping_, true) && !std::exchange(waiting_, false)) return;
  run(kj::evalNow([this] { return pump(); }));
}

void Outbox::run(kj::Promise<void> pumping) {
  pump_ = pumping.eagerlyEvaluate([this](kj::Exception&&) {
    failed_ = true;
    stalled_since_.reset();
    waits_.clear();  // breaks the promises
    on_fault_();
  });
}

kj::Promise<void> Outbox::written() {
  if (failed_) return KJ_EXCEPTION(DISCONNECTED, "the peer takes no more bytes");
  if (sent_bytes_ == put_bytes_) return kj::READY_NOW;
  auto paf = kj::newPromiseAndFulfiller<void>();
  waits_.push_back({put_bytes_, kj::mv(paf.fulfiller)});
  return kj::mv(paf.promise);
}

kj::Promise<void> Outbox::pump() {
  if (sent_ == writing_.size()) {
    writing_.clear();
    sent_ = 0;
    std::swap(writing_, pending_);
    if (writing_.empty()) {
      if (writing_.capacity() > kWriteBytesMax) writing_ = std::string();
      if (pending_.capacity() > kWriteBytesMax) pending_ = std::string();
      pumping_ = false;
      stalled_since_.reset();
      return kj::READY_NOW;
    }
  }
  stalled_since_ = port_.timer().now();
  const size_t bytes = std::min(writing_.size() - sent_, kWriteBytesMax);
  return stream_.write(writing_.data() + sent_, bytes).then([this, bytes] {
    sent_ += bytes;
    sent_bytes_ += bytes;
    while (!waits_.empty() && waits_.front().until <= sent_bytes_) {
      waits_.front().fulfiller->fulfill();
      waits_.pop_front();
    }
    return pump();
  });
}

}  // namespace mayfly::front
