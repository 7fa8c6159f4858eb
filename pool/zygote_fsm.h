// When a zygote is started, restarted, renewed and given up: one state machine per lane.
//
// A zygote that dies is restarted after a growing pause. The fourth death within a minute, or the
// fourth in a row that never served (however long each took), opens the breaker: the lane is
// unhealthy, and is retried only after a long pause, so that a broken template costs no core.
//
// A zygote that served for long enough is renewed: a successor is started beside it and replaces it
// once it serves. A failed renewal costs only a pause. The driver may ask for one, too.
//
// Layer: pool. Pure: time is an argument. Core thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace mayfly::pool {

inline constexpr uint64_t kDeathWindow_ns = 60'000'000'000;
inline constexpr uint32_t kDeathsMax = 4;  // within the window, or before a zygote serves
inline constexpr uint64_t kBackoffFirst_ns = 100'000'000;
inline constexpr uint64_t kBackoffMax_ns = 10'000'000'000;
inline constexpr uint64_t kProbeAfter_ns = 300'000'000'000;  // an unhealthy lane is retried
inline constexpr uint64_t kRenewalPauseFirst_ns =
    10'000'000'000;  // after a failed renewal; doubles
inline constexpr uint64_t kRenewalPauseMax_ns = 600'000'000'000;

enum class ZygoteState : uint8_t { waiting, starting, ready, unhealthy };

// Renew after this many clones or this time, whichever is first; 0: no limit. A zygote without a
// clone is not renewed: no task has seen its address layout.
struct Renewal {
  uint32_t clones = 0;
  uint64_t after_ns = 0;
};

class ZygoteFsm {
 public:
  // The driver's action after an event. While the state is `ready`, publish and retire are about
  // the successor.
  enum class Do : uint8_t { nothing, publish, retire, failQueue };

  explicit ZygoteFsm(uint64_t start_ns_max, Renewal renewal = {})
      : start_ns_max_(start_ns_max), renewal_(renewal) {}

  ZygoteState state() const { return state_; }
  std::string_view text() const { return text_; }  // why it waits, is unhealthy or was not renewed
  uint32_t starts() const { return starts_; }
  uint32_t renewals() const { return renewals_; }
  bool renewing() const { return renewing_; }  // a successor is starting
  bool probing() const { return probing_; }    // the one start of an unhealthy lane
  // When to call tick(); 0: never.
  uint64_t due_ns() const { return due_ns_; }

  Do tick(uint64_t now_ns);               // publish, or retire a start that takes too long
  void ready(uint64_t now_ns);            // the zygote serves, or its successor in its place
  void cloned(uint64_t now_ns);           // the serving zygote is asked for one more clone
  void postponeRenewal(uint64_t now_ns);  // there is no room for a second zygote now
  // What it is made of has changed: a successor as soon as may be, clones or not, or the unhealthy
  // lane's next try. Stands until a zygote serves.
  void askRenewal(uint64_t now_ns);
  void withdrawRenewal(uint64_t now_ns);      // it has not changed after all
  Do died(uint64_t now_ns, std::string why);  // failed to start, or ended unasked
  void successorDied(uint64_t now_ns, std::string why);

 private:
  void nameDelay(std::string* why) const;
  void planRenewal(uint64_t now_ns);

  uint64_t start_ns_max_;  // publish -> ready
  Renewal renewal_;
  ZygoteState state_ = ZygoteState::waiting;
  uint64_t due_ns_ = 1;  // at once
  uint32_t starts_ = 0, renewals_ = 0;
  uint64_t backoff_ns_ = kBackoffFirst_ns;
  bool probing_ = false;  // one retry after the breaker opened
  bool renewing_ = false;
  bool renewal_asked_ = false;
  uint64_t ready_ns_ = 0;
  uint32_t clones_ = 0;  // of the serving zygote
  uint64_t renewal_pause_ns_ = 0, renewal_after_ns_ = 0;
  uint32_t deaths_ = 0;                          // ever
  uint32_t failed_starts_ = 0;                   // since one served
  std::array<uint64_t, kDeathsMax> death_ns_{};  // ring of the last deaths
  std::string text_;
};

}  // namespace mayfly::pool
