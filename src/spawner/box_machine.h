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
// To the right the init says that the walls stand; downwards the clone is asked for, then
// comes. `standing` is a box whose walls stand before the maker's answer was read; it goes to
// `stocked`. From every state a box may have to end:
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
  empty,       // nothing of it is asked for yet
  asked,       // its init is asked of the maker
  standing,    // the same, and its walls stand
  rising,      // the init is known, its walls rise; no clone is asked for
  stocked,     // its walls stand; no clone is asked for
  forking,     // the clone is asked for, the walls rise
  entering,    // the clone is asked for, the walls stand
  waiting,     // the clone is known, the walls rise
  parked,      // made: the clone is known and its walls stand
  claimed,     // has its task's caps; the task may run
  owedInit,    // ends; the maker has its init still to tell
  owedClone,   // ends; the zygote has its clone still to tell
  orphaned,    // ends; what it has still to be told of, nobody will: strays are reaped for it
  reaping,     // ends; its processes are killed, their ends awaited
  collecting,  // no process is left; a child copies /task/out
  freeing,     // a child frees its disk
  removing,    // its cgroups go
  gone,
};
inline constexpr int kBoxStates = 18;
std::string_view name(BoxState state);

enum class BoxEvent : uint8_t {
  askInit,    // we: the maker has the request
  initMade,   // the maker: the init
  stands,     // the init: its walls stand
  askClone,   // we: the source of clones has the request
  cloneMade,  // the source: the clone
  claim,      // mayflyd
  end,        // mayflyd, or a failure
  lost,       // who had still to answer will not: the box fails
  collect,    // we: all are reaped, the collector runs
  free,       // we: all are reaped, or collected; a child frees the disk
  remove,     // we: nothing but cgroups is left
  removed,    // we
};
inline constexpr int kBoxEvents = 12;
std::string_view name(BoxEvent event);

enum class BoxStep : uint8_t {
  next,    // in its place: the state is the next one
  ignore,  // it changes nothing in this state
  breach,  // it has no place here: who said it broke the protocol; the state stays
};

class BoxMachine {
 public:
  BoxState state() const { return state_; }
  BoxStep on(BoxEvent event);

  bool made() const { return state_ == BoxState::parked || state_ == BoxState::claimed; }
  bool ending() const { return state_ >= BoxState::owedInit; }
  // Its processes are not proven gone yet.
  bool reaping() const { return state_ >= BoxState::owedInit && state_ <= BoxState::reaping; }
  // An answer with a process is to come.
  bool owed() const {
    return state_ == BoxState::asked || state_ == BoxState::standing ||
           state_ == BoxState::forking || state_ == BoxState::entering ||
           state_ == BoxState::owedInit || state_ == BoxState::owedClone;
  }
  // The init has its word still to say.
  bool rising() const {
    return state_ == BoxState::asked || state_ == BoxState::rising || state_ == BoxState::forking ||
           state_ == BoxState::waiting;
  }

 private:
  BoxState state_ = BoxState::empty;
};

// What mayflyd's request means for a box in this state.
enum class Place : uint8_t {
  act,     // in its place
  late,    // it crossed what we said of the box: nothing is done, mayflyd knows by now or soon
  breach,  // no sound mayflyd asks for it: the box is given up
};
// Of a request on a box; for one that we do not know, or not any more, `gone`.
Place placeOf(wire::Op op, BoxState state);

}  // namespace mayfly::spawner
