#include "vault/tool_run.h"

#include <fmt/format.h>

#include "base/clock.h"
#include "edge/convert.h"

namespace mayfly::vault {

using base::Code;
using broker::Refusal;

ToolRun::ToolRun(Hub& hub, std::shared_ptr<Ticket> ticket, AuditLine line,
                 kj::Own<kj::PromiseFulfiller<Answer>> answer)
    : Run(hub, std::move(ticket), std::move(line)),
      answer_(kj::mv(answer)),
      bounds_(hub.book.policy()->tools) {}

kj::Promise<ToolRun::Answer> ToolRun::start(Hub& hub, std::shared_ptr<Ticket> ticket,
                                            AuditLine line, schema::Tools::Client tools,
                                            const std::string& name, std::string_view json) {
  line.request_bytes = json.size();
  auto [promise, fulfiller] = kj::newPromiseAndFulfiller<Answer>();
  std::shared_ptr<ToolRun> run(
      new ToolRun(hub, std::move(ticket), std::move(line), kj::mv(fulfiller)));
  hub.add(run);
  if (json.size() > run->bounds_.request_bytes_max) {
    run->end("refused", broker::refuse({Code::invalidArgument,
                                        413,
                                        "tools.request_max",
                                        fmt::format("the JSON has {} bytes; allowed are {}",
                                                    json.size(), run->bounds_.request_bytes_max),
                                        {},
                                        0}));
    return kj::mv(promise);
  }
  auto request = tools.callRequest();
  request.setName(edge::text(name));
  request.setJson(kj::heapString(json.data(), json.size()));
  // The run ends in a later turn, so this promise is never destroyed by its own continuation.
  run->call_ =
      request.send()
          .then(
              [weak = std::weak_ptr<ToolRun>(run)](auto&& answer) {
                auto alive = weak.lock();
                if (!alive) return;
                auto error = answer.getError();
                if (error.getCode() == 0) return alive->onAnswer(edge::str(answer.getJson()));
                alive->onAnswer(broker::refuse(
                    refusalOf({static_cast<Code>(error.getCode()), edge::str(error.getMessage()),
                               edge::str(error.getAdvice()), 0, error.getRetryAfterMs()},
                              "tools")));
              },
              [weak = std::weak_ptr<ToolRun>(run)](kj::Exception&&) {
                if (auto alive = weak.lock())
                  alive->onAnswer(broker::refuse(
                      {Code::unavailable, 502, "tools", "the client of this task is gone", {}, 0}));
              })
          .eagerlyEvaluate([](kj::Exception&&) {});
  return kj::mv(promise);
}

void ToolRun::onAnswer(Answer answer) {
  if (isDone()) return;
  if (!answer) return end("failed", std::move(answer));
  line_.answer_bytes = answer->size();
  if (answer->size() > bounds_.answer_bytes_max)
    return end("failed", broker::refuse({Code::unavailable,
                                         502,
                                         "tools.answer_max",
                                         fmt::format("the answer has {} bytes; allowed are {}",
                                                     answer->size(), bounds_.answer_bytes_max),
                                         {},
                                         0}));
  end("allowed", std::move(answer));
}

void ToolRun::end(std::string_view outcome, Answer answer) {
  const std::string rule = answer ? std::string() : answer.error().rule;
  const int status = answer ? 200 : answer.error().http_status;
  answer_->fulfill(std::move(answer));
  done(outcome, rule, status);
}

void ToolRun::stop(const Refusal& why) {
  if (!isDone()) end("revoked", broker::refuse(why));
}

void ToolRun::look(uint64_t now_ns) {
  if (isDone()) return;
  if (!answer_->isWaiting())  // the box has gone
    return end("failed", broker::refuse({Code::cancelled, 502, "box", "the box has gone", {}, 0}));
  if ((now_ns - begun_ns_) / kMsNs >= bounds_.time_ms_max)
    end("failed", broker::refuse({Code::deadlineExceeded,
                                  504,
                                  "tools.time_max",
                                  fmt::format("the client's function took longer than {} ms",
                                              bounds_.time_ms_max),
                                  {},
                                  0}));
}

}  // namespace mayfly::vault
