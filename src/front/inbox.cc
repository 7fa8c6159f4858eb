#include "front/inbox.h"

#include <string.h>

namespace mayfly::front {

Inbox::Inbox(kj::AsyncIoStream& stream, BufferPurse& purse)
    : stream_(stream), purse_(purse), buffer_(kj::heapArray<kj::byte>(kFirstBufferBytes)) {}

Inbox::~Inbox() { purse_.give(buffer_.size() - kFirstBufferBytes); }

std::string_view Inbox::unread() const {
  return {reinterpret_cast<const char*>(buffer_.begin()) + begin_, end_ - begin_};
}

void Inbox::use(size_t bytes) {
  begin_ += bytes;
  if (begin_ == end_ && !reading_) begin_ = end_ = 0;
}

// Not during a read, which writes to buffer_[end_...].
void Inbox::compact() {
  if (begin_ == 0) return;
  memmove(buffer_.begin(), buffer_.begin() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
}

bool Inbox::grow() {
  if (buffer_.size() == kInboxBytesMax || reading_) return true;
  if (!purse_.take(kInboxBytesMax - kFirstBufferBytes)) return false;
  auto larger = kj::heapArray<kj::byte>(kInboxBytesMax);
  memcpy(larger.begin(), buffer_.begin() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  buffer_ = kj::mv(larger);
  return true;
}

void Inbox::shrink() {
  if (buffer_.size() == kFirstBufferBytes || reading_ || end_ - begin_ > kFirstBufferBytes / 2)
    return;
  auto smaller = kj::heapArray<kj::byte>(kFirstBufferBytes);
  memcpy(smaller.begin(), buffer_.begin() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  purse_.give(buffer_.size() - kFirstBufferBytes);
  buffer_ = kj::mv(smaller);
}

kj::Promise<void> Inbox::read() {
  return stream_.tryRead(buffer_.begin() + end_, 1, buffer_.size() - end_).then([this](size_t got) {
    reading_ = false;
    end_ += got;
    ended_ = got == 0;
  });
}

kj::Promise<bool> Inbox::more() {
  if (ended_) return false;
  if (!reading_) {
    compact();
    if (end_ == buffer_.size()) return false;
    reading_ = true;
    read_ = read().fork();
  }
  return read_.addBranch().then([this] { return !ended_; });
}

}  // namespace mayfly::front
