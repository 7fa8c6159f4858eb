// The Cap'n Proto link to the vault, and the next one after it.
//
// Layer: front. The loop's thread.
#pragma once

#include <broker/broker.capnp.h>
#include <capnp/rpc-twoparty.h>

#include <optional>
#include <unordered_set>

#include "base/fd.h"
#include "edge/asio_port.h"
#include "edge/gathering_stream.h"
#include "edge/message_stream.h"

namespace mayfly::front {

namespace schema = broker::schema;

// Each call that has returned owes the vault a `Finish`: it may forget what it answered. That wakes
// nobody; it goes with the next call. A call that is given up is finished at once.
class FinishLater final : public capnp::MessageStream {
 public:
  FinishLater(capnp::MessageStream& messages, edge::GatheringStream& bytes)
      : messages_(messages), bytes_(bytes) {}

  kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> tryReadMessage(
      kj::ArrayPtr<kj::AutoCloseFd> fd_space, capnp::ReaderOptions options,
      kj::ArrayPtr<capnp::word> scratch) override;
  kj::Promise<void> writeMessage(
      kj::ArrayPtr<const int> fds,
      kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) override;
  kj::Promise<void> writeMessages(
      kj::ArrayPtr<kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>> messages) override {
    return messages_.writeMessages(messages);
  }
  kj::Maybe<int> getSendBufferSize() override { return messages_.getSendBufferSize(); }
  kj::Promise<void> end() override { return messages_.end(); }

 private:
  capnp::MessageStream& messages_;
  edge::GatheringStream& bytes_;
  std::unordered_set<uint32_t> returned_;  // calls that owe it
};

class VaultLink {
 public:
  explicit VaultLink(edge::AsioPort& port) : port_(port), lost_since_(port.timer().now()) {}
  KJ_DISALLOW_COPY(VaultLink);

  // Ends the earlier link: each call on it fails.
  void connect(base::Fd socket);
  // Null: there is no vault now.
  kj::Maybe<schema::Calls::Client> calls();
  // Since when there is none; null: there is one.
  std::optional<kj::TimePoint> lostSince() const { return lost_since_; }

 private:
  struct Wire {
    Wire(edge::AsioPort& port, base::Fd socket, std::optional<kj::TimePoint>& lost_since);
    kj::Own<edge::GatheringStream> stream;
    edge::MessageStream messages;
    FinishLater finishes;
    capnp::TwoPartyVatNetwork network;
    capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc;
    schema::Calls::Client calls;
    kj::Promise<void> watch;
  };
  edge::AsioPort& port_;
  std::optional<kj::TimePoint> lost_since_;
  kj::Maybe<kj::Own<Wire>> wire_;
};

}  // namespace mayfly::front
