#include "edge/asio_stream.h"

#include <errno.h>
#include <kj/debug.h>
#include <kj/refcount.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>

#include <boost/asio/posix/stream_descriptor.hpp>

namespace mayfly::edge {

namespace {

using boost::asio::posix::descriptor_base;
using Bytes = kj::ArrayPtr<const kj::byte>;

constexpr size_t kPiecesPerCallMax = 64;

class AsioStream final : public kj::AsyncIoStream {
 public:
  AsioStream(AsioPort& port, base::Fd socket) : socket_(port.host()), port_(port.self()) {
    boost::system::error_code failed;
    socket_.assign(socket.get(), failed);
    if (!failed) {
      socket.release();
      socket_.non_blocking(true, failed);
    }
    if (failed)
      kj::throwFatalException(
          KJ_EXCEPTION(FAILED, "a socket cannot be served", failed.message().c_str()));
  }
  ~AsioStream() noexcept(false) {
    readable_->told = nullptr;
    writable_->told = nullptr;
    hung_up_->told = nullptr;
  }
  KJ_DISALLOW_COPY(AsioStream);

  kj::Promise<size_t> tryRead(void* to, size_t bytes_min, size_t bytes_max) override {
    return kj::evalNow([&]() -> kj::Promise<size_t> {
      return readMore(static_cast<kj::byte*>(to), bytes_min, bytes_max, 0);
    });
  }
  kj::Promise<void> write(const void* from, size_t bytes) override {
    return kj::evalNow([&]() -> kj::Promise<void> {
      return writeMore(kj::arrayPtr(static_cast<const kj::byte*>(from), bytes), nullptr);
    });
  }
  kj::Promise<void> write(kj::ArrayPtr<const Bytes> pieces) override {
    return kj::evalNow([&]() -> kj::Promise<void> { return writeMore(nullptr, pieces); });
  }
  kj::Promise<void> whenWriteDisconnected() override {
    KJ_IF_MAYBE (known, hang_up_) return known->addBranch();
    auto hang_up = untilHungUp().fork();
    auto branch = hang_up.addBranch();
    hang_up_ = kj::mv(hang_up);
    return branch;
  }
  void shutdownWrite() override { ::shutdown(socket_.native_handle(), SHUT_WR); }
  void abortRead() override { ::shutdown(socket_.native_handle(), SHUT_RD); }
  void getsockopt(int level, int option, void* value, kj::uint* length) override {
    socklen_t bytes = *length;
    KJ_SYSCALL(::getsockopt(socket_.native_handle(), level, option, value, &bytes));
    *length = bytes;
  }
  kj::Maybe<int> getFd() const override { return const_cast<Descriptor&>(socket_).native_handle(); }

 private:
  using Descriptor = boost::asio::posix::stream_descriptor;
  // A wait for the host's report. Shared with the host's handler, which may outlive the stream.
  struct Readiness : kj::Refcounted {
    kj::Own<kj::PromiseFulfiller<void>> told;  // null: nobody waits
    bool asked = false;                        // the host has the handler
  };

  kj::Promise<void> ready(descriptor_base::wait_type what, Readiness& side) {
    auto paf = kj::newPromiseAndFulfiller<void>();
    side.told = kj::mv(paf.fulfiller);
    if (!side.asked) {
      side.asked = true;
      socket_.async_wait(
          what, [port = port_, side = kj::addRef(side)](boost::system::error_code) mutable {
            side->asked = false;
            // An error shows at the next use of the socket.
            auto told = kj::mv(side->told);
            if (told.get() != nullptr && *port != nullptr)
              (*port)->inTurn([&told] { told->fulfill(); });
          });
    }
    return kj::mv(paf.promise);
  }

  // Checks each report with poll(), because the host may report an event of an earlier socket: it
  // reuses its record of a closed socket, with the pending events, for the next socket. Out-of-band
  // data counts as a hang-up: Mayfly's clients send none, and it would wake us for ever.
  kj::Promise<void> untilHungUp() {
    return ready(descriptor_base::wait_error, *hung_up_).then([this]() -> kj::Promise<void> {
      pollfd socket{socket_.native_handle(), POLLPRI, 0};
      if (::poll(&socket, 1, 0) == 0) return untilHungUp();
      return kj::READY_NOW;
    });
  }

  // `got` bytes are read already; `bytes_min` and `bytes_max` count the missing ones.
  kj::Promise<size_t> readMore(kj::byte* to, size_t bytes_min, size_t bytes_max, size_t got) {
    // Right after a read that emptied the socket, another would mostly find nothing.
    if (!drained_) {
      const size_t room = std::min(bytes_max, kSocketBytesPerCallMax);
      ssize_t n;
      do n = ::recv(socket_.native_handle(), to, room, 0);
      while (n < 0 && errno == EINTR);
      if (n < 0 && errno != EAGAIN) KJ_FAIL_SYSCALL("recv", errno);
      if (n == 0) return got;
      const size_t taken = n > 0 ? static_cast<size_t>(n) : 0;
      drained_ = taken < room;
      got += taken;
      if (taken >= bytes_min) return got;
      to += taken;
      bytes_min -= taken;
      bytes_max -= taken;
    }
    return ready(descriptor_base::wait_read, *readable_)
        .then([this, to, bytes_min, bytes_max, got]() -> kj::Promise<size_t> {
          drained_ = false;
          return readMore(to, bytes_min, bytes_max, got);
        });
  }

  // Writes `first`, the unwritten part of a piece, and then the pieces of `rest`.
  kj::Promise<void> writeMore(Bytes first, kj::ArrayPtr<const Bytes> rest) {
    iovec parts[kPiecesPerCallMax];
    size_t count = 0, bytes = 0;
    auto add = [&](Bytes piece) {
      size_t take = std::min(piece.size(), kSocketBytesPerCallMax - bytes);
      if (take > 0) parts[count++] = {const_cast<kj::byte*>(piece.begin()), take};
      bytes += take;
    };
    add(first);
    for (size_t i = 0; i < rest.size() && count < kPiecesPerCallMax; ++i) add(rest[i]);
    if (bytes == 0) return kj::READY_NOW;
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = count;
    ssize_t n;
    do n = ::sendmsg(socket_.native_handle(), &message, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN) KJ_FAIL_SYSCALL("sendmsg", errno);
    size_t sent = n > 0 ? static_cast<size_t>(n) : 0;
    while (sent > 0 || first.size() == 0) {
      size_t taken = std::min(sent, first.size());
      first = first.slice(taken, first.size());
      sent -= taken;
      if (first.size() > 0) continue;
      if (rest.size() == 0) return kj::READY_NOW;
      first = rest.front();
      rest = rest.slice(1, rest.size());
    }
    return ready(descriptor_base::wait_write, *writable_).then([this, first, rest] {
      return writeMore(first, rest);
    });
  }

  Descriptor socket_;
  AsioPort::Self port_;
  bool drained_ = false;  // the last read emptied the socket
  kj::Own<Readiness> readable_ = kj::refcounted<Readiness>();
  kj::Own<Readiness> writable_ = kj::refcounted<Readiness>();
  kj::Own<Readiness> hung_up_ = kj::refcounted<Readiness>();
  kj::Maybe<kj::ForkedPromise<void>> hang_up_;
};

}  // namespace

kj::Own<kj::AsyncIoStream> asioStream(AsioPort& port, base::Fd socket) {
  return kj::heap<AsioStream>(port, kj::mv(socket));
}

}  // namespace mayfly::edge
