#include "front/vault_link.h"

#include <capnp/rpc.capnp.h>

#include "edge/asio_stream.h"

namespace mayfly::front {

namespace {

capnp::Capability::Client bootstrap(capnp::RpcSystem<capnp::rpc::twoparty::VatId>& rpc) {
  capnp::MallocMessageBuilder message(4);
  auto vat = message.getRoot<capnp::rpc::twoparty::VatId>();
  vat.setSide(capnp::rpc::twoparty::Side::SERVER);
  return rpc.bootstrap(vat);
}

}  // namespace

kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> FinishLater::tryReadMessage(
    kj::ArrayPtr<kj::AutoCloseFd> fd_space, capnp::ReaderOptions options,
    kj::ArrayPtr<capnp::word> scratch) {
  return messages_.tryReadMessage(fd_space, options, scratch)
      .then([this](kj::Maybe<capnp::MessageReaderAndFds> read) {
        KJ_IF_MAYBE (message, read) {
          const auto what = message->reader->getRoot<capnp::rpc::Message>();
          if (what.isReturn()) returned_.insert(what.getReturn().getAnswerId());
        }
        return read;
      });
}

kj::Promise<void> FinishLater::writeMessage(
    kj::ArrayPtr<const int> fds, kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) {
  capnp::SegmentArrayMessageReader message(segments);
  const auto what = message.getRoot<capnp::rpc::Message>();
  if (what.isFinish() && returned_.erase(what.getFinish().getQuestionId()) > 0) bytes_.delayNext();
  return messages_.writeMessage(fds, segments);
}

VaultLink::Wire::Wire(edge::AsioPort& port, base::Fd socket,
                      std::optional<kj::TimePoint>& lost_since)
    : stream(edge::gatheringStream(port, edge::asioStream(port, std::move(socket)))),
      messages(*stream),
      finishes(messages, *stream),
      network(finishes, capnp::rpc::twoparty::Side::CLIENT, edge::readerOptions()),
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
