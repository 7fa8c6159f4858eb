#include "pool/box_machine.h"

#include <array>

namespace mayfly::pool {

namespace {

struct Cell {
  BoxStep step;
  BoxState to;
};
using Row = std::array<Cell, kBoxEvents>;

constexpr Cell to(BoxState state) { return {BoxStep::next, state}; }
constexpr Cell kIgnore{BoxStep::ignore, BoxState::gone};
constexpr Cell kEnd{BoxStep::end, BoxState::ending};
constexpr Cell kEnding = to(BoxState::ending), kGone = to(BoxState::gone);

// clang-format off
constexpr std::array<Row, kBoxStates> kTable = {{
    //            stocked                clone                  made                ready                claim                  lost     end      gone
    /* making   */ {kEnd,                  kEnd,                  to(BoxState::made), kEnd,                kEnd,                  kEnd,    kEnding, kGone},
    /* stocking */ {to(BoxState::stocked), kEnd,                  kEnd,               kEnd,                kEnd,                  kEnd,    kEnding, kGone},
    /* stocked  */ {kEnd,                  to(BoxState::cloning), kEnd,               kEnd,                kEnd,                  kEnd,    kEnding, kGone},
    /* cloning  */ {kEnd,                  kEnd,                  to(BoxState::made), kEnd,                kEnd,                  kEnd,    kEnding, kGone},
    /* made     */ {kEnd,                  kEnd,                  kEnd,               to(BoxState::ready), kEnd,                  kEnd,    kEnding, kGone},
    /* ready    */ {kEnd,                  kEnd,                  kEnd,               kEnd,                to(BoxState::claimed), kEnd,    kEnding, kGone},
    /* claimed  */ {kIgnore,               kIgnore,               kIgnore,            kIgnore,             kIgnore,               kIgnore, kEnding, kGone},  // its task's machine judges
    /* ending   */ {kIgnore,               kIgnore,               kIgnore,            kIgnore,             kIgnore,               kIgnore, kIgnore, kGone},
    /* gone     */ {kIgnore,               kIgnore,               kIgnore,            kIgnore,             kIgnore,               kIgnore, kIgnore, kIgnore},
}};
// clang-format on

}  // namespace

std::string_view name(BoxState state) {
  constexpr std::string_view kNames[kBoxStates] = {
      "making", "stocking", "stocked", "cloning", "made", "ready", "claimed", "ending", "gone"};
  return kNames[static_cast<size_t>(state)];
}

std::string_view name(BoxEvent event) {
  constexpr std::string_view kNames[kBoxEvents] = {"stocked", "clone", "made", "ready",
                                                   "claim",   "lost",  "end",  "gone"};
  return kNames[static_cast<size_t>(event)];
}

BoxStep BoxMachine::on(BoxEvent event) {
  const Cell& cell = kTable[static_cast<size_t>(state_)][static_cast<size_t>(event)];
  if (cell.step != BoxStep::ignore) state_ = cell.to;
  return cell.step;
}

}  // namespace mayfly::pool
