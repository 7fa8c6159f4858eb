// Why the broker does not do a thing, for the task, the log and the HTTP answer.
//
// Layer: broker. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <tl/expected.hpp>

#include "base/result.h"

namespace mayfly::broker {

struct Refusal {
  base::Code code = base::Code::permissionDenied;
  uint16_t http_status = 403;
  std::string rule;     // the policy's key, such as "http.openai.paths"; or the part that refuses
  std::string message;  // what is refused, and why; safe to print, without a secret
  std::string advice;   // what the task can do; may be empty
  uint32_t retry_after_ms = 0;  // 0: a repeat would be refused again

  base::Error error() const { return {code, message, advice, 0, retry_after_ms}; }
};

template <class T>
using Decision = tl::expected<T, Refusal>;

inline tl::unexpected<Refusal> refuse(Refusal refusal) {
  return tl::unexpected<Refusal>(std::move(refusal));
}

// The request cannot be understood, or only in a way that servers disagree on.
inline tl::unexpected<Refusal> refuseForm(std::string rule, std::string message,
                                          std::string advice = {}) {
  return refuse({base::Code::invalidArgument, 400, std::move(rule), std::move(message),
                 std::move(advice), 0});
}

inline constexpr const char* kAskBroker =
    "`GET /` of the broker lists what this task may do; only the operator's policy can allow more.";

}  // namespace mayfly::broker

// Returns the refusal of a step from the calling function.
#define MAYFLY_DECIDE(step)                                                                       \
  do {                                                                                            \
    auto decided_ = (step);                                                                       \
    if (!decided_) return tl::unexpected<::mayfly::broker::Refusal>(std::move(decided_).error()); \
  } while (0)
