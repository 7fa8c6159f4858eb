// When a template's zygote is started, restarted and given up: one state machine
// per template.
//
// A zygote that dies is respawned with a growing pause. The fourth death within a
// minute opens the breaker: the template is unhealthy, and is tried again only
// after a long pause, so that a broken template costs no core.
//
// Layer: pool. Pure: time is an argument. Core thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace mayfly::pool {

inline constexpr uint64_t kDeathWindow_ns = 60'000'000'000;
inline constexpr uint32_t kDeathsMax = 4;  // this many within the window open the breaker
inline constexpr uint64_t kBackoffFirst_ns = 100'000'000;
inline constexpr uint64_t kBackoffMax_ns = 10'000'000'000;
inline constexpr uint64_t kProbeAfter_ns = 300'000'000'000;  // an unhealthy template is tried again

enum class ZygoteState : uint8_t { waiting, starting, ready, unhealthy, retired };

class ZygoteFsm {
 public:
  // What the driver must do after an event.
  enum class Do : uint8_t { nothing, publish, retire, failQueue };

  explicit ZygoteFsm(uint64_t start_ns_max) : start_ns_max_(start_ns_max) {}

  ZygoteState state() const { return state_; }
  std::string_view text() const { return text_; }  // why it is waiting or unhealthy
  uint32_t starts() const { return starts_; }
  // When tick() wants to be called; 0: never.
  uint64_t due_ns() const { return due_ns_; }

  Do tick(uint64_t now_ns);                    // publish, or retire a start that takes too long
  void ready(uint64_t now_ns);                 // the zygote serves
  Do died(uint64_t now_ns, std::string why);   // failed to start, or ended unasked
  void retired();                              // asked to end: nothing follows

 private:
  uint64_t start_ns_max_;  // publish -> ready
  ZygoteState state_ = ZygoteState::waiting;
  uint64_t due_ns_ = 1;  // at once
  uint32_t starts_ = 0;
  uint64_t backoff_ns_ = kBackoffFirst_ns;
  bool probing_ = false;  // one try after the breaker opened
  uint32_t deaths_ = 0;   // ever
  std::array<uint64_t, kDeathsMax> death_ns_{};  // ring of the last deaths
  std::string text_;
};

}  // namespace mayfly::pool
