// One client's connection: its byte stream, its RPC system and the objects that
// answer it.
//
// Layer: rpc. Core thread.
#pragma once

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <mayfly/mayfly.capnp.h>

#include <optional>

#include "edge/message_stream.h"
#include "rpc/hub.h"
#include "rpc/peer_guard.h"

namespace mayfly::rpc {

class Connection {
 public:
  // With `refusal`, every call is answered by that error.
  Connection(Hub& hub, kj::Own<kj::AsyncIoStream> stream, uint32_t uid,
             std::optional<base::Error> refusal);
  ~Connection() noexcept(false);  // the core is told that the owner is gone

  // Resolves when the client is gone, broke the protocol or was idle for too long; the connection
  // is to be destroyed then.
  kj::Promise<void> onEnd();
  sched::OwnerId id() const { return state_->id; }

 private:
  kj::Promise<void> onIdle();
  size_t unsentBytes();

  kj::Own<ConnectionState> state_;
  bool refused_;
  kj::Own<kj::AsyncIoStream> stream_;
  PeerGuard peer_;
  kj::Own<edge::ByteBudget::Account> memory_;
  edge::MessageStream messages_;
  capnp::TwoPartyVatNetwork network_;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc_;
};

}  // namespace mayfly::rpc
