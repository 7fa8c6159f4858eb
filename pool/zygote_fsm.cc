#include "pool/zygote_fsm.h"

#include <algorithm>

namespace mayfly::pool {

ZygoteFsm::Do ZygoteFsm::tick(uint64_t now_ns) {
  if (due_ns_ == 0 || now_ns < due_ns_) return Do::nothing;
  switch (state_) {
    case ZygoteState::unhealthy:
      probing_ = true;
      [[fallthrough]];
    case ZygoteState::waiting:
      state_ = ZygoteState::starting;
      due_ns_ = now_ns + start_ns_max_;
      ++starts_;
      return Do::publish;
    case ZygoteState::starting:
      due_ns_ = 0;  // its end arrives as died()
      return Do::retire;
    case ZygoteState::ready:
    case ZygoteState::retired:
      break;
  }
  due_ns_ = 0;
  return Do::nothing;
}

void ZygoteFsm::ready(uint64_t) {
  if (state_ != ZygoteState::starting) return;
  state_ = ZygoteState::ready;
  due_ns_ = 0;
  probing_ = false;
  text_.clear();
}

ZygoteFsm::Do ZygoteFsm::died(uint64_t now_ns, std::string why) {
  if (state_ == ZygoteState::retired) return Do::nothing;
  if (deaths_ > 0 && now_ns - death_ns_[(deaths_ - 1) % kDeathsMax] > kDeathWindow_ns)
    backoff_ns_ = kBackoffFirst_ns;
  death_ns_[deaths_ % kDeathsMax] = now_ns;
  ++deaths_;
  // The ring holds the last kDeathsMax deaths; the oldest of them is at the next index.
  bool breaker =
      deaths_ >= kDeathsMax && now_ns - death_ns_[deaths_ % kDeathsMax] <= kDeathWindow_ns;
  if (breaker || probing_) {
    state_ = ZygoteState::unhealthy;
    probing_ = false;
    due_ns_ = now_ns + kProbeAfter_ns;
    text_ = (breaker ? "its zygote died " + std::to_string(kDeathsMax) + " times within " +
                           std::to_string(kDeathWindow_ns / 1'000'000'000) + " s; last: "
                     : std::string("it was tried again and failed: ")) +
            why;
    return Do::failQueue;
  }
  state_ = ZygoteState::waiting;
  due_ns_ = now_ns + backoff_ns_;
  backoff_ns_ = std::min(backoff_ns_ * 4, kBackoffMax_ns);
  text_ = "its zygote is restarted: " + why;
  return Do::nothing;
}

void ZygoteFsm::retired() {
  state_ = ZygoteState::retired;
  due_ns_ = 0;
}

}  // namespace mayfly::pool
