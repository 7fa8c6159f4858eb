// One CONNECT of a box: bytes both ways, once a whole TLS greeting for the very host has come. The
// front has read it, too; here it is read again, because a front that was taken over may say
// anything.
//
// Layer: vault. The loop's thread.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include <boost/asio/posix/stream_descriptor.hpp>

#include "broker/narrow.h"
#include "broker/sni.h"
#include "vault/flow.h"
#include "vault/hub.h"
#include "vault/run.h"
#include "vault/transfer.h"

namespace mayfly::vault {

class TunnelRun final : public Run, public TransferEvents, public FlowEvents, public UpEvents {
 public:
  static std::shared_ptr<TunnelRun> start(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line,
                                          broker::Grant grant, std::string host, uint16_t port,
                                          schema::Down::Client down);

  // Run
  void stop(const broker::Refusal& why) override;
  void look(uint64_t now_ns) override;
  // UpEvents
  broker::Decision<kj::Promise<void>> onUp(std::string_view bytes) override;
  void onUpEnd() override;
  void onUpDropped() override;
  // FlowEvents
  void onRoom() override;
  void onGone() override;
  // TransferEvents: of the connecting only
  Take onHead(int, Headers, int64_t) override { return Take::abort; }
  Take onData(std::string_view) override { return Take::abort; }
  size_t onWanted(char*, size_t) override { return Transfer::kAbort; }
  bool onRewind() override { return false; }
  void onEnd(Failure failure, const std::string& why) override;

 private:
  TunnelRun(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line, broker::Grant grant,
            std::string host, uint16_t port, schema::Down::Client down);
  const config::HttpRules& rules() const { return ask_.egress()->rules; }
  std::shared_ptr<TunnelRun> self() {
    return std::static_pointer_cast<TunnelRun>(shared_from_this());
  }
  broker::Decision<base::Unit> readHello(std::string_view bytes);
  broker::Decision<base::Unit> connect();
  void readSome();
  void onRead(size_t bytes);
  void writeSome();
  void fail(broker::Refusal why, std::string_view outcome = "failed");
  void closeAll();
  void ended();

  broker::Grant ask_;
  std::string host_;
  uint16_t port_;
  std::shared_ptr<Flow> flow_;
  std::unique_ptr<Transfer> connecting_;
  boost::asio::posix::stream_descriptor socket_;
  broker::HelloReader hello_;
  std::string up_;  // came from the box, not written yet
  kj::Maybe<kj::Own<kj::PromiseFulfiller<void>>> up_wait_;
  bool writing_ = false, reading_ = false, up_ended_ = false, down_ended_ = false;
  uint64_t paused_until_ns_ = 0, progress_ns_;
  char buffer_[32u << 10];
};

}  // namespace mayfly::vault
