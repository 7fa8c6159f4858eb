// The terminal of `mayfly top`: its other screen, keys without Return, and the way back.
//
// The way back is taken at every end: by the destructor, and by a handler if a fatal signal comes.
// Only a kill -9 leaves the terminal as it is (`reset` helps).
//
// Layer: cli. One at a time: it owns the terminal.
#pragma once

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "cli/grid.h"

namespace mayfly::cli {

struct Size {
  uint32_t columns = 80, rows = 24;
};
// Of standard output; the standard size if it is no terminal.
Size terminalSize();

class Screen {
 public:
  // The terminal is standard input's, opened anew: our flags on it are nobody else's.
  static base::Result<Screen> open();
  Screen(Screen&& other) noexcept;
  Screen& operator=(Screen&&) = delete;
  ~Screen();

  base::FdView keys() const { return tty_.view(); }
  void leave();  // until enter(): the terminal as it was, e.g. for a stop
  void enter();
  // Whole lines; false if nobody takes them.
  bool draw(const Grid& grid, Grid::Colors colors);

 private:
  explicit Screen(base::Fd tty) : tty_(std::move(tty)) {}
  base::Fd tty_;
  bool entered_ = false;
};

// By NO_COLOR and TERM.
Grid::Colors colorsOfTerminal();

}  // namespace mayfly::cli
