#include "front/packet_link.h"

namespace mayfly::front {

namespace {

constexpr int kMessagesPerTurnMax = 16;

}  // namespace

PacketLink::PacketLink(boost::asio::io_context& host, base::Fd socket, OnMessage on_message,
                       OnEnd on_end)
    : socket_(host, socket.get()),
      on_message_(std::move(on_message)),
      on_end_(std::move(on_end)),
      self_(std::make_shared<PacketLink*>(this)) {
  socket.release();
  socket_.non_blocking(true);
  awaitMessages();
}

void PacketLink::awaitMessages() {
  socket_.async_wait(Descriptor::wait_read, [self = self_](boost::system::error_code failed) {
    if (!failed && *self != nullptr) (*self)->receiveSome();
  });
}

void PacketLink::receiveSome() {
  for (int i = 0; i < kMessagesPerTurnMax && !ended_; ++i) {
    std::byte buffer[kMessageBytesMax];
    auto got = base::receiveMessage(base::FdView(socket_.native_handle()), buffer);
    if (!got && got.error().code == base::Code::unavailable) break;
    if (!got) return end(got.error().message);
    if (got->bytes == 0) return end("the peer has closed it");
    auto taken = on_message_(std::span<const std::byte>(buffer, got->bytes), *got);
    if (!taken) return end(taken.error().message);
  }
  if (!ended_) awaitMessages();
}

void PacketLink::send(std::span<const std::byte> message) {
  if (ended_) return;
  if (unsent_.size() >= kUnsentMax) return end("the peer reads no messages");
  unsent_.emplace_back(reinterpret_cast<const char*>(message.data()), message.size());
  if (!flushing_) flush();
}

void PacketLink::flush() {
  flushing_ = false;
  while (!unsent_.empty()) {
    auto sent = base::sendMessage(base::FdView(socket_.native_handle()),
                                  std::as_bytes(std::span(unsent_.front())), {});
    if (!sent && sent.error().code == base::Code::unavailable) {
      flushing_ = true;
      socket_.async_wait(Descriptor::wait_write, [self = self_](boost::system::error_code failed) {
        if (!failed && *self != nullptr) (*self)->flush();
      });
      return;
    }
    if (!sent) return end(sent.error().message);
    unsent_.pop_front();
  }
}

void PacketLink::end(std::string why) {
  if (ended_) return;
  ended_ = true;
  on_end_(std::move(why));
}

}  // namespace mayfly::front
