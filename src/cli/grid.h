// A text screen as cells: text is put at a place and cut there, so no name can move or colour what
// stands beside it.
//
// Layer: cli. Pure. Widths of characters outside ASCII are the locale's (LC_CTYPE).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::cli {

// Words say what a style means, too: the view reads the same without colours.
enum class Style : uint8_t { plain, strong, soft, good, warn, bad, head };

class Grid {
 public:
  explicit Grid(uint32_t columns) : columns_(columns) {}

  uint32_t columns() const { return columns_; }
  size_t rows() const { return lines_.size(); }

  // Adds a line; put() and right() write into the last one.
  void line();
  // At `column`, at most `width` cells; a longer text ends with '~'. Returns the column behind it.
  uint32_t put(uint32_t column, std::string_view text, Style style = Style::plain,
               uint32_t width = UINT32_MAX);
  // Ends at the cell before `end`.
  void right(uint32_t end, std::string_view text, Style style, uint32_t width);
  // The whole last line, also where nothing was put.
  void fill(Style style);

  enum class Colors : uint8_t { none, few };
  // One line as bytes, without its end and without spaces at it.
  std::string text(size_t row, Colors colors) const;

 private:
  struct Cell {
    std::string glyph = " ";  // empty: the second half of a wide character
    Style style = Style::plain;
  };
  uint32_t columns_;
  std::vector<std::vector<Cell>> lines_;
};

// The cells of a text: control characters and bytes that are not UTF-8 become '?', a character of
// no width joins the one before it.
struct Glyph {
  std::string bytes;
  uint32_t width = 1;
};
std::vector<Glyph> glyphsOf(std::string_view text);

}  // namespace mayfly::cli
