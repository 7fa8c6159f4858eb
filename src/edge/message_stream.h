// Bounded Cap'n Proto messages over a byte stream, for both ends of the RPC.
//
// A message's size is checked on its segment table before memory is allocated for
// it. Many small messages are read at a time, so a call costs one read. While the
// peer leaves too many sent bytes unread, nothing more is read from it. A guarded
// stream also takes its messages' memory from a budget, and refuses a message that
// does not arrive in time.
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

// The traversal limit is larger than a message, because a getter may be called twice. There is a
// limit because many pointers may lead to one object.
inline capnp::ReaderOptions readerOptions() {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = 3 * kMessageBytesMax / sizeof(capnp::word);
  options.nestingLimit = kNestingMax;
  return options;
}

// The objects of a call, which a message costs beside its own bytes.
inline constexpr uint64_t kMessageOverheadBytes = 1'024;

class MessageStream final : public capnp::MessageStream {
 public:
  explicit MessageStream(kj::AsyncIoStream& stream)
      : MessageStream(stream, kj::newPromiseAndFulfiller<void>()) {}
  // The time of the last message, read or written; before the first one, the time of guard().
  kj::TimePoint lastActivity() const { return last_activity_; }

  // Reads no further message while more bytes wait to be sent than the bounds allow.
  struct Backlog {
    kj::Function<size_t()> queued_bytes;  // bytes that wait to be sent
    size_t bytes_max;                     // of this stream
    size_t own_bytes;                     // up to here, other streams do not hold this one up
    kj::Own<Purse> purse;
  };
  void pauseWhile(Backlog backlog);
  // Resolves at once if the backlog is within its bounds, else when half of `bytes_max` is free.
  kj::Promise<void> whenRoom();

  // For a peer that is not trusted. The timer outlives the stream.
  struct Guard {
    kj::Timer& timer;
    kj::Duration message_time_max;  // from a message's first byte to its last; pauses do not count
    kj::Own<ByteBudget::Account> account;
    kj::Function<void(capnp::MessageReader&, size_t bytes)> inspect;  // throws to refuse a message
    kj::Function<void(capnp::MessageReader&, size_t bytes)> sent;     // runs before each is written
    // Called after the peer's last message until it returns null: makes the messages that the peer
    // should still have sent. So the peer's objects are freed one by one, and not all in one event.
    kj::Function<kj::Maybe<kj::Own<capnp::MessageReader>>()> farewell;
  };
  void guard(Guard guard);

  // Resolves after the end of the stream, or a refused message, and the guard's farewell.
  kj::Promise<void> onReadEnd() { return read_end_.addBranch(); }
  bool saysFarewell() const { return ended_; }  // the farewell has begun, or is over

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
  // Reads until the buffer holds `bytes` unread bytes. False: the stream ended before the first.
  // The wait for a message's first byte has no deadline.
  kj::Promise<bool> fill(size_t bytes, End at_end);
  kj::Promise<size_t> read(void* to, size_t bytes_min, size_t bytes_max);
  struct Table {
    kj::Array<uint32_t> sizes;  // of the segments, in words
    uint64_t words;             // of all
  };
  size_t tableBytes() const;
  Table takeTable();
  kj::Maybe<kj::Own<capnp::MessageReader>> takeBuffered(capnp::ReaderOptions options);
  kj::Promise<kj::Own<Message>> readTable(capnp::ReaderOptions options);
  // Resolves when the budget has memory for the message.
  kj::Promise<kj::Own<Message>> takeMemory(capnp::ReaderOptions options, kj::Array<uint32_t> sizes,
                                           size_t words);
  kj::Promise<kj::Own<capnp::MessageReader>> readBody(kj::Own<Message> message);
  static bool full(Backlog& backlog, size_t queued_bytes, size_t bytes_max);
  void toBeSent(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments);
  void written(size_t bytes);

  kj::AsyncIoStream& stream_;
  capnp::AsyncIoMessageStream out_;
  kj::Array<kj::byte> buffer_;
  size_t begin_ = 0, end_ = 0;  // the unread part of buffer_
  kj::Maybe<Backlog> backlog_;
  kj::Maybe<Guard> guard_;
  kj::TimePoint message_since_ = kj::origin<kj::TimePoint>();
  kj::TimePoint last_activity_ = kj::origin<kj::TimePoint>();
  kj::Vector<kj::Own<kj::PromiseFulfiller<void>>> room_waits_;
  bool ended_ = false;              // nothing more is read
  kj::Maybe<kj::Exception> fault_;  // why reading ended; null: at the end of the stream
  kj::Own<kj::PromiseFulfiller<void>> read_ended_;
  kj::ForkedPromise<void> read_end_;
};

}  // namespace mayfly::edge
