#include "front/vault_link.h"

#include "edge/asio_stream.h"
#include "edge/gathering_stream.h"

namespace mayfly::front {

namespace {

capnp::Capability::Client bootstrap(capnp::RpcSystem<capnp::rpc::twoparty::VatId>& rpc) {
  capnp::MallocMessageBuilder message(4);
  auto vat = message.getRoot<capnp::rpc::twoparty::VatId>();
  vat.setSide(capnp::rpc::twoparty::Side::SERVER);
  return rpc.bootstrap(vat);
}

}  // namespace

VaultLink::Wire::Wire(edge::AsioPort& port, base::Fd socket,
                      std::optional<kj::TimePoint>& lost_since)
    : stream(edge::gatheringStream(port, edge::asioStream(port, std::move(socket)))),
      messages(*stream),
      network(messages, capnp::rpc::twoparty::Side::CLIENT, edge::readerOptions()),
      rpc(capnp::makeRpcClient(network)),
      calls(bootstrap(rpc).castAs<schema::Calls>()),
      watch(network.onDisconnect()
                .then([&port, &lost_since] { lost_since = port.timer().now(); })
                .eagerlyEvaluate(nullptr)) {}

void VaultLink::connect(base::Fd socket) {
  wire_ = nullptr;
  lost_since_.reset();
  wire_ = kj::heap<Wire>(port_, std::move(socket), lost_since_);
}

kj::Maybe<schema::Calls::Client> VaultLink::calls() {
  KJ_IF_MAYBE (wire, wire_) {
    if (!lost_since_) return (*wire)->calls;
  }
  return nullptr;
}

}  // namespace mayfly::front
