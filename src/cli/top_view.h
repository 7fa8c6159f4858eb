// The daemon's message as the screen of `mayfly top`. docs/dashboard.md has the message's format.
//
// Layer: cli. Pure. The message comes from whatever answers at the address, so a field that is
// missing or of another type is shown as a dash, and every text goes through Grid.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/grid.h"

namespace mayfly::cli {

enum class Section : uint8_t { pools, phases, tenants, host, verdicts, slow };
inline constexpr size_t kSections = 6;
std::string_view name(Section section);

struct TopState {
  Section section = Section::pools;
  std::string sort;      // a column's name; empty: the order of the daemon
  bool turned = false;   // the sort's other direction
  uint32_t skipped = 0;  // rows of the section that are scrolled away
  bool help = false, paused = false;
  std::string link = "live";  // "live", or why not
};

// Below this the screen says so; a terminal may be resized to anything.
inline constexpr uint32_t kColumnsMin = 40, kRowsMin = 8;

// The whole screen: at most `rows` lines.
Grid screenOf(const nlohmann::json& message, const TopState& state, uint32_t columns,
              uint32_t rows);
// The summary and all sections, one below the other: `mayfly top --once`.
Grid pageOf(const nlohmann::json& message, const TopState& state, uint32_t columns);

// The names of the section's columns that can be sorted by.
std::vector<std::string_view> sortsOf(Section section);
bool isSort(std::string_view word);  // of any section
// The number of rows that the section has in this message.
uint32_t rowsOf(const nlohmann::json& message, Section section);

// A key as the terminal sends it: one character, or an escape sequence.
enum class Key : uint8_t {
  none,
  quit,
  next,
  previous,
  up,
  down,
  pageUp,
  pageDown,
  sortNext,
  sortPrevious,
  turn,
  pause,
  help,
  section1,
  section2,
  section3,
  section4,
  section5,
  section6
};
// Takes one key off the front; nothing if its sequence is not complete yet.
std::optional<Key> takeKey(std::string& bytes);
enum class Act : uint8_t { draw, quit, nothing };
Act press(TopState& state, Key key, uint32_t rows);

}  // namespace mayfly::cli
