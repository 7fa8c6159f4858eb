// Layer: image. See command.h.
#include "image/command.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <deque>

#include "base/clock.h"
#include "base/fd.h"
#include "base/text.h"

namespace mayfly::image {
namespace {

using base::Code;
constexpr size_t kTailLinesMax = 12;
constexpr size_t kLineBytesMax = 4'096;
constexpr size_t kOutputBytesMax = 1u << 20;

constexpr uint64_t kEndMsMax = 5'000;  // after a SIGTERM, and again after the SIGKILL
constexpr int kInterrupts[] = {SIGINT, SIGTERM, SIGHUP};

sigset_t interruptSet() {
  sigset_t set;
  sigemptyset(&set);
  for (int number : kInterrupts) {
    struct sigaction now;  // a shell's background command, or one under nohup, ignores some
    if (::sigaction(number, nullptr, &now) == 0 && now.sa_handler != SIG_IGN)
      sigaddset(&set, number);
  }
  return set;
}

std::vector<std::string> childEnvironment() {
  std::vector<std::string> env = {
      "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/nonexistent",
      fmt::format("SOURCE_DATE_EPOCH={}", kImageUnixSeconds), "DEBIAN_FRONTEND=noninteractive"};
  for (const char* name : {"http_proxy", "https_proxy", "no_proxy"}) {
    if (const char* value = ::getenv(name)) env.push_back(std::string(name) + "=" + value);
  }
  return env;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (std::string& s : strings) out.push_back(s.data());
  out.push_back(nullptr);
  return out;
}

class Lines {
 public:
  explicit Lines(const LineSink& sink) : sink_(sink) {}
  void feed(std::string_view bytes) {
    for (char c : bytes) {
      if (c == '\n' || c == '\r' || line_.size() >= kLineBytesMax) flush();
      if (c != '\n' && c != '\r') line_ += c;
    }
  }
  void flush() {
    if (line_.empty()) return;
    if (sink_) sink_(line_);
    tail_.push_back(std::move(line_));
    if (tail_.size() > kTailLinesMax) tail_.pop_front();
    line_.clear();
  }
  std::string tail() const {
    std::string text;
    for (const std::string& line : tail_) text += "\n  " + base::printable(line);
    return text;
  }

 private:
  const LineSink& sink_;
  std::string line_;
  std::deque<std::string> tail_;
};

}  // namespace

Interrupts::Interrupts() {
  const sigset_t set = interruptSet();
  ::sigprocmask(SIG_BLOCK, &set, &before_);
}

Interrupts::~Interrupts() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }

bool interrupted() {
  sigset_t pending;
  sigemptyset(&pending);
  ::sigpending(&pending);
  const sigset_t set = interruptSet();
  for (int number : kInterrupts)
    if (sigismember(&set, number) == 1 && sigismember(&pending, number) == 1) return true;
  return false;
}

base::Error interruption(std::string_view what) {
  return {Code::cancelled, fmt::format("{} was interrupted", what), {}, 0, 0};
}

namespace {

// Reads the command's lines until all of its processes have closed the pipe. A process that leaves
// the command's group dies with it: its sandbox has its own pid namespace, which ends with the
// child.
class Output {
 public:
  enum class End : uint8_t { closed, late, interrupted };
  Output(base::FdView pipe, Lines& lines) : pipe_(pipe), lines_(lines) {}

  End readUntil(uint64_t deadline_ns, base::FdView interrupts) {
    for (;;) {
      const uint64_t now = base::monotonicNs();
      if (now >= deadline_ns) return End::late;
      pollfd waits[2] = {{pipe_.get(), POLLIN, 0}, {interrupts.get(), POLLIN, 0}};
      const uint64_t wait_ms = (deadline_ns - now) / 1'000'000u + 1;
      if (::poll(waits, interrupts ? 2 : 1,
                 static_cast<int>(std::min<uint64_t>(wait_ms, 60'000))) <= 0)
        continue;
      if (interrupts && waits[1].revents != 0) return End::interrupted;
      char buffer[8192];
      const ssize_t n = ::read(pipe_.get(), buffer, sizeof buffer);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return End::closed;
      lines_.feed({buffer, static_cast<size_t>(n)});
    }
  }

 private:
  base::FdView pipe_;
  Lines& lines_;
};

}  // namespace

base::Status runCommand(const Command& what) {
  if (!what.cleans_up && interrupted()) return base::fail(interruption(what.argv[0]));
  const std::vector<std::string>& command = what.argv;
  const uint32_t seconds_max = what.seconds_max;
  MAYFLY_TRY(base::Pipe pipe, base::makePipe());
  MAYFLY_TRY(base::Fd null, base::openAt(base::FdView(AT_FDCWD), "/dev/null", O_RDONLY));
  std::vector<std::string> arguments = command, environment = what.environment.empty()
                                                                  ? childEnvironment()
                                                                  : what.environment;
  std::vector<char*> argv = pointers(arguments), envp = pointers(environment);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return base::failSys(errno, "fork", command[0]);
  if (pid == 0) {
    const sigset_t set = interruptSet();
    ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
    ::setpgid(0, 0);  // the terminal's Ctrl-C is for this process, which then ends the group
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(126);
    ::dup2(null.get(), 0);
    ::dup2(pipe.write.get(), 1);
    ::dup2(pipe.write.get(), 2);
    if (what.enter) what.enter();
    ::environ = envp.data();
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  pipe.write.reset();
  Lines lines(what.on_line);
  ::setpgid(pid, pid);  // whichever of the two is first
  Output output(pipe.read.view(), lines);
  base::Fd interrupts;
  if (!what.cleans_up) {
    const sigset_t set = interruptSet();
    sigset_t blocked;
    ::sigprocmask(SIG_BLOCK, nullptr, &blocked);
    // Without an Interrupts the signals end this process, and so the command.
    if (sigismember(&blocked, SIGTERM) == 1)
      interrupts = base::Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  const auto end = output.readUntil(base::monotonicNs() + uint64_t{seconds_max} * 1'000'000'000u,
                                    interrupts.view());
  if (end != Output::End::closed) {
    // Not yet reaped, so the pid cannot be reused.
    for (int number : {SIGTERM, SIGKILL}) {
      ::kill(-pid, number);
      if (output.readUntil(base::monotonicNs() + kEndMsMax * 1'000'000u, {}) == Output::End::closed)
        break;
    }
    ::kill(-pid, SIGKILL);
  }
  lines.flush();
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (end == Output::End::interrupted) return base::fail(interruption(command[0]));
  if (end == Output::End::late) {
    return base::fail(Code::deadlineExceeded, fmt::format("{} took longer than {} s{}", command[0],
                                                          seconds_max, lines.tail()));
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return base::Unit{};
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127) {
    return base::fail(
        Code::failedPrecondition, fmt::format("cannot run '{}'", command[0]),
        "Is its Debian package installed? `./dev setup` installs all that is needed.");
  }
  const std::string how = WIFEXITED(status) ? fmt::format("exit code {}", WEXITSTATUS(status))
                                            : fmt::format("signal {}", WTERMSIG(status));
  return base::fail(Code::internal,
                    fmt::format("{} failed with {}; it said:{}", command[0], how, lines.tail()));
}

base::Status runCommand(const std::vector<std::string>& argv, uint32_t seconds_max,
                        const LineSink& on_line) {
  return runCommand(Command{argv, seconds_max, on_line, {}, {}, false});
}

base::Result<std::string> commandOutput(const std::vector<std::string>& argv,
                                        uint32_t seconds_max) {
  std::string text;
  MAYFLY_CHECK(runCommand(argv, seconds_max, [&](std::string_view line) {
    if (text.size() + line.size() < kOutputBytesMax) text.append(line) += '\n';
  }));
  return text;
}

}  // namespace mayfly::image
