#include "cli/grid.h"

#include <wchar.h>

#include <algorithm>
#include <array>

namespace mayfly::cli {

namespace {

constexpr size_t kGlyphBytesMax = 32;  // a character with those that join it

// The bytes of the character at the front and its code point; {1, -1} if they are none.
std::pair<size_t, int32_t> first(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char b = byte(0);
  const size_t size = b < 0x80 ? 1 : b >= 0xf0 && b < 0xf5 ? 4 : b >= 0xe0 ? 3 : b >= 0xc2 ? 2 : 0;
  if (size == 1) return {1, b};
  if (size == 0 || b >= 0xf5 || text.size() < size) return {1, -1};
  int32_t point = b & (0xff >> (size + 1));
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {1, -1};
    point = (point << 6) | (byte(i) & 0x3f);
  }
  constexpr std::array<int32_t, 5> kLeast = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = point >= 0xd800 && point < 0xe000;
  if (point < kLeast[size] || point > 0x10ffff || surrogate) return {1, -1};
  return {size, point};
}

// Those that change the order of the text around them.
bool turnsText(int32_t point) {
  return (point >= 0x202a && point <= 0x202e) || (point >= 0x2066 && point <= 0x2069) ||
         point == 0x200e || point == 0x200f || point == 0x061c;
}

const char* code(Style style) {
  switch (style) {
    case Style::plain:
      return "";
    case Style::strong:
      return "1";
    case Style::soft:
      return "2";
    case Style::good:
      return "32";
    case Style::warn:
      return "33";
    case Style::bad:
      return "1;31";
    case Style::head:
      return "7";
  }
  return "";
}

}  // namespace

std::vector<Glyph> glyphsOf(std::string_view text) {
  std::vector<Glyph> out;
  while (!text.empty()) {
    const auto [size, point] = first(text);
    const bool ascii = point >= 0x20 && point < 0x7f;
    const int width = ascii                              ? 1
                      : point < 0xa0 || turnsText(point) ? -1
                                                         : ::wcwidth(static_cast<wchar_t>(point));
    if (width < 0)
      out.push_back({"?", 1});
    else if (width > 0)
      out.push_back({std::string(text.substr(0, size)), static_cast<uint32_t>(width)});
    else if (!out.empty() && out.back().bytes.size() + size <= kGlyphBytesMax)
      out.back().bytes += text.substr(0, size);
    text.remove_prefix(size);
  }
  return out;
}

void Grid::line() { lines_.emplace_back(columns_); }

uint32_t Grid::put(uint32_t column, std::string_view text, Style style, uint32_t width) {
  if (lines_.empty()) line();
  if (column >= columns_) return columns_;
  width = std::min(width, columns_ - column);
  const std::vector<Glyph> glyphs = glyphsOf(text);
  uint64_t all = 0;
  for (const Glyph& each : glyphs) all += each.width;
  const uint32_t room = all <= width ? width : width - std::min(width, 1u);
  auto& cells = lines_.back();
  uint32_t at = 0;
  for (const Glyph& each : glyphs) {
    if (at + each.width > room) break;
    cells[column + at] = {each.bytes, style};
    for (uint32_t i = 1; i < each.width; ++i) cells[column + at + i] = {"", style};
    at += each.width;
  }
  if (all > width && width > 0) {
    cells[column + at] = {"~", style};
    ++at;
  }
  return column + at;
}

void Grid::right(uint32_t end, std::string_view text, Style style, uint32_t width) {
  uint64_t all = 0;
  for (const Glyph& each : glyphsOf(text)) all += each.width;
  const auto taken = static_cast<uint32_t>(std::min<uint64_t>({all, width, end}));
  put(end - taken, text, style, taken);
}

void Grid::fill(Style style) {
  for (Cell& cell : lines_.back()) cell.style = style;
}

std::string Grid::text(size_t row, Colors colors) const {
  const auto& cells = lines_.at(row);
  size_t end = cells.size();
  // A line that is filled keeps its spaces where they are to be seen.
  const auto blank = [&](const Cell& cell) {
    return cell.glyph == " " && (colors == Colors::none || cell.style != Style::head);
  };
  while (end > 0 && blank(cells[end - 1])) --end;
  std::string out;
  Style now = Style::plain;
  for (size_t i = 0; i < end; ++i) {
    if (colors != Colors::none && cells[i].style != now) {
      now = cells[i].style;
      out += "\x1b[0";
      if (*code(now) != '\0') (out += ';') += code(now);
      out += 'm';
    }
    out += cells[i].glyph;
  }
  if (now != Style::plain) out += "\x1b[0m";
  return out;
}

}  // namespace mayfly::cli
