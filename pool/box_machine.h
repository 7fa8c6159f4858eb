// The life of one box, as the core sees it: from the request to the proof that it is gone.
//
//              making ------.
//                            v
//   stocking -> stocked -> cloning -> made -> ready -> claimed -> ending -> gone
//
// Each arrow is taken at most once. From every state but `gone` an arrow may lead to `ending`; a
// box that could not be made goes to `gone` at once.
//
// Layer: pool. Pure. Core thread.
#pragma once

#include <cstdint>
#include <string_view>

namespace mayfly::pool {

enum class BoxState : uint8_t {
  making,    // requested, with its clone
  stocking,  // requested, without a clone
  stocked,   // complete, but without a clone
  cloning,   // was stocked; its clone is requested
  made,      // the clone exists; its descriptors are here
  ready,     // the clone waits for a task
  claimed,   // belongs to one task, for ever
  ending,    // its end is requested; the receipt is awaited
  gone,      // proven gone, or never made
};
inline constexpr int kBoxStates = 9;
std::string_view name(BoxState state);

enum class BoxEvent : uint8_t {
  stocked,  // the spawner: the box is complete
  clone,    // we: request the clone
  made,     // the spawner: the clone's descriptors
  ready,    // the clone: it waits
  claim,    // we: give the box to a task
  lost,     // the spawner, the clone or its streams: the box failed
  end,      // we: request its end
  gone,     // the spawner: the receipt, or that it was never made
};
inline constexpr int kBoxEvents = 8;
std::string_view name(BoxEvent event);

// The meaning of an event for the driver.
enum class BoxStep : uint8_t {
  next,    // in its place: the state is the next one
  ignore,  // too late to matter; nothing changes
  end,     // the box must end: it is lost, or the event was out of place; the state is `ending`
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
  // It was complete before its clone was requested.
  bool wasStocked() const { return was_stocked_; }

  BoxStep on(BoxEvent event);

 private:
  BoxState state_;
  bool was_stocked_;
};

}  // namespace mayfly::pool
