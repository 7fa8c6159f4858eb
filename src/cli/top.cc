#include "cli/top.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/text.h"
#include "cli/run.h"
#include "cli/screen.h"
#include "cli/top_words.h"
#include "cli/words.h"
#include "config/daemon.h"

namespace mayfly::cli {

using base::Code;
using base::fail;
using base::failSys;
using base::printable;
using base::Result;
using base::Status;

namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr const char* kLivePath = "/api/v1/live";
constexpr const char* kNowPath = "/api/v1/now?rows=0";
constexpr int kMessageFormat = 1;  // of the messages; docs/dashboard.md
constexpr int kDepthMax = 16;      // of a message
constexpr std::chrono::seconds kAgainMin{1}, kAgainMax{8};
constexpr size_t kTokenCharsMax = 256;

constexpr const char* kTopAbout =
    "mayfly top: pools, queues, latency, tenants and headroom of a daemon, live.";
constexpr const char* kTopFooter =
    R"(ADDRESS is the daemon's setting http.listen, like 127.0.0.1:9464. Without it, --config
or MAYFLY_HTTP names it.
Keys: 1..6 or Tab a section, < and > the column to sort by, r its direction,
arrows to scroll, p pause, ? all keys, q quit. A column that does not fit is left
out: widen the terminal.
Exit code: 0, or 125 if the daemon does not answer.)";

base::Error noAddress() {
  return {Code::invalidArgument, "no address is named",
          "Name the daemon's setting http.listen: `mayfly top 127.0.0.1:9464`, MAYFLY_HTTP, or "
          "--config "
          "with its settings. docs/dashboard.md explains how to switch it on."};
}

Result<std::string> tokenIn(const std::string& path) {
  base::Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!file) return failSys(errno, "open", path);
  std::array<char, kTokenCharsMax + 2> bytes{};
  const ssize_t n = ::read(file.get(), bytes.data(), bytes.size());
  if (n < 0) return failSys(errno, "read", path);
  std::string_view text(bytes.data(), static_cast<size_t>(n));
  text = text.substr(0, text.find_last_not_of(" \t\r\n") + 1);
  const bool good = !text.empty() && text.size() <= kTokenCharsMax &&
                    std::all_of(text.begin(), text.end(), [](char c) { return c > 32 && c < 127; });
  if (!good)
    return fail(Code::invalidArgument,
                fmt::format("'{}' holds no token: one line of printable characters, at most {}",
                            printable(path), kTokenCharsMax));
  return std::string(text);
}

// Gets one message and shows it.
int topOnce(const HttpAddress& address, const TopOptions& options) {
  asio::io_context io;
  std::string text;
  Status ended;
  const auto feed = HttpFeed::open(
      io, address, kNowPath, [&](std::string_view message) { text = message; },
      [&](Status status) { ended = std::move(status); });
  io.run();
  if (!ended) return sayError(ended.error(), options.json);
  auto message = messageOf(text);
  if (!message) return sayError(message.error(), options.json);
  std::string out;
  if (options.json) {
    out = message->dump(2, ' ', true, Value::error_handler_t::replace) + "\n";
  } else {
    const Grid page = pageOf(*message, options.state, terminalSize().columns);
    const auto colors =
        options.no_color || ::isatty(STDOUT_FILENO) == 0 ? Grid::Colors::none : colorsOfTerminal();
    for (size_t row = 0; row < page.rows(); ++row) out += page.text(row, colors) + "\n";
  }
  return writeAll(STDOUT_FILENO, out) == Wrote::all ? 0 : kExitPipe;
}

class Top {
 public:
  Top(HttpAddress address, const TopOptions& options)
      : address_(std::move(address)),
        state_(options.state),
        colors_(options.no_color ? Grid::Colors::none : colorsOfTerminal()),
        again_(io_),
        keys_(io_),
        signals_(io_, SIGINT, SIGTERM, SIGHUP),
        others_(io_) {
    for (int number : {SIGWINCH, SIGTSTP, SIGCONT}) others_.add(number);
  }
  Top(const Top&) = delete;
  Top& operator=(const Top&) = delete;

  int run() {
    connect();
    awaitEnd();
    awaitOthers();
    io_.run();
    if (feed_) feed_->stop();
    screen_.reset();
    if (failure_) return sayError(*failure_, false);
    return code_;
  }

 private:
  void finish(int code) {
    code_ = code;
    io_.stop();
  }
  void fault(base::Error error) {
    failure_ = std::move(error);
    io_.stop();
  }

  void connect() {
    feed_ = HttpFeed::open(
        io_, address_, kLivePath, [this](std::string_view text) { take(text); },
        [this](Status status) { lost(std::move(status)); });
  }

  void take(std::string_view text) {
    auto message = messageOf(text);
    if (!message) {
      lost(fail(std::move(message).error()));
      return;
    }
    wait_ = kAgainMin;
    state_.link = "live";
    if (state_.paused) return;
    message_ = std::move(*message);
    if (!screen_ && !open()) return;
    draw();
  }

  // Before the first message an error ends the program; later it is shown, and the connection is
  // tried again.
  void lost(Status status) {
    feed_->stop();
    base::Error error = status ? base::Error{Code::unavailable, "the daemon went away", ""}
                               : std::move(status).error();
    if (!screen_ || error.code == Code::permissionDenied) return fault(std::move(error));
    state_.link = "waiting: " + error.message;
    draw();
    again_.expires_after(wait_);
    wait_ = std::min(2 * wait_, kAgainMax);
    again_.async_wait([this](const error_code& why) {
      if (!why) connect();
    });
  }

  bool open() {
    auto screen = Screen::open();
    if (!screen) {
      fault(std::move(screen).error());
      return false;
    }
    screen_.emplace(std::move(*screen));
    keys_.assign(::dup(screen_->keys().get()));
    awaitKeys();
    return true;
  }

  void draw() {
    if (!screen_) return;
    const Size size = terminalSize();
    state_.skipped = std::min(state_.skipped, std::max(1u, rowsOf(message_, state_.section)) - 1);
    if (!screen_->draw(screenOf(message_, state_, size.columns, size.rows), colors_))
      finish(kExitPipe);
  }

  void awaitKeys() {
    keys_.async_read_some(asio::buffer(read_), [this](const error_code& why, size_t size) {
      if (why) return finish(0);  // the terminal is gone
      typed_.append(read_.data(), size);
      bool draws = false;
      while (const auto key = takeKey(typed_)) {
        const Act act = press(state_, *key, rowsOf(message_, state_.section));
        if (act == Act::quit) return finish(0);
        draws = draws || act == Act::draw;
      }
      if (draws) draw();
      awaitKeys();
    });
  }

  void awaitEnd() {
    signals_.async_wait([this](const error_code& why, int number) {
      if (!why) finish(number == SIGINT ? 0 : kExitSignal + number);
    });
  }

  void awaitOthers() {
    others_.async_wait([this](const error_code& why, int number) {
      if (why) return;
      if (number == SIGTSTP && screen_) {
        screen_->leave();
        ::raise(SIGSTOP);
        screen_->enter();  // continued
      }
      draw();
      awaitOthers();
    });
  }

  asio::io_context io_{1};
  HttpAddress address_;
  TopState state_;
  Grid::Colors colors_;
  std::shared_ptr<HttpFeed> feed_;
  asio::steady_timer again_;
  std::chrono::seconds wait_ = kAgainMin;
  std::optional<Screen> screen_;
  asio::posix::stream_descriptor keys_;
  asio::signal_set signals_, others_;
  std::array<char, 256> read_{};
  std::string typed_;
  Value message_;
  std::optional<base::Error> failure_;
  int code_ = 0;
};

}  // namespace

Result<Value> messageOf(std::string_view text) {
  bool deep = false;
  const auto within = [&](int depth, Value::parse_event_t, Value&) {
    deep = deep || depth > kDepthMax;
    return !deep;
  };
  Value message = Value::parse(text, within, false);
  if (deep || !message.is_object())
    return fail(Code::internal, "the daemon's message is no JSON object");
  const double format = numberAt(message, "format");
  if (format != kMessageFormat)
    return fail(Code::failedPrecondition,
                fmt::format("the daemon's messages have format {}, this `mayfly` reads {}",
                            countText(format), kMessageFormat),
                "Use the `mayfly` that belongs to the daemon.");
  return message;
}

Result<HttpAddress> addressOf(const TopOptions& options, std::string_view from_environment) {
  std::string text = options.address, token_file = options.token_file;
  if (!options.config.empty()) {
    MAYFLY_TRY(const config::Daemon settings, config::loadDaemon(options.config));
    if (text.empty()) text = settings.http.listen;
    if (token_file.empty()) token_file = settings.http.token_file;
    if (text.empty())
      return fail(Code::failedPrecondition,
                  fmt::format("'{}' sets no http.listen: this daemon has no dashboard",
                              printable(options.config)),
                  "See docs/dashboard.md.");
  }
  if (text.empty()) text = from_environment;
  if (text.empty()) return fail(noAddress());
  MAYFLY_TRY(HttpAddress address, parseHttpAddress(text));
  if (!token_file.empty()) {
    MAYFLY_TRY(address.token, tokenIn(token_file));
  }
  return address;
}

std::variant<TopOptions, SayAndExit> parseTop(const std::vector<std::string>& args) {
  TopOptions options;
  CLI::App app(kTopAbout, "mayfly top");
  app.get_formatter()->column_width(28);
  app.footer(kTopFooter);
  app.add_option("ADDRESS", options.address, "Where the daemon answers: HOST:PORT");
  app.add_option("--config", options.config, "mayflyd's settings, which name its address and token")
      ->type_name("FILE");
  app.add_option("--token-file", options.token_file, "The file with the token that it wants")
      ->type_name("FILE");
  app.add_flag("--once", options.once, "Print all sections once, and end");
  app.add_flag("--json", options.json, "Print one message as JSON, and end");
  app.add_flag("--no-color", options.no_color, "No colours (NO_COLOR)");
  std::string section;
  app.add_option("--section", section, "The first one to show: pools, phases, tenants, host...")
      ->check(CLI::IsMember({"pools", "phases", "tenants", "host", "verdicts", "slow"}))
      ->type_name("NAME");
  app.add_option("--sort", options.state.sort, "The column to sort by, as its head says")
      ->type_name("NAME");
  try {
    std::vector<std::string> words(args.rbegin(), args.rend());
    app.parse(words);
    if (!options.state.sort.empty() && !isSort(options.state.sort))
      throw CLI::ValidationError("--sort",
                                 "there is no column '" + printable(options.state.sort) + "'");
  } catch (const CLI::CallForHelp&) {
    return SayAndExit{app.help(), 0};
  } catch (const CLI::ParseError& e) {
    return SayAndExit{
        fmt::format("mayfly: {}\n  `mayfly top --help` explains the usage.\n", whyWrong(app, e)),
        2};
  }
  for (size_t i = 0; i < kSections; ++i)
    if (name(static_cast<Section>(i)) == section) options.state.section = static_cast<Section>(i);
  return options;
}

int topMain(const std::vector<std::string>& args) {
  auto parsed = parseTop(args);
  if (auto* it = std::get_if<SayAndExit>(&parsed)) {
    fmt::print(it->code == 0 ? stdout : stderr, "{}", it->text);
    return it->code;
  }
  const TopOptions& options = std::get<TopOptions>(parsed);
  ::setlocale(LC_CTYPE, "C.UTF-8");  // the widths of characters
  const char* from_environment = ::getenv("MAYFLY_HTTP");
  auto address = addressOf(options, from_environment == nullptr ? "" : from_environment);
  if (!address) return sayError(address.error(), options.json);
  if (options.once || options.json) return topOnce(*address, options);
  if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDOUT_FILENO) == 0)
    return sayError({Code::failedPrecondition, "standard input or output is not a terminal",
                     "For a pipe or a file: `mayfly top --once` or `mayfly top --json`."},
                    false);
  return Top(std::move(*address), options).run();
}

}  // namespace mayfly::cli
