// Layer: bench. See own_daemon.h.
#include "bench/own_daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "base/clock.h"
#include "base/fd.h"

namespace mayfly::bench {
namespace {

constexpr size_t kLogBytesMax = 4u << 20;
constexpr int kStopMsMax = 20'000;
constexpr size_t kSaidBytesMax = 2'000;
constexpr int kLookMs = 100;  // between looks at the daemon's log
constexpr int kReadyFd = 3;

base::Status writeNewFile(const std::string& path, std::string_view text) {
  MAYFLY_TRY(base::Fd fd,
             base::openAt(base::FdView(AT_FDCWD), path, O_WRONLY | O_CREAT | O_EXCL, 0644));
  if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return base::failSys(errno, "write", path);
  return base::Unit{};
}

// In the child. We handle Ctrl-C and stop the daemon, so it has a session of its own.
[[noreturn]] void become(char* const* argv, pid_t parent, int null, int log, int ready) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(126);
  ::setsid();
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);  // ours may hold back what stops the daemon
  ::dup2(null, 0);
  ::dup2(log, 1);
  ::dup2(log, 2);
  if (ready == kReadyFd)
    ::fcntl(kReadyFd, F_SETFD, 0);
  else
    ::dup2(ready, kReadyFd);
  ::execv(argv[0], argv);
  dprintf(2, "cannot run '%s': %s\n", argv[0], strerror(errno));
  ::_exit(127);
}

}  // namespace

OwnDaemon::~OwnDaemon() {
  stop();
  std::error_code ignored;
  for (const std::string& folder : {folder_, state_folder_})
    if (!folder.empty()) std::filesystem::remove_all(folder, ignored);
}

std::string OwnDaemon::log() const {
  auto text = base::readSmallFile(base::FdView(AT_FDCWD), folder_ + "/log", kLogBytesMax);
  return text ? *text : std::string();
}

std::string OwnDaemon::lastWords() const {
  const std::string text = log();
  return text.substr(text.size() > kSaidBytesMax ? text.size() - kSaidBytesMax : 0);
}

base::Status OwnDaemon::start(const OwnDaemonOptions& o) {
  std::string folder = fmt::format("/run/mayfly-{}-XXXXXX", o.purpose);
  if (::mkdtemp(folder.data()) == nullptr) return base::failSys(errno, "mkdtemp", folder);
  folder_ = folder;
  // The daemon drops root, but its socket is in this folder.
  if (::chmod(folder_.c_str(), 0755) != 0) return base::failSys(errno, "chmod", folder_);
  MAYFLY_TRY(base::Pipe ready, base::makePipe());
  MAYFLY_TRY(base::Fd log, base::openAt(base::FdView(AT_FDCWD), folder_ + "/log",
                                        O_WRONLY | O_CREAT | O_APPEND, 0600));
  MAYFLY_TRY(base::Fd null, base::openAt(base::FdView(AT_FDCWD), "/dev/null", O_RDONLY));
  MAYFLY_CHECK(writeNewFile(folder_ + "/config", o.settings));
  const std::string instance = fmt::format("{}-{}", o.purpose, ::getpid());
  state_folder_ = o.state_dir + "/instances/" + instance;
  std::vector<std::string> words = {o.program,
                                    "--config",
                                    folder_ + "/config",
                                    "--instance",
                                    instance,
                                    "--socket",
                                    socket(),
                                    "--run-dir",
                                    folder_,
                                    "--state-dir",
                                    o.state_dir,
                                    "--ready-fd",
                                    std::to_string(kReadyFd)};
  for (const std::string& name : o.templates) words.insert(words.end(), {"--template", name});
  for (const std::string& dir : o.template_dirs) words.insert(words.end(), {"--templates", dir});
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) return base::failSys(errno, "fork", words[0]);
  if (pid_ == 0) become(argv.data(), parent, null.get(), log.get(), ready.write.get());
  ready.write.reset();
  pollfd p{ready.read.get(), POLLIN, 0};
  const uint64_t late_ns = base::monotonicNs() + o.start_ms_max * 1'000'000;
  int n = 0;
  while (n <= 0 && base::monotonicNs() < late_ns) {
    n = ::poll(&p, 1, kLookMs);
    if (n == 0 && !o.hopeless.empty() && this->log().find(o.hopeless) != std::string::npos)
      return base::Unit{};
  }
  char word[8];
  if (n > 0 && ::read(ready.read.get(), word, sizeof word) > 0) return base::Unit{};
  return base::fail(base::Code::failedPrecondition,
                    fmt::format("the daemon of our own, '{}', {}; it said:\n{}", o.purpose,
                                n == 0 ? "did not get ready" : "did not start", lastWords()),
                    "`mayfly doctor` shows what this host offers.");
}

void OwnDaemon::stop() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGTERM);
  int status = 0;
  for (int ms = 0; ms < kStopMsMax; ms += 10) {
    if (::waitpid(pid_, &status, WNOHANG) != 0) {
      pid_ = -1;
      return;
    }
    ::usleep(10'000);
  }
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
}

}  // namespace mayfly::bench
