// One client's connection: its byte stream, its RPC system and the objects that
// answer it.
//
// Layer: rpc. RPC thread.
#pragma once

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <mayfly/mayfly.capnp.h>

#include <optional>

#include "edge/message_stream.h"
#include "rpc/calls.h"

namespace mayfly::rpc {

class Connection {
 public:
  // With `refusal`, every call is answered by that error.
  Connection(Hub& hub, kj::Own<kj::AsyncIoStream> stream, sched::OwnerId owner, uid_t uid,
             std::optional<base::Error> refusal);
  ~Connection() noexcept(false);  // the core is told that the owner is gone

  // Resolves when the client is gone or broke the protocol; the connection is to be destroyed then.
  kj::Promise<void> onEnd(kj::Timer& timer);

 private:
  kj::Own<ConnectionState> state_;
  bool refused_;
  kj::Own<kj::AsyncIoStream> stream_;
  edge::MessageStream messages_;
  capnp::TwoPartyVatNetwork network_;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc_;
};

}  // namespace mayfly::rpc
