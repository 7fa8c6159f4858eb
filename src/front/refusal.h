// What the front answers when it, or the vault, refuses a request: a status and a typed error.
//
// Layer: front. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mayfly::front {

struct Refusal {
  uint16_t status = 400;
  base::Code code = base::Code::invalidArgument;
  std::string message;
  std::string advice;  // what to do; empty if nothing helps
  std::string rule;    // the rule that refused, e.g. "front.framing"; empty if the vault names none
  uint32_t retry_after_ms = 0;
  bool framing_lost = false;    // nobody knows where the next request begins
  std::string_view allow = {};  // of a 405: the methods that there are; a literal
};

template <class T>
using Checked = tl::expected<T, Refusal>;
using Passed = Checked<base::Unit>;

inline tl::unexpected<Refusal> refuse(Refusal refusal) {
  return tl::unexpected<Refusal>(std::move(refusal));
}
// A request whose end is in doubt.
inline tl::unexpected<Refusal> refuseFraming(std::string message, std::string advice = {}) {
  return refuse({400, base::Code::invalidArgument, std::move(message), std::move(advice),
                 "front.framing", 0, true});
}
inline tl::unexpected<Refusal> refuseSize(uint16_t status, std::string message) {
  return refuse(
      {status, base::Code::invalidArgument, std::move(message), {}, "front.size", 0, true});
}

// The status of an error whose vault named none.
uint16_t statusOf(base::Code code);

// {"error": {"code": ..., "message": ..., "advice": ..., "rule": ...}}
std::string jsonOf(const Refusal& refusal);

}  // namespace mayfly::front
