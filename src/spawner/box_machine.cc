#include "spawner/box_machine.h"

#include <array>

namespace mayfly::spawner {

namespace {

using S = BoxState;

struct Cell {
  BoxStep step;
  BoxState to;
};
using Row = std::array<Cell, kBoxEvents>;

constexpr Cell to(BoxState state) { return {BoxStep::next, state}; }
constexpr Cell no{BoxStep::ignore, S::empty};
constexpr Cell XX{BoxStep::breach, S::empty};
constexpr Cell kReap = to(S::reaping), kLost = to(S::orphaned), kRemove = to(S::removing);

// clang-format off
constexpr std::array<Row, kBoxStates> kTable = {{
    //               askInit       initMade        stands           askClone         cloneMade       claim           end               lost   collect            free            remove   removed
    /* empty      */ {to(S::asked), XX,             XX,              XX,              XX,             XX,             kReap,            no,    XX,                XX,             XX,      XX},
    /* asked      */ {XX,           to(S::rising),  to(S::standing), XX,              XX,             XX,             to(S::owedInit),  kLost, XX,                XX,             XX,      XX},
    /* standing   */ {XX,           to(S::stocked), no,              XX,              XX,             XX,             to(S::owedInit),  kLost, XX,                XX,             XX,      XX},
    /* rising     */ {XX,           XX,             to(S::stocked),  to(S::forking),  XX,             XX,             kReap,            no,    XX,                XX,             XX,      XX},
    /* stocked    */ {XX,           XX,             no,              to(S::entering), XX,             XX,             kReap,            no,    XX,                XX,             XX,      XX},
    /* forking    */ {XX,           XX,             to(S::entering), XX,              to(S::waiting), XX,             to(S::owedClone), kLost, XX,                XX,             XX,      XX},
    /* entering   */ {XX,           XX,             no,              XX,              to(S::parked),  XX,             to(S::owedClone), kLost, XX,                XX,             XX,      XX},
    /* waiting    */ {XX,           XX,             to(S::parked),   XX,              XX,             XX,             kReap,            no,    XX,                XX,             XX,      XX},
    /* parked     */ {XX,           XX,             no,              XX,              XX,             to(S::claimed), kReap,            no,    XX,                XX,             XX,      XX},
    /* claimed    */ {XX,           XX,             no,              XX,              XX,             XX,             kReap,            no,    XX,                XX,             XX,      XX},
    /* owedInit   */ {XX,           kReap,          no,              XX,              XX,             XX,             no,               kLost, XX,                XX,             XX,      XX},
    /* owedClone  */ {XX,           XX,             no,              XX,              kReap,          XX,             no,               kLost, XX,                XX,             XX,      XX},
    /* orphaned   */ {XX,           XX,             no,              XX,              XX,             XX,             no,               no,    to(S::collecting), to(S::freeing), kRemove, XX},
    /* reaping    */ {XX,           XX,             no,              XX,              XX,             XX,             no,               no,    to(S::collecting), to(S::freeing), kRemove, XX},
    /* collecting */ {XX,           XX,             no,              XX,              XX,             XX,             no,               no,    XX,                to(S::freeing), kRemove, XX},
    /* freeing    */ {XX,           XX,             no,              XX,              XX,             XX,             no,               no,    XX,                XX,             kRemove, XX},
    /* removing   */ {XX,           XX,             no,              XX,              XX,             XX,             no,               no,    XX,                XX,             XX,      to(S::gone)},
    /* gone       */ {XX,           XX,             no,              XX,              XX,             XX,             no,               no,    XX,                XX,             XX,      XX},
}};

constexpr Place Y = Place::act, l = Place::late, X = Place::breach;
struct Places {
  Place make, clone, claim, end, sample, terminate;
};
constexpr std::array<Places, kBoxStates> kPlaces = {{
    //               make clone claim end sample terminate
    /* empty      */ {X,   X,    X,    Y,  X,      X},
    /* asked      */ {X,   X,    X,    Y,  X,      X},
    /* standing   */ {X,   X,    X,    Y,  X,      X},
    /* rising     */ {X,   X,    X,    Y,  X,      X},
    /* stocked    */ {X,   Y,    X,    Y,  X,      X},
    /* forking    */ {X,   X,    X,    Y,  X,      X},
    /* entering   */ {X,   X,    X,    Y,  X,      X},
    /* waiting    */ {X,   X,    X,    Y,  X,      X},
    /* parked     */ {X,   X,    Y,    Y,  Y,      X},
    /* claimed    */ {X,   X,    X,    Y,  Y,      Y},
    /* owedInit   */ {X,   l,    l,    l,  l,      l},
    /* owedClone  */ {X,   l,    l,    l,  l,      l},
    /* orphaned   */ {X,   l,    l,    l,  l,      l},
    /* reaping    */ {X,   l,    l,    l,  l,      l},
    /* collecting */ {X,   l,    l,    l,  l,      l},
    /* freeing    */ {X,   l,    l,    l,  l,      l},
    /* removing   */ {X,   l,    l,    l,  l,      l},
    /* gone       */ {Y,   l,    l,    l,  l,      l},
}};
// clang-format on

}  // namespace

std::string_view name(BoxState state) {
  constexpr std::string_view kNames[kBoxStates] = {
      "empty",    "asked",   "standing",   "rising",  "stocked",  "forking",
      "entering", "waiting", "parked",     "claimed", "owedInit", "owedClone",
      "orphaned", "reaping", "collecting", "freeing", "removing", "gone"};
  return kNames[static_cast<size_t>(state)];
}

std::string_view name(BoxEvent event) {
  constexpr std::string_view kNames[kBoxEvents] = {"askInit",   "initMade", "stands", "askClone",
                                                   "cloneMade", "claim",    "end",    "lost",
                                                   "collect",   "free",     "remove", "removed"};
  return kNames[static_cast<size_t>(event)];
}

BoxStep BoxMachine::on(BoxEvent event) {
  const Cell& cell = kTable[static_cast<size_t>(state_)][static_cast<size_t>(event)];
  if (cell.step == BoxStep::next) state_ = cell.to;
  return cell.step;
}

Place placeOf(wire::Op op, BoxState state) {
  const Places& places = kPlaces[static_cast<size_t>(state)];
  switch (op) {
    case wire::Op::make:
      return places.make;
    case wire::Op::clone:
      return places.clone;
    case wire::Op::claim:
      return places.claim;
    case wire::Op::end:
      return places.end;
    case wire::Op::sample:
      return places.sample;
    case wire::Op::terminate:
      return places.terminate;
    case wire::Op::publish:
    case wire::Op::retire:
    case wire::Op::ping:
      break;  // on no box
  }
  return Place::breach;
}

}  // namespace mayfly::spawner
