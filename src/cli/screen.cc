#include "cli/screen.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "cli/run.h"

namespace mayfly::cli {

using base::Code;
using base::fail;
using base::failSys;
using base::Result;

namespace {

constexpr std::string_view kEnter = "\x1b[?1049h\x1b[?25l\x1b[2J";  // other screen, no cursor
constexpr std::string_view kLeave = "\x1b[0m\x1b[?25h\x1b[?1049l";

// For the handler of fatal signals, which may only look at plain data.
struct {
  termios before{};
  volatile sig_atomic_t entered = 0;
} g_terminal;

constexpr std::array kFatal = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGQUIT};

// Async-signal-safe; the signal then has its usual effect.
void restore() {
  if (g_terminal.entered == 0) return;
  g_terminal.entered = 0;
  [[maybe_unused]] const ssize_t n = ::write(STDOUT_FILENO, kLeave.data(), kLeave.size());
  ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &g_terminal.before);
}
void onFatal(int number) {
  const int saved = errno;
  restore();
  errno = saved;
  ::raise(number);  // SA_RESETHAND: the default action
}

void catchFatal() {
  struct sigaction action {};
  action.sa_handler = onFatal;
  action.sa_flags = SA_RESETHAND | SA_NODEFER;
  for (int number : kFatal) ::sigaction(number, &action, nullptr);
}

}  // namespace

Size terminalSize() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0)
    return {};
  constexpr uint32_t kCellsMax = 1'000;  // of one direction
  return {std::min<uint32_t>(size.ws_col, kCellsMax), std::min<uint32_t>(size.ws_row, kCellsMax)};
}

Grid::Colors colorsOfTerminal() {
  const char* none = ::getenv("NO_COLOR");
  const char* term = ::getenv("TERM");
  const bool dumb = term == nullptr || *term == '\0' || ::strcmp(term, "dumb") == 0;
  return (none != nullptr && *none != '\0') || dumb ? Grid::Colors::none : Grid::Colors::few;
}

Result<Screen> Screen::open() {
  if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDOUT_FILENO) == 0)
    return fail(Code::failedPrecondition, "standard input or output is not a terminal",
                "For a pipe or a file: `mayfly top --once` or `mayfly top --json`.");
  std::array<char, 256> name{};
  if (const int fault = ::ttyname_r(STDIN_FILENO, name.data(), name.size()); fault != 0)
    return failSys(fault, "ttyname", "standard input");
  base::Fd tty(::open(name.data(), O_RDONLY | O_NOCTTY | O_CLOEXEC));
  if (!tty) return failSys(errno, "open", name.data());
  if (::tcgetattr(STDIN_FILENO, &g_terminal.before) != 0)
    return failSys(errno, "tcgetattr", "standard input");
  catchFatal();
  Screen screen(std::move(tty));
  screen.enter();
  return screen;
}

Screen::Screen(Screen&& other) noexcept
    : tty_(std::move(other.tty_)), entered_(std::exchange(other.entered_, false)) {}

Screen::~Screen() { leave(); }

void Screen::enter() {
  if (entered_) return;
  termios raw = g_terminal.before;
  // Keys come at once and are not shown; Ctrl-C and Ctrl-Z stay signals.
  raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
  raw.c_cc[VMIN] = 1;
  raw.c_cc[VTIME] = 0;
  g_terminal.entered = 1;
  entered_ = true;
  ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw);
  writeAll(STDOUT_FILENO, kEnter);
}

void Screen::leave() {
  if (!entered_) return;
  entered_ = false;
  restore();
}

bool Screen::draw(const Grid& grid, Grid::Colors colors) {
  std::string out = "\x1b[H";
  for (size_t row = 0; row < grid.rows(); ++row) {
    if (row > 0) out += "\r\n";
    out += grid.text(row, colors) + "\x1b[K";
  }
  out += "\x1b[J";
  return writeAll(STDOUT_FILENO, out) == Wrote::all;
}

}  // namespace mayfly::cli
