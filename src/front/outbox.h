// What is to be sent on a connection, in order.
//
// Bytes that are put while others are written go out together with the next write. Whoever puts
// bytes learns when they have gone: that is the back-pressure.
//
// Layer: front. The loop's thread. The stream is borrowed.
#pragma once

#include <kj/async-io.h>
#include <kj/function.h>

#include <deque>
#include <optional>
#include <string>
#include <string_view>

#include "edge/asio_port.h"
#include "front/options.h"

namespace mayfly::front {

class Outbox {
 public:
  // `on_fault` is called once, in an event of its own, when the peer takes no more bytes.
  Outbox(kj::AsyncIoStream& stream, edge::AsioPort& port, kj::Function<void()> on_fault)
      : stream_(stream), port_(port), on_fault_(kj::mv(on_fault)) {}
  KJ_DISALLOW_COPY(Outbox);

  void put(std::string_view bytes);
  void putAndWrite(std::string_view bytes);  // without waiting for more
  // Resolves when all that was put has been written.
  kj::Promise<void> written();
  size_t unsent() const { return pending_.size() + writing_.size() - sent_; }
  bool begun() const { return begun_; }  // anything was put since the last settle()
  void settle() { begun_ = false; }
  // Since when the peer has taken nothing; null: nothing waits for it.
  std::optional<kj::TimePoint> stalledSince() const { return stalled_since_; }

 private:
  void add(std::string_view bytes);
  kj::Promise<void> pump();
  void run(kj::Promise<void> pumping);

  kj::AsyncIoStream& stream_;
  edge::AsioPort& port_;
  kj::Function<void()> on_fault_;
  std::string pending_, writing_;
  size_t sent_ = 0;       // of writing_
  bool pumping_ = false;  // or about to
  bool waiting_ = false;  // for the turn's end
  bool begun_ = false, failed_ = false;
  std::optional<kj::TimePoint> stalled_since_;
  struct Wait {
    uint64_t until;
    kj::Own<kj::PromiseFulfiller<void>> fulfiller;
  };
  uint64_t put_bytes_ = 0, sent_bytes_ = 0;
  std::deque<Wait> waits_;
  kj::Promise<void> pump_ = nullptr;
};

}  // namespace mayfly::front
