// The life of one box, as the spawner sees it: from nothing to removed.
//
//            asked -> rising ---> stocked
//              |        |            |
//              v        v            v
//  empty ->    |     forking ---> entering
//              |        |            |
//              v        v            v
//           standing  waiting ---> parked -> claimed -> (ending)
//
// Rightwards the init reports that the walls are complete; downwards the clone is requested, then
// arrives. `standing` is a box whose walls were complete before the maker's answer was read; it
// goes to `stocked`. In every state the end of a box may begin:
//
//  owedInit, owedClone -> reaping -> collecting -> freeing -> removing -> gone
//       `---> orphaned ---'              (each of the two may be left out)
//
// Layer: spawner. Pure.
#pragma once

#include <cstdint>
#include <string_view>

#include "wire/spawner.h"

namespace mayfly::spawner {

enum class BoxState : uint8_t {
  empty,       // nothing is requested yet
  asked,       // the maker has the request for its init
  standing,    // the same, and its walls are complete
  rising,      // the init is known, its walls are rising; no clone is requested
  stocked,     // its walls are complete; no clone is requested
  forking,     // the clone is requested, the walls are rising
  entering,    // the clone is requested, the walls are complete
  waiting,     // the clone is known, the walls are rising
  parked,      // made: the clone is known and its walls are complete
  claimed,     // has its task's caps; the task may run
  owedInit,    // ends; the maker still has to report its init
  owedClone,   // ends; the zygote still has to report its clone
  orphaned,    // ends; the missing report will never come: strays are reaped for it
  reaping,     // ends; its processes are killed, their ends awaited
  collecting,  // no process is left; a child copies /task/out
  freeing,     // a child frees its disk
  removing,    // its cgroups are being removed
  gone,
};
inline constexpr int kBoxStates = 18;
std::string_view name(BoxState state);

enum class BoxEvent : uint8_t {
  askInit,    // we: the maker has the request
  initMade,   // the maker: the init
  stands,     // the init: its walls are complete
  askClone,   // we: the source of clones has the request
  cloneMade,  // the source: the clone
  claim,      // mayflyd
  end,        // mayflyd, or a failure
  lost,       // a missing answer will never come: the box fails
  collect,    // we: all processes are reaped, the collector runs
  free,       // we: all processes are reaped, or files collected; a child frees the disk
  remove,     // we: only cgroups are left
  removed,    // we
};
inline constexpr int kBoxEvents = 12;
std::string_view name(BoxEvent event);

enum class BoxStep : uint8_t {
  next,    // in its place: the state is the next one
  ignore,  // it changes nothing in this state
  breach,  // not allowed here: the sender broke the protocol; the state stays
};

class BoxMachine {
 public:
  BoxState state() const { return state_; }
  BoxStep on(BoxEvent event);

  bool made() const { return state_ == BoxState::parked || state_ == BoxState::claimed; }
  bool ending() const { return state_ >= BoxState::owedInit; }
  // Its processes are not yet proven gone.
  bool reaping() const { return state_ >= BoxState::owedInit && state_ <= BoxState::reaping; }
  // An answer with a process is pending.
  bool owed() const {
    return state_ == BoxState::asked || state_ == BoxState::standing ||
           state_ == BoxState::forking || state_ == BoxState::entering ||
           state_ == BoxState::owedInit || state_ == BoxState::owedClone;
  }
  // The init has not reported yet.
  bool rising() const {
    return state_ == BoxState::asked || state_ == BoxState::rising || state_ == BoxState::forking ||
           state_ == BoxState::waiting;
  }

 private:
  BoxState state_ = BoxState::empty;
};

// The meaning of mayflyd's request for a box in this state.
enum class Place : uint8_t {
  act,     // allowed
  late,    // it crossed our report on the box: ignored, because mayflyd learns of that soon
  breach,  // no correct mayflyd sends it: the box is given up
};
// For a request on a box; `gone` if we do not know the box, or no longer.
Place placeOf(wire::Op op, BoxState state);

}  // namespace mayfly::spawner
