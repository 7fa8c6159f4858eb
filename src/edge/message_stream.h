// Cap'n Proto messages over a byte stream, with bounds: what both ends of the
// RPC read and write through.
//
// A message's size is checked on its segment table before anything is allocated
// for it. Small messages are read many at a time, so a call costs one read. While
// the peer does not read what was sent to it, nothing more is read from it. A
// guarded stream also takes the memory of its messages from a budget, and does not
// wait for ever for the rest of one.
//
// Layer: edge. Lives on one KJ thread; the byte stream is borrowed.
#pragma once

#include <capnp/serialize-async.h>
#include <kj/async-io.h>
#include <kj/function.h>
#include <kj/timer.h>
#include <kj/vector.h>

#include "edge/byte_budget.h"

namespace mayfly::edge {

inline constexpr uint64_t kMessageBytesMax = 8u << 20;
inline constexpr uint32_t kSegmentsMax = 512;
inline constexpr int kNestingMax = 32;

// What may be traversed of one message: more than its size, for a getter may be called twice, but
// bounded, for many pointers may lead to one object.
inline capnp::ReaderOptions readerOptions() {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = 3 * kMessageBytesMax / sizeof(capnp::word);
  options.nestingLimit = kNestingMax;
  return options;
}

// Beside its own bytes a message costs the objects of the call that it is.
inline constexpr uint64_t kMessageOverheadBytes = 1'024;

// What waits to be read by all peers together.
struct Backlog {
  uint64_t bytes_max = 0;
  uint64_t own_bytes = 0;  // a stream that has no more unread is not held up by the others
  uint64_t bytes = 0;
};

class MessageStream final : public capnp::MessageStream {
 public:
  explicit MessageStream(kj::AsyncIoStream& stream)
      : MessageStream(stream, kj::newPromiseAndFulfiller<void>()) {}
  // When guard() was called or the last message was read or written.
  kj::TimePoint lastActivity() const { return last_activity_; }

  ~MessageStream() noexcept(false);

  // Reads no further message while `queued_bytes()` (what waits to be sent) is above the maximum,
  // or that of all streams of the backlog is. The backlog outlives the stream.
  void pauseWhile(kj::Function<size_t()> queued_bytes, size_t queued_bytes_max, Backlog& backlog);
  // Resolves when it is below.
  kj::Promise<void> whenRoom();

  // For a peer that is not trusted. The timer outlives the stream.
  struct Guard {
    kj::Timer& timer;
    kj::Duration message_time_max;  // from a message's first byte to its last; pauses do not count
    kj::Own<ByteBudget::Account> account;
    kj::Function<void(capnp::MessageReader&)> inspect;  // throws to refuse the message
    kj::Function<void(capnp::MessageReader&)> sent;     // sees each before it is written
    // When the peer's messages have ended, what it should still have said, one after the other:
    // so that what it holds here goes piece by piece, and not all in one event.
    kj::Function<kj::Maybe<kj::Own<capnp::MessageReader>>()> farewell;
  };
  void guard(Guard guard);

  // Resolves when nothing more can be read: end of stream, or a message that was refused; after
  // the guard's farewell.
  kj::Promise<void> onReadEnd() { return read_end_.addBranch(); }
  bool saysFarewell() const { return ended_; }  // or has said it

  using capnp::MessageStream::tryReadMessage;
  using capnp::MessageStream::writeMessage;
  kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> tryReadMessage(
      kj::ArrayPtr<kj::AutoCloseFd> fd_space, capnp::ReaderOptions options,
      kj::ArrayPtr<capnp::word> scratch) override;
  kj::Promise<void> writeMessage(
      kj::ArrayPtr<const int> fds,
      kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) override;
  kj::Promise<void> writeMessages(
      kj::ArrayPtr<kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>> messages) override;
  kj::Maybe<int> getSendBufferSize() override { return out_.getSendBufferSize(); }
  kj::Promise<void> end() override { return out_.end(); }

 private:
  enum class End : uint8_t { allowed, fault };
  struct Message;

  MessageStream(kj::AsyncIoStream& stream, kj::PromiseFulfillerPair<void> read_end);
  kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> readOne(capnp::ReaderOptions options);
  kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> afterEnd();
  // Makes sure that `bytes` bytes lie in the buffer; false: the stream ended before the first. At a
  // message's start it waits for the first byte as long as it takes.
  kj::Promise<bool> fill(size_t bytes, End at_end);
  kj::Promise<size_t> read(void* to, size_t bytes_min, size_t bytes_max);
  kj::Promise<kj::Own<Message>> readTable(capnp::ReaderOptions options);
  // When there is memory for it.
  kj::Promise<kj::Own<Message>> takeMemory(capnp::ReaderOptions options, kj::Array<uint32_t> sizes,
                                           size_t words);
  kj::Promise<kj::Own<capnp::MessageReader>> readBody(kj::Own<Message> message);
  bool full(size_t queued_bytes, size_t queued_bytes_max);
  void toBeSent(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments);
  void written(size_t bytes);

  kj::AsyncIoStream& stream_;
  capnp::AsyncIoMessageStream out_;
  kj::Array<kj::byte> buffer_;
  size_t begin_ = 0, end_ = 0;  // the unread part of buffer_
  kj::Maybe<kj::Function<size_t()>> queued_bytes_;
  size_t queued_bytes_max_ = 0;
  Backlog* backlog_ = nullptr;  // set with queued_bytes_
  size_t told_backlog_bytes_ = 0;
  kj::Maybe<Guard> guard_;
  kj::TimePoint message_since_ = kj::origin<kj::TimePoint>();
  kj::TimePoint last_activity_ = kj::origin<kj::TimePoint>();
  kj::Vector<kj::Own<kj::PromiseFulfiller<void>>> room_waits_;
  bool ended_ = false;              // nothing more is read
  kj::Maybe<kj::Exception> fault_;  // why
  kj::Own<kj::PromiseFulfiller<void>> read_ended_;
  kj::ForkedPromise<void> read_end_;
};

}  // namespace mayfly::edge
