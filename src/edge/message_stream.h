// Cap'n Proto messages over a byte stream, with bounds: what both ends of the
// RPC read and write through.
//
// A message's size is checked on its segment table before anything is allocated
// for it. Small messages are read many at a time, so a call costs one read. While
// the peer does not read what was sent to it, nothing more is read from it.
//
// Layer: edge. Lives on one KJ thread; the byte stream is borrowed.
#pragma once

#include <capnp/serialize-async.h>
#include <kj/async-io.h>
#include <kj/function.h>
#include <kj/vector.h>

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

class MessageStream final : public capnp::MessageStream {
 public:
  explicit MessageStream(kj::AsyncIoStream& stream)
      : MessageStream(stream, kj::newPromiseAndFulfiller<void>()) {}

  // Reads no further message while `queued_bytes()` (what waits to be sent) is above the maximum.
  void pauseWhile(kj::Function<size_t()> queued_bytes, size_t queued_bytes_max);
  // Resolves when it is below.
  kj::Promise<void> whenRoom();

  // Resolves when nothing more can be read: end of stream, or a message that was refused.
  kj::Promise<void> onReadEnd() { return read_end_.addBranch(); }

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
  // Makes sure that `bytes` bytes lie in the buffer; false: the stream ended before the first.
  kj::Promise<bool> fill(size_t bytes, End at_end);
  kj::Promise<kj::Own<Message>> readTable(capnp::ReaderOptions options);
  kj::Promise<kj::Own<capnp::MessageReader>> readBody(kj::Own<Message> message);
  void written(size_t bytes);

  kj::AsyncIoStream& stream_;
  capnp::AsyncIoMessageStream out_;
  kj::Array<kj::byte> buffer_;
  size_t begin_ = 0, end_ = 0;  // the unread part of buffer_
  kj::Maybe<kj::Function<size_t()>> queued_bytes_;
  size_t queued_bytes_max_ = 0;
  kj::Vector<kj::Own<kj::PromiseFulfiller<void>>> room_waits_;
  kj::Own<kj::PromiseFulfiller<void>> read_ended_;
  kj::ForkedPromise<void> read_end_;
};

}  // namespace mayfly::edge
