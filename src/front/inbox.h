// What a connection has sent and nobody has used yet.
//
// One read is under way at most. Whoever waits for bytes may give up waiting; the read goes on and
// loses nothing. The buffer begins small, grows for a head or a body and shrinks between requests;
// its growth counts against the door.
//
// Layer: front. The loop's thread. The stream and the purse are borrowed.
#pragma once

#include <kj/async-io.h>

#include <string_view>

#include "front/options.h"

namespace mayfly::front {

// The bytes that the buffers of one door may have beyond their first size.
class BufferPurse {
 public:
  explicit BufferPurse(size_t bytes_max) : left_(bytes_max) {}
  bool take(size_t bytes) {
    if (bytes > left_) return false;
    left_ -= bytes;
    return true;
  }
  void give(size_t bytes) { left_ += bytes; }

 private:
  size_t left_;
};

class Inbox {
 public:
  Inbox(kj::AsyncIoStream& stream, BufferPurse& purse);
  ~Inbox();
  KJ_DISALLOW_COPY(Inbox);

  std::string_view unread() const;
  void use(size_t bytes);  // the first unread bytes are dealt with
  // Resolves once there are unread bytes that were not there at the call. False: the peer will send
  // nothing more, or the buffer is full.
  kj::Promise<bool> more();
  bool full() const { return end_ - begin_ >= kInboxBytesMax; }
  bool ended() const { return ended_; }
  // Makes room for a head or a body. False: the door's buffers are too large already.
  bool grow();
  void shrink();

 private:
  static constexpr size_t kInboxBytesMax = 40u << 10;
  void compact();
  kj::Promise<void> read();

  kj::AsyncIoStream& stream_;
  BufferPurse& purse_;
  kj::Array<kj::byte> buffer_;
  size_t begin_ = 0, end_ = 0;  // the unread part
  bool ended_ = false;
  bool reading_ = false;
  kj::ForkedPromise<void> read_ = nullptr;
};

}  // namespace mayfly::front
