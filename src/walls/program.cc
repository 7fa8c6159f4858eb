#include "walls/program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::walls {
namespace {

constexpr int kFirstHeld = 4;
constexpr size_t kHeldMax = 8;

std::vector<char*> wordsOf(const std::vector<std::string>& texts) {
  std::vector<char*> words;
  for (const std::string& text : texts) words.push_back(const_cast<char*>(text.c_str()));
  words.push_back(nullptr);
  return words;
}

[[noreturn]] void runChild(char** argv, char** environment, const int* fds, int count, int report) {
  // First move all fds above the targets, so that no dup2 overwrites a source.
  int high[kHeldMax + 1];
  for (int i = 0; i < count; ++i)
    if ((high[i] = ::fcntl(fds[i], F_DUPFD_CLOEXEC, 100)) < 0) goto failed;
  if ((report = ::fcntl(report, F_DUPFD_CLOEXEC, 100)) < 0) ::_exit(127);
  for (int i = 0; i < count; ++i)
    if (::dup2(high[i], kFirstHeld - 1 + i) < 0) goto failed;
  {
    int null_fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0 || ::dup2(null_fd, 0) < 0 || ::dup2(null_fd, 1) < 0) goto failed;
  }
  // The exec closes every fd from here on; `report` tells whether the exec worked.
  if (::syscall(SYS_close_range, static_cast<unsigned>(kFirstHeld - 1 + count), ~0u,
                CLOSE_RANGE_CLOEXEC) != 0)
    goto failed;
  ::setsid();  // the parent alone answers a terminal's signals
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  {
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
  }
  if (::chdir("/") == 0) ::execve(argv[0], argv, environment);
failed:
  int error = errno;
  (void)!::write(report, &error, sizeof error);
  ::_exit(127);
}

}  // namespace

base::Result<Child> startProgram(const std::vector<std::string>& argv,
                                 const std::vector<base::FdView>& held,
                                 const std::vector<std::string>& environment) {
  if (held.size() > kHeldMax) return base::fail(base::Code::internal, "too many descriptors");
  MAYFLY_TRY(base::Pair channel, base::makeSeqpacketPair());
  MAYFLY_TRY(base::Pipe report, base::makePipe());
  std::vector<char*> words = wordsOf(argv), variables = wordsOf(environment);
  int fds[kHeldMax + 1] = {channel.theirs.get()};
  int count = 1;
  for (base::FdView fd : held) fds[count++] = fd.get();

  int pidfd = -1;
  clone_args args{};
  args.flags = CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  long pid = ::syscall(SYS_clone3, &args, sizeof args);
  if (pid < 0) return base::failSys(errno, "clone3", argv[0]);
  if (pid == 0) runChild(words.data(), variables.data(), fds, count, report.write.get());
  Child child{static_cast<uint32_t>(pid), base::Fd(pidfd), std::move(channel.ours)};
  report.write.reset();
  int error = 0;
  ssize_t n;
  do n = ::read(report.read.get(), &error, sizeof error);
  while (n < 0 && errno == EINTR);
  if (n != 0) return base::failSys(n == sizeof error ? error : EPROTO, "exec", argv[0]);
  return child;
}

}  // namespace mayfly::walls
