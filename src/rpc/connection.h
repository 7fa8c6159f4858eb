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
  // `admitted`: the account's share of the connections. If it is empty, every call is answered with
  // `refusal`.
  Connection(Hub& hub, kj::Own<kj::AsyncIoStream> stream, sched::Share admitted,
             std::optional<base::Error> refusal);
  ~Connection() noexcept(false);  // tells the core that the owner is gone

  // Resolves when the client is gone, broke the protocol, was idle for too long or keeps memory
  // that others wait for. The caller then destroys the connection.
  kj::Promise<void> onEnd();
  sched::OwnerId id() const { return state_->id; }
  // Whether the client has what is there for it: every output and answer is in its socket, and it
  // has let go of its tasks or asked for nothing for `quiet`.
  bool isServed(kj::Duration quiet);

 private:
  kj::Promise<void> onIdle();
  size_t unsentBytes();
  kj::Own<edge::Purse> purse(sched::Resource resource);

  sched::Share admitted_;
  kj::Own<ConnectionState> state_;
  kj::Own<kj::AsyncIoStream> stream_;
  PeerGuard peer_;
  kj::Own<edge::ByteBudget::Account> memory_;
  edge::MessageStream messages_;
  capnp::TwoPartyVatNetwork network_;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc_;
};

}  // namespace mayfly::rpc
