#include "load/client_target.h"

#include <memory>
#include <utility>

#include "base/clock.h"

namespace mayfly::load {

Outcome judge(const base::Result<TaskResult>& result, const std::string& said,
              const std::optional<std::string>& expected) {
  Outcome outcome;
  if (!result) {
    outcome.error = base::name(result.error().code);
    return outcome;
  }
  outcome.phases = result->phases;
  if (result->verdict != base::Verdict::succeeded)
    outcome.error = base::name(result->verdict);
  else if (!result->receipt.complete)
    outcome.error = "incompleteReceipt";
  else if (expected && said != *expected)
    outcome.error = "wrongOutput";
  return outcome;
}

void ClientTarget::begin(const Ticket& ticket, Done done) {
  struct Seen {
    uint64_t first_byte_ns = 0;
    std::string said;
  };
  auto seen = std::make_shared<Seen>();
  Callbacks callbacks;
  if (load_.live)
    // What cannot be the expected output any more is not kept.
    callbacks.on_output = [seen, most = load_.expected ? load_.expected->size() + 1 : 0](
                              Stream stream, std::string_view bytes) {
      if (seen->first_byte_ns == 0) seen->first_byte_ns = base::monotonicNs();
      if (stream == Stream::out) seen->said += bytes.substr(0, most - seen->said.size());
    };
  callbacks.on_result = [this, seen,
                         done = std::move(done)](const base::Result<TaskResult>& result) {
    uint64_t now_ns = base::monotonicNs();
    bool captured = result && !load_.live;
    Outcome outcome = judge(result, captured ? result->captured[0] : seen->said, load_.expected);
    outcome.first_byte_ns = seen->first_byte_ns;
    outcome.ended_ns = now_ns;
    done(std::move(outcome));
  };
  TaskSpec spec = load_.spec;
  if (load_.change) load_.change(spec, ticket);
  client_.runAsync(std::move(spec), std::move(callbacks));
}

}  // namespace mayfly::load
