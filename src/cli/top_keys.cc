// The keys of `mayfly top`. Layer: cli. Pure.
#include <algorithm>
#include <map>

#include "cli/top_view.h"

namespace mayfly::cli {

namespace {

constexpr int64_t kPage = 10;  // rows of one page key

}  // namespace

std::optional<Key> takeKey(std::string& bytes) {
  static const std::map<std::string, Key, std::less<>> keys = {
      {"q", Key::quit},
      {"\x03", Key::quit},
      {"\x04", Key::quit},
      {"\t", Key::next},
      {"\x1b[Z", Key::previous},
      {"\x1b[A", Key::up},
      {"\x1bOA", Key::up},
      {"k", Key::up},
      {"\x1b[B", Key::down},
      {"\x1bOB", Key::down},
      {"j", Key::down},
      {"\x1b[5~", Key::pageUp},
      {"\x1b[6~", Key::pageDown},
      {">", Key::sortNext},
      {"\x1b[C", Key::sortNext},
      {"\x1bOC", Key::sortNext},
      {"<", Key::sortPrevious},
      {"\x1b[D", Key::sortPrevious},
      {"\x1bOD", Key::sortPrevious},
      {"r", Key::turn},
      {"p", Key::pause},
      {" ", Key::pause},
      {"?", Key::help},
      {"h", Key::help},
      {"1", Key::section1},
      {"2", Key::section2},
      {"3", Key::section3},
      {"4", Key::section4},
      {"5", Key::section5},
      {"6", Key::section6},
  };
  constexpr size_t kSequenceMax = 8;
  if (bytes.empty()) return std::nullopt;
  size_t size = 1;
  if (bytes[0] == '\x1b') {
    // ESC [ digits and ';' letter, or ESC O letter.
    if (bytes.size() < 2) return std::nullopt;
    if (bytes[1] == '[' || bytes[1] == 'O') {
      size = 2;
      while (size < bytes.size() && size < kSequenceMax &&
             ((bytes[size] >= '0' && bytes[size] <= '9') || bytes[size] == ';'))
        ++size;
      if (size == bytes.size()) return std::nullopt;
      ++size;
    }
  }
  const auto found = keys.find(std::string_view(bytes).substr(0, size));
  const Key key = found == keys.end() ? Key::none : found->second;
  bytes.erase(0, size);
  return key;
}

namespace {

void sortBy(TopState& state, int step) {
  const auto sorts = sortsOf(state.section);
  const auto here = std::find(sorts.begin(), sorts.end(), state.sort);
  const auto count = static_cast<int>(sorts.size());
  const int at =
      here == sorts.end() ? (step > 0 ? -1 : count) : static_cast<int>(here - sorts.begin());
  state.sort = sorts[static_cast<size_t>((at + step + count) % count)];
  state.turned = false;
}

void choose(TopState& state, size_t section) {
  if (static_cast<size_t>(state.section) == section) return;
  state.section = static_cast<Section>(section);
  state.skipped = 0;
  state.turned = false;
}

}  // namespace

Act press(TopState& state, Key key, uint32_t rows) {
  const auto section = static_cast<size_t>(state.section);
  const auto scroll = [&](int64_t by) {
    const int64_t last = rows == 0 ? 0 : rows - 1;
    state.skipped = static_cast<uint32_t>(std::clamp<int64_t>(state.skipped + by, 0, last));
  };
  if (key == Key::quit) return Act::quit;
  if (key == Key::none) return Act::nothing;
  if (state.help && key != Key::help) {
    state.help = false;
    return Act::draw;
  }
  switch (key) {
    case Key::next:
      choose(state, (section + 1) % kSections);
      break;
    case Key::previous:
      choose(state, (section + kSections - 1) % kSections);
      break;
    case Key::up:
      scroll(-1);
      break;
    case Key::down:
      scroll(1);
      break;
    case Key::pageUp:
      scroll(-kPage);
      break;
    case Key::pageDown:
      scroll(kPage);
      break;
    case Key::sortNext:
      sortBy(state, 1);
      break;
    case Key::sortPrevious:
      sortBy(state, -1);
      break;
    case Key::turn:
      state.turned = !state.turned;
      break;
    case Key::pause:
      state.paused = !state.paused;
      break;
    case Key::help:
      state.help = !state.help;
      break;
    default:
      choose(state, static_cast<size_t>(key) - static_cast<size_t>(Key::section1));
      break;
  }
  return Act::draw;
}

}  // namespace mayfly::cli
