// The life of one box, as the core sees it: from the asking to the proof that it is gone.
//
//              making ------.
//                            v
//   stocking -> stocked -> cloning -> made -> ready -> claimed -> ending -> gone
//
// Each arrow is taken at most once. Every state but `gone` may go to `ending`, and a box that
// was never made goes to `gone` at once.
//
// Layer: pool. Pure. Core thread.
#pragma once

#include <cstdint>
#include <string_view>

namespace mayfly::pool {

enum class BoxState : uint8_t {
  making,    // asked for, with its clone
  stocking,  // asked for, without a clone
  stocked,   // its walls stand, nobody is inside
  cloning,   // was stocked; its clone is asked for
  made,      // the clone exists, its descriptors are here
  ready,     // the clone waits for a task
  claimed,   // is one task's, and never another's
  ending,    // its end is asked for; the receipt is awaited
  gone,      // proven gone, or never made
};
inline constexpr int kBoxStates = 9;
std::string_view name(BoxState state);

enum class BoxEvent : uint8_t {
  stocked,  // the spawner: the walls stand
  clone,    // we: the clone is asked for
  made,     // the spawner: the clone's descriptors
  ready,    // the clone: it waits
  claim,    // we: it is a task's
  lost,     // the spawner, the clone or its streams: it came to nothing
  end,      // we: it is to end
  gone,     // the spawner: the receipt, or that it was never made
};
inline constexpr int kBoxEvents = 8;
std::string_view name(BoxEvent event);

// What an event means for the driver.
enum class BoxStep : uint8_t {
  next,    // it was in its place: the state is the next one
  ignore,  // it came too late to matter, nothing changes
  end,     // the box must end: it is lost, or was spoken of out of place; the state is `ending`
};

class BoxMachine {
 public:
  enum class First : uint8_t { making, stocking };
  explicit BoxMachine(First first)
      : state_(first == First::making ? BoxState::making : BoxState::stocking),
        was_stocked_(first == First::stocking) {}

  BoxState state() const { return state_; }
  bool ending() const { return state_ >= BoxState::ending; }
  bool stock() const { return state_ == BoxState::stocking || state_ == BoxState::stocked; }
  bool wasStocked() const {
    return was_stocked_;
  }  // its walls stood before its clone was asked for

  BoxStep on(BoxEvent event);

 private:
  BoxState state_;
  bool was_stocked_;
};

}  // namespace mayfly::pool
