#include "edge/message_stream.h"

#include <kj/debug.h>
#include <string.h>

namespace mayfly::edge {

namespace {

constexpr size_t kBufferBytes = 32u << 10;  // holds any segment table

uint32_t word32(const kj::byte* at) {
  return static_cast<uint32_t>(at[0]) | static_cast<uint32_t>(at[1]) << 8 |
         static_cast<uint32_t>(at[2]) << 16 | static_cast<uint32_t>(at[3]) << 24;
}

size_t sizeOf(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) {
  size_t words = 0;
  for (auto& segment : segments) words += segment.size();
  return words * sizeof(capnp::word);
}

}  // namespace

// How often a message may be traversed (to take its size, to hash it, to copy it), and how many
// words beyond that.
constexpr uint64_t kTraversalsMax = 4;
constexpr uint64_t kTraversalWordsMin = (64u << 10) / sizeof(capnp::word);

// Bounds the work on a message by its size: a small message whose pointers all lead to one object
// must not cost megabytes of traversal.
capnp::ReaderOptions limited(capnp::ReaderOptions options, size_t words) {
  options.traversalLimitInWords =
      kj::min(options.traversalLimitInWords, kTraversalWordsMin + kTraversalsMax * words);
  return options;
}

// A message with its own memory.
struct MessageStream::Message final : capnp::MessageReader {
  Message(capnp::ReaderOptions reader_options, kj::Array<uint32_t> sizes_words, size_t words,
          ByteBudget::Hold memory)
      : MessageReader(limited(reader_options, words)),
        hold(kj::mv(memory)),
        sizes(kj::mv(sizes_words)),
        space(kj::heapArray<capnp::word>(words)) {}

  kj::ArrayPtr<const capnp::word> getSegment(kj::uint id) override {
    if (id >= sizes.size()) return nullptr;
    size_t offset = 0;
    for (kj::uint i = 0; i < id; ++i) offset += sizes[i];
    return space.slice(offset, offset + sizes[id]);
  }

  ByteBudget::Hold hold;
  kj::Array<uint32_t> sizes;  // of each segment, in words
  kj::Array<capnp::word> space;
};

MessageStream::MessageStream(kj::AsyncIoStream& stream, kj::PromiseFulfillerPair<void> read_end)
    : stream_(stream),
      out_(stream),
      buffer_(kj::heapArray<kj::byte>(kBufferBytes)),
      read_ended_(kj::mv(read_end.fulfiller)),
      read_end_(read_end.promise.fork()) {}

void MessageStream::pauseWhile(Backlog backlog) { backlog_ = kj::mv(backlog); }

void MessageStream::guard(Guard guard) {
  last_activity_ = guard.timer.now();
  guard_ = kj::mv(guard);
}

bool MessageStream::full(Backlog& backlog, size_t queued_bytes, size_t bytes_max) {
  backlog.purse->settle(queued_bytes);
  return queued_bytes > bytes_max ||
         (queued_bytes > backlog.own_bytes && backlog.purse->roomFor(1) != Purse::Room::yes);
}

kj::Promise<void> MessageStream::whenRoom() {
  KJ_IF_MAYBE (backlog, backlog_) {
    if (full(*backlog, backlog->queued_bytes(), backlog->bytes_max)) {
      auto paf = kj::newPromiseAndFulfiller<void>();
      room_waits_.add(kj::mv(paf.fulfiller));
      return kj::mv(paf.promise);
    }
  }
  return kj::READY_NOW;
}

void MessageStream::written(size_t bytes) {
  KJ_IF_MAYBE (guard, guard_) {
    last_activity_ = guard->timer.now();
  }
  KJ_IF_MAYBE (backlog, backlog_) {
    // Cap'n Proto 0.9 still counts the bytes just written, 1.x does not.
    size_t now = backlog->queued_bytes();
    bool still_full = full(*backlog, now - kj::min(now, bytes), backlog->bytes_max / 2);
    if (room_waits_.empty() || still_full) return;
  }
  auto waits = kj::mv(room_waits_);
  for (auto& wait : waits) wait->fulfill();
}

kj::Promise<size_t> MessageStream::read(void* to, size_t bytes_min, size_t bytes_max) {
  auto got = stream_.tryRead(to, bytes_min, bytes_max);
  KJ_IF_MAYBE (guard, guard_) {
    return got.exclusiveJoin(
        guard->timer.atTime(message_since_ + guard->message_time_max).then([]() -> size_t {
          kj::throwFatalException(
              KJ_EXCEPTION(FAILED, "message refused: its end has not come in time"));
        }));
  }
  return got;
}

kj::Promise<bool> MessageStream::fill(size_t bytes, End at_end) {
  if (end_ - begin_ >= bytes) return true;
  if (begin_ > 0) {
    memmove(buffer_.begin(), buffer_.begin() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  if (at_end == End::allowed && end_ == 0) {
    return stream_.tryRead(buffer_.begin(), 1, buffer_.size())
        .then([this, bytes](size_t got) -> kj::Promise<bool> {
          if (got == 0) return false;
          end_ = got;
          KJ_IF_MAYBE (guard, guard_) {
            message_since_ = guard->timer.now();
          }
          return fill(bytes, End::fault);
        });
  }
  size_t missing = bytes - end_;
  return read(buffer_.begin() + end_, missing, buffer_.size() - end_)
      .then([this, missing](size_t got) -> bool {
        if (got < missing)
          kj::throwFatalException(
              KJ_EXCEPTION(DISCONNECTED, "the stream ended in the middle of a message"));
        end_ += got;
        return true;
      });
}

// Of the table that begins the unread part, which has 8 bytes at least.
size_t MessageStream::tableBytes() const {
  uint64_t count = static_cast<uint64_t>(word32(buffer_.begin() + begin_)) + 1;
  KJ_REQUIRE(count <= kSegmentsMax, "message refused: it has more segments than allowed", count,
             kSegmentsMax);
  return ((count + 2) / 2) * 8;  // count and sizes, padded to words
}

// The buffer holds all of it.
MessageStream::Table MessageStream::takeTable() {
  const size_t table_bytes = tableBytes();
  Table table{kj::heapArray<uint32_t>(word32(buffer_.begin() + begin_) + 1), 0};
  for (size_t i = 0; i < table.sizes.size(); ++i) {
    table.sizes[i] = word32(buffer_.begin() + begin_ + 4 + 4 * i);
    table.words += table.sizes[i];
  }
  uint64_t bytes = table.words * sizeof(capnp::word);
  KJ_REQUIRE(bytes <= kMessageBytesMax, "message refused: it is larger than allowed", bytes,
             kMessageBytesMax);
  begin_ += table_bytes;
  return table;
}

kj::Promise<kj::Own<MessageStream::Message>> MessageStream::readTable(
    capnp::ReaderOptions options) {
  return fill(tableBytes(), End::fault)
      .then([this, options](bool) -> kj::Promise<kj::Own<Message>> {
        Table table = takeTable();
        return takeMemory(options, kj::mv(table.sizes), table.words);
      });
}

// A message that waits for nothing: all of it is in the buffer, and no guard counts its memory.
kj::Maybe<kj::Own<capnp::MessageReader>> MessageStream::takeBuffered(capnp::ReaderOptions options) {
  if (guard_ != nullptr || end_ - begin_ < tableBytes()) return nullptr;
  const size_t begin = begin_;
  Table table = takeTable();
  const size_t bytes = table.words * sizeof(capnp::word);
  if (end_ - begin_ < bytes) {
    begin_ = begin;
    return nullptr;
  }
  auto message = kj::heap<Message>(options, kj::mv(table.sizes), table.words, ByteBudget::Hold());
  if (bytes > 0) memcpy(message->space.begin(), buffer_.begin() + begin_, bytes);
  begin_ += bytes;
  return kj::Own<capnp::MessageReader>(kj::mv(message));
}

kj::Promise<kj::Own<MessageStream::Message>> MessageStream::takeMemory(capnp::ReaderOptions options,
                                                                       kj::Array<uint32_t> sizes,
                                                                       size_t words) {
  KJ_IF_MAYBE (guard, guard_) {
    uint64_t bytes = words * sizeof(capnp::word) + kMessageOverheadBytes;
    KJ_IF_MAYBE (hold, guard->account->tryTake(bytes)) {
      return kj::heap<Message>(options, kj::mv(sizes), words, kj::mv(*hold));
    }
    kj::TimePoint paused = guard->timer.now();
    return guard->account->take(bytes).then([this, guard, options, sizes = kj::mv(sizes), words,
                                             paused](ByteBudget::Hold hold) mutable {
      message_since_ += guard->timer.now() - paused;
      return kj::heap<Message>(options, kj::mv(sizes), words, kj::mv(hold));
    });
  }
  return kj::heap<Message>(options, kj::mv(sizes), words, ByteBudget::Hold());
}

kj::Promise<kj::Own<capnp::MessageReader>> MessageStream::readBody(kj::Own<Message> message) {
  auto bytes = message->space.asBytes();
  size_t buffered = kj::min(bytes.size(), end_ - begin_);
  if (buffered > 0) memcpy(bytes.begin(), buffer_.begin() + begin_, buffered);
  begin_ += buffered;
  size_t rest = bytes.size() - buffered;
  if (rest == 0) return kj::Own<capnp::MessageReader>(kj::mv(message));
  return read(bytes.begin() + buffered, rest, rest)
      .then([rest, message = kj::mv(message)](size_t got) mutable -> kj::Own<capnp::MessageReader> {
        if (got < rest)
          kj::throwFatalException(
              KJ_EXCEPTION(DISCONNECTED, "the stream ended in the middle of a message"));
        return kj::mv(message);
      });
}

kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> MessageStream::tryReadMessage(
    kj::ArrayPtr<kj::AutoCloseFd> fd_space, capnp::ReaderOptions options,
    kj::ArrayPtr<capnp::word> scratch) {
  if (ended_) return afterEnd();
  KJ_IF_MAYBE (backlog, backlog_) {
    if (full(*backlog, backlog->queued_bytes(), backlog->bytes_max))
      return whenRoom().then([this, fd_space, options, scratch] {
        return tryReadMessage(fd_space, options, scratch);
      });
  }
  using Next = kj::Maybe<capnp::MessageReaderAndFds>;
  return readOne(options).then(
      [this](Next message) -> kj::Promise<Next> {
        if (message == nullptr) return afterEnd();
        return kj::mv(message);
      },
      [this](kj::Exception&& e) -> kj::Promise<Next> {
        fault_ = kj::mv(e);
        return afterEnd();
      });
}

kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> MessageStream::afterEnd() {
  using Next = kj::Maybe<capnp::MessageReaderAndFds>;
  ended_ = true;
  KJ_IF_MAYBE (guard, guard_) {
    KJ_IF_MAYBE (words, guard->farewell()) {
      return Next(capnp::MessageReaderAndFds{kj::mv(*words), nullptr});
    }
  }
  read_ended_->fulfill();
  KJ_IF_MAYBE (fault, fault_) return kj::cp(*fault);
  return Next(nullptr);
}

kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> MessageStream::readOne(
    capnp::ReaderOptions options) {
  KJ_IF_MAYBE (guard, guard_) {
    message_since_ = guard->timer.now();
  }
  return fill(8, End::allowed)
      .then([this, options](bool more) -> kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> {
        if (!more) return kj::Maybe<capnp::MessageReaderAndFds>(nullptr);
        KJ_IF_MAYBE (reader, takeBuffered(options))
          return kj::Maybe<capnp::MessageReaderAndFds>(
              capnp::MessageReaderAndFds{kj::mv(*reader), nullptr});
        return readTable(options)
            .then([this](kj::Own<Message> message) { return readBody(kj::mv(message)); })
            .then([this](kj::Own<capnp::MessageReader> reader) {
              KJ_IF_MAYBE (guard, guard_) {
                last_activity_ = guard->timer.now();
                guard->inspect(*reader, static_cast<Message&>(*reader).space.asBytes().size());
              }
              return kj::Maybe<capnp::MessageReaderAndFds>(
                  capnp::MessageReaderAndFds{kj::mv(reader), nullptr});
            });
      });
}

void MessageStream::toBeSent(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) {
  KJ_IF_MAYBE (guard, guard_) {
    capnp::SegmentArrayMessageReader message(segments);
    guard->sent(message, sizeOf(segments));
  }
}

kj::Promise<void> MessageStream::writeMessage(
    kj::ArrayPtr<const int> fds, kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) {
  toBeSent(segments);
  return out_.writeMessage(fds, segments).then([this, bytes = sizeOf(segments)] {
    written(bytes);
  });
}

kj::Promise<void> MessageStream::writeMessages(
    kj::ArrayPtr<kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>> messages) {
  size_t bytes = 0;
  for (auto& message : messages) {
    toBeSent(message);
    bytes += sizeOf(message);
  }
  return out_.writeMessages(messages).then([this, bytes] { written(bytes); });
}

}  // namespace mayfly::edge
