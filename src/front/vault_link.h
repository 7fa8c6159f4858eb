// The Cap'n Proto link to the vault, and the next one after it.
//
// Layer: front. The loop's thread.
#pragma once

#include <broker/broker.capnp.h>
#include <capnp/rpc-twoparty.h>

#include <optional>

#include "base/fd.h"
#include "edge/asio_port.h"
#include "edge/message_stream.h"

namespace mayfly::front {

namespace schema = broker::schema;

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
    kj::Own<kj::AsyncIoStream> stream;
    edge::MessageStream messages;
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
