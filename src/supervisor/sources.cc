#include "supervisor/sources.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>
#include <vector>

namespace mayfly::supervisor {

using base::Code;
using base::Fd;
using base::Result;

namespace {

constexpr mode_t kOthersMayRead = 0077, kOthersMayWrite = 0022;
constexpr rlim_t kCommandMemoryBytesMax = 4ull << 30;

Result<Opened> openChecked(const std::string& path, const SourceRules& rules, mode_t forbidden,
                           size_t bytes_max) {
  open_how how{};
  how.flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  how.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  Fd file(static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof how)));
  if (!file && errno == ELOOP)
    return base::fail(Code::permissionDenied,
                      fmt::format("'{}' is, or lies behind, a symbolic link", path),
                      "Name the file itself.");
  if (!file) return base::failSys(errno, "open", path);
  struct stat st;
  if (::fstat(file.get(), &st) != 0) return base::failSys(errno, "fstat", path);
  if (!S_ISREG(st.st_mode))
    return base::fail(Code::invalidArgument, fmt::format("'{}' is no regular file", path));
  if (st.st_uid != 0 && st.st_uid != rules.operator_uid)
    return base::fail(
        Code::permissionDenied, fmt::format("'{}' belongs to uid {}", path, st.st_uid),
        rules.operator_uid == 0 ? "Give it to root."
                                : fmt::format("Give it to root or to uid {}.", rules.operator_uid));
  if ((st.st_mode & forbidden) != 0)
    return base::fail(
        Code::permissionDenied,
        fmt::format("'{}' has the mode {:04o}: others than its owner may {} it", path,
                    st.st_mode & 07777u, forbidden == kOthersMayWrite ? "write" : "read or write"),
        fmt::format("chmod {:04o} {}", st.st_mode & 07777u & ~forbidden, path));
  if (static_cast<uint64_t>(st.st_size) > bytes_max)
    return base::fail(Code::invalidArgument, fmt::format("'{}' has {} bytes; {} are allowed", path,
                                                         st.st_size, bytes_max));
  return Opened{std::move(file), stampOf(st)};
}

// Between fork and exec: no allocation.
[[noreturn]] void runCommand(char* const* argv, uid_t uid, int output, int report) {
  static char path[] = "PATH=/usr/local/bin:/usr/bin:/bin", home[] = "HOME=/";
  char* const environment[] = {path, home, nullptr};
  const rlimit none{0, 0}, memory{kCommandMemoryBytesMax, kCommandMemoryBytesMax};
  const int null_fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t all;
  ::sigemptyset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
  const bool ready =
      null_fd >= 0 && ::setsid() >= 0 && ::dup2(null_fd, 0) == 0 && ::dup2(output, 1) == 1 &&
      ::dup2(null_fd, 2) == 2 && ::syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC) == 0 &&
      ::setgroups(0, nullptr) == 0 && ::setresgid(uid, uid, uid) == 0 &&
      ::setresuid(uid, uid, uid) == 0 && ::setrlimit(RLIMIT_CORE, &none) == 0 &&
      ::setrlimit(RLIMIT_AS, &memory) == 0 && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
      ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 && ::chdir("/") == 0;
  ::umask(077);
  if (ready) ::execve(argv[0], argv, environment);
  const int error = errno;
  (void)!::write(report, &error, sizeof error);
  ::_exit(127);
}

}  // namespace

Stamp stampOf(const struct stat& st) {
  const auto ns = [](const timespec& t) { return t.tv_sec * int64_t{1'000'000'000} + t.tv_nsec; };
  return {st.st_dev, st.st_ino, static_cast<uint64_t>(st.st_size), ns(st.st_mtim), ns(st.st_ctim)};
}

Result<Opened> openSecret(const config::SecretSource& source, const SourceRules& rules) {
  std::string path = source.path;
  if (source.from == config::SecretSource::From::credential) {
    if (rules.credentials_dir.empty())
      return base::fail(Code::notFound,
                        fmt::format("there is no folder of systemd's for credential '{}'", path),
                        "Start the daemon by a unit with LoadCredential=.");
    path = rules.credentials_dir + "/" + path;
  }
  return openChecked(path, rules, source.open ? kOthersMayWrite : kOthersMayRead,
                     config::kSecretBytesMax);
}

Result<Opened> openPolicy(const std::string& path, const SourceRules& rules) {
  return openChecked(path, rules, kOthersMayWrite, config::kPolicyFileBytesMax);
}

Result<Command> Command::start(const config::SecretSource& source, const SourceRules& rules,
                               uint64_t now_ns) {
  if (rules.command_uid == 0)
    return base::fail(Code::failedPrecondition, "commands have no user: --command-uid is missing");
  MAYFLY_TRY(base::Pipe output, base::makePipe());
  MAYFLY_TRY(base::Pipe report, base::makePipe());
  // One byte more than a secret may have: the vault sees that it is too long.
  if (::fcntl(output.write.get(), F_GETPIPE_SZ) < static_cast<int>(config::kSecretBytesMax))
    (void)::fcntl(output.write.get(), F_SETPIPE_SZ, static_cast<int>(config::kSecretBytesMax));
  std::vector<char*> words;
  for (const std::string& word : source.command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);

  int pidfd = -1;
  clone_args args{};
  args.flags = CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  const long pid = ::syscall(SYS_clone3, &args, sizeof args);
  if (pid < 0) return base::failSys(errno, "clone3", source.command[0]);
  if (pid == 0) runCommand(words.data(), rules.command_uid, output.write.get(), report.write.get());
  Command command;
  command.name_ = source.command[0];
  command.time_ms_max_ = source.time_ms_max;
  command.deadline_ns_ = now_ns + source.time_ms_max * kMsNs;
  command.pid_ = static_cast<int>(pid);
  command.pidfd_ = Fd(pidfd);
  command.output_ = std::move(output.read);
  report.write.reset();
  int error = 0;
  ssize_t n;
  do n = ::read(report.read.get(), &error, sizeof error);
  while (n < 0 && errno == EINTR);
  if (n != 0) return base::failSys(n == sizeof error ? error : EPROTO, "start", source.command[0]);
  MAYFLY_CHECK(base::setNonblocking(command.output_.view()));
  return command;
}

Result<Fd> Command::finish() {
  siginfo_t info{};
  if (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd_.get()), &info,
               WEXITED | WNOWAIT) != 0)
    return base::failSys(errno, "waitid", name_);
  kill();
  if (info.si_code != CLD_EXITED)
    return base::fail(Code::internal,
                      fmt::format("'{}' was killed by signal {}", name_, info.si_status));
  if (info.si_status != 0)
    return base::fail(Code::internal, fmt::format("'{}' exited with {}", name_, info.si_status),
                      "Run it by hand as an unprivileged user; what it says is not logged, because "
                      "it may be a secret.");
  return std::move(output_);
}

base::Error Command::giveUp() {
  kill();
  return base::Error{Code::deadlineExceeded,
                     fmt::format("'{}' did not end within {} ms", name_, time_ms_max_),
                     fmt::format("It may write at most {} bytes.", config::kSecretBytesMax), 0};
}

void Command::kill() {
  if (!pidfd_) return;
  ::kill(-pid_, SIGKILL);
  siginfo_t info;
  ::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd_.get()), &info, WEXITED);
  pidfd_.reset();
}

}  // namespace mayfly::supervisor
