#include "pool/zygote_fsm.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

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
      if (renewing_) {
        due_ns_ = 0;  // its end arrives as successorDied()
        return Do::retire;
      }
      renewing_ = true;
      due_ns_ = now_ns + start_ns_max_;
      ++starts_;
      return Do::publish;
  }
  due_ns_ = 0;
  return Do::nothing;
}

void ZygoteFsm::ready(uint64_t now_ns) {
  if (state_ != ZygoteState::starting && !renewing_) return;
  if (state_ == ZygoteState::ready) ++renewals_;
  state_ = ZygoteState::ready;
  due_ns_ = 0;
  probing_ = renewing_ = renewal_asked_ = false;
  failed_starts_ = 0;
  ready_ns_ = now_ns;
  clones_ = 0;
  renewal_pause_ns_ = renewal_after_ns_ = 0;
  text_.clear();
}

void ZygoteFsm::cloned(uint64_t now_ns) {
  ++clones_;
  planRenewal(now_ns);
}

void ZygoteFsm::planRenewal(uint64_t now_ns) {
  if (state_ != ZygoteState::ready || renewing_ || (clones_ == 0 && !renewal_asked_)) return;
  if (due_ns_ != 0 && due_ns_ <= now_ns && renewal_after_ns_ <= now_ns) return;  // it is due
  uint64_t due_ns = renewal_.after_ns != 0 ? ready_ns_ + renewal_.after_ns : UINT64_MAX;
  if (renewal_asked_ || (renewal_.clones != 0 && clones_ >= renewal_.clones))
    due_ns = std::min(due_ns, now_ns);
  due_ns_ = due_ns == UINT64_MAX ? 0 : std::max(due_ns, renewal_after_ns_);
}

void ZygoteFsm::askRenewal(uint64_t now_ns) {
  if (state_ == ZygoteState::unhealthy) due_ns_ = now_ns;
  renewal_asked_ = true;
  planRenewal(now_ns);
}

void ZygoteFsm::withdrawRenewal(uint64_t now_ns) {
  if (!std::exchange(renewal_asked_, false)) return;
  if (state_ != ZygoteState::ready || renewing_) return;
  due_ns_ = 0;
  planRenewal(now_ns);
}

void ZygoteFsm::postponeRenewal(uint64_t now_ns) {
  renewal_after_ns_ = now_ns + kRenewalPauseFirst_ns;
  planRenewal(now_ns);
}

// A zygote that was retired for its slow start: its exit status says nothing, so `why` names the
// delay.
void ZygoteFsm::nameDelay(std::string* why) const {
  if (due_ns_ == 0)
    *why = "it did not serve within " + std::to_string(start_ns_max_ / 1'000'000) + " ms";
}

ZygoteFsm::Do ZygoteFsm::died(uint64_t now_ns, std::string why) {
  if (state_ == ZygoteState::starting) {
    nameDelay(&why);
    ++failed_starts_;
  }
  if (deaths_ > 0 && now_ns - death_ns_[(deaths_ - 1) % kDeathsMax] > kDeathWindow_ns)
    backoff_ns_ = kBackoffFirst_ns;
  death_ns_[deaths_ % kDeathsMax] = now_ns;
  ++deaths_;
  if (renewing_) {  // the successor, already starting, is the next start
    renewing_ = false;
    state_ = ZygoteState::starting;
    text_ = "its zygote is replaced: " + why;
    return Do::nothing;
  }
  // The ring holds the last kDeathsMax deaths; the oldest of them is at the next index.
  bool often = deaths_ >= kDeathsMax && now_ns - death_ns_[deaths_ % kDeathsMax] <= kDeathWindow_ns;
  if (probing_ || often || failed_starts_ >= kDeathsMax) {
    text_ = probing_
                ? "it was tried again and failed: "
                : fmt::format("its zygote died {} times {}; last: ", kDeathsMax,
                              often ? fmt::format("within {} s", kDeathWindow_ns / 1'000'000'000)
                                    : "before it served");
    text_ += why;
    state_ = ZygoteState::unhealthy;
    probing_ = false;
    due_ns_ = now_ns + kProbeAfter_ns;
    return Do::failQueue;
  }
  state_ = ZygoteState::waiting;
  due_ns_ = now_ns + backoff_ns_;
  backoff_ns_ = std::min(backoff_ns_ * 4, kBackoffMax_ns);
  text_ = "its zygote is restarted: " + why;
  return Do::nothing;
}

void ZygoteFsm::successorDied(uint64_t now_ns, std::string why) {
  if (!renewing_) return;
  nameDelay(&why);
  renewing_ = false;
  renewal_pause_ns_ = renewal_pause_ns_ == 0 ? kRenewalPauseFirst_ns
                                             : std::min(2 * renewal_pause_ns_, kRenewalPauseMax_ns);
  renewal_after_ns_ = now_ns + renewal_pause_ns_;
  text_ = "its zygote still serves, because the start of a new one failed: " + why;
  planRenewal(now_ns);
}

}  // namespace mayfly::pool
