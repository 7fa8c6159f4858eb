// One call of a box to a function of the submitting client's.
//
// Layer: vault. The loop's thread.
#pragma once

#include <memory>
#include <string>

#include "vault/flow.h"
#include "vault/hub.h"
#include "vault/run.h"

namespace mayfly::vault {

class ToolRun final : public Run {
 public:
  using Answer = broker::Decision<std::string>;  // JSON

  static kj::Promise<Answer> start(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line,
                                   schema::Tools::Client tools, const std::string& name,
                                   std::string_view json);
  void stop(const broker::Refusal& why) override;
  void look(uint64_t now_ns) override;

 private:
  ToolRun(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line,
          kj::Own<kj::PromiseFulfiller<Answer>> answer);
  void onAnswer(Answer answer);
  void end(std::string_view outcome, Answer answer);

  kj::Own<kj::PromiseFulfiller<Answer>> answer_;
  config::ToolBounds bounds_;
  kj::Promise<void> call_ = nullptr;
};

}  // namespace mayfly::vault
