// The Cap'n Proto link to the vault, and the next one after it.
//
// Layer: front. The loop's thread.
#pragma once

#include <broker/broker.capnp.h>
#include <capnp/rpc-twoparty.h>

#include "base/fd.h"
#include "edge/asio_port.h"
#include "edge/message_stream.h"

namespace mayfly::front {

namespace schema = broker::schema;

class VaultLink {
 public:
  explicit VaultLink(edge::AsioPort& port) : port_(port) {}
  KJ_DISALLOW_COPY(VaultLink);

  // Ends the earlier link: each call on it fails.
  void connect(base::Fd socket);
  // Null: there is no vault now.
  kj::Maybe<schema::Calls::Client> calls();

 private:
  struct Wire {
    Wire(edge::AsioPort& port, base::Fd socket);
    kj::Own<kj::AsyncIoStream> stream;
    edge::MessageStream messages;
    capnp::TwoPartyVatNetwork network;
    capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc;
    schema::Calls::Client calls;
    bool lost = false;
    kj::Promise<void> watch;
  };
  edge::AsioPort& port_;
  kj::Maybe<kj::Own<Wire>> wire_;
};

}  // namespace mayfly::front
