// One HTTP call of a box: its body up, its upstream's answer down, both with back-pressure.
//
// A body is passed on as it comes, unless a signature or the journal needs it first. A recorded
// call is written to the journal before it is sent, and its outcome before the box sees its end.
//
// Layer: vault. The loop's thread.
#pragma once

#include <kj/vector.h>

#include <memory>
#include <optional>
#include <string>

#include "broker/http_rules.h"
#include "broker/narrow.h"
#include "broker/scrub.h"
#include "vault/credential.h"
#include "vault/flow.h"
#include "vault/hub.h"
#include "vault/run.h"
#include "vault/transfer.h"

namespace mayfly::vault {

class HttpRun final : public Run, public TransferEvents, public FlowEvents, public UpEvents {
 public:
  struct Ask {
    broker::Grant grant;
    broker::HttpCall call;
    int64_t body_bytes = 0;
    std::string step;  // the task's name of this step, for the journal; may be empty
  };
  static std::shared_ptr<HttpRun> start(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line,
                                        Ask ask, schema::Down::Client down);

  // Of a request without a body: how its answer begins. Null: the body comes first, or it was
  // taken.
  kj::Maybe<kj::Promise<Flow::Beginning>> takeBeginning() { return kj::mv(beginning_); }

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
  // TransferEvents
  Take onHead(int status, Headers headers, int64_t bytes) override;
  Take onData(std::string_view bytes) override;
  size_t onWanted(char* to, size_t size) override;
  bool onRewind() override;
  void onEnd(Failure failure, const std::string& why) override;

 private:
  HttpRun(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line, Ask ask,
          schema::Down::Client down);
  const config::Auth* auth() const;
  bool scrubs() const;
  std::string rule(const char* key) const { return ask_.grant.rule() + "." + key; }

  void bodyWhole();
  void record();
  void onRecorded(const std::string& key, broker::Decision<std::optional<Outcome>> asked);
  void replay(const Outcome& outcome);
  void send();
  base::Status sendNow();
  void finishWhole();
  void ended();
  void fail(broker::Refusal why, std::string_view outcome = "failed");
  Take abort(broker::Refusal why);  // from within a transfer's event
  void settle(Failure failure);     // what the journal keeps of a call that failed
  void give(std::string_view bytes);
  void releaseUp();

  Ask ask_;
  std::shared_ptr<Flow> flow_;
  kj::Maybe<kj::Promise<Flow::Beginning>> beginning_;
  std::unique_ptr<Transfer> transfer_;

  // The body.
  bool whole_;          // it must be here before it is sent
  std::string body_;    // what is here and not dropped
  size_t body_at_ = 0;  // of body_: sent
  uint64_t body_dropped_ = 0, body_came_ = 0;
  uint64_t held_ = 0;  // of the hub's bytes
  bool body_ended_ = false, wants_body_ = false;
  kj::Vector<kj::Own<kj::PromiseFulfiller<void>>> up_waits_;

  // The answer.
  std::shared_ptr<const broker::ScrubPatterns> patterns_;
  std::optional<broker::Scrubber> scrubber_;
  std::optional<broker::HttpCall> redirect_;
  uint32_t redirects_ = 0;
  bool paused_ = false;
  uint64_t paused_until_ns_ = 0;  // by the rate of bytes
  uint64_t progress_ns_ = 0;      // of the last byte, in either direction
  int status_ = 0;

  // The journal.
  std::string key_;  // empty: not recorded, or not yet
  Outcome outcome_;

  std::optional<broker::Refusal> aborted_;
};

}  // namespace mayfly::vault
