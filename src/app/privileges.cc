#include "app/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::app {
namespace {

constexpr int kFirstHeld = 4;
constexpr size_t kHeldMax = 8;

[[noreturn]] void runChild(char** argv, const int* fds, int count, int report) {
  // First move all fds above the targets, so that no dup2 overwrites a source.
  int high[kHeldMax + 1];
  char* const environment[] = {nullptr};
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
  ::setsid();  // the daemon alone answers a terminal's signals
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

base::Result<Child> startSpawner(const std::vector<std::string>& argv,
                                 const std::vector<base::FdView>& held) {
  if (held.size() > kHeldMax) return base::fail(base::Code::internal, "too many descriptors");
  MAYFLY_TRY(base::Pair channel, base::makeSeqpacketPair());
  MAYFLY_TRY(base::Pipe report, base::makePipe());
  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
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
  if (pid == 0) runChild(words.data(), fds, count, report.write.get());
  Child child{static_cast<uint32_t>(pid), base::Fd(pidfd), std::move(channel.ours)};
  report.write.reset();
  int error = 0;
  ssize_t n;
  do n = ::read(report.read.get(), &error, sizeof error);
  while (n < 0 && errno == EINTR);
  if (n != 0) return base::failSys(n == sizeof error ? error : EPROTO, "exec", argv[0]);
  return child;
}

base::Status dropRoot(uint32_t uid) {
  auto failed = [](const char* call) {
    return base::failSys(errno, call, "the daemon's own privileges");
  };
  // No program that we might execute can regain a privilege: no root, no file capabilities.
  constexpr unsigned long kBits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED |
                                  SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
                                  SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
  if (::prctl(PR_SET_SECUREBITS, kBits, 0, 0, 0) != 0) return failed("prctl(PR_SET_SECUREBITS)");
  for (int cap = 0; cap <= CAP_LAST_CAP || ::prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; ++cap)
    if (::prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0 && errno != EINVAL)
      return failed("prctl(PR_CAPBSET_DROP)");
  if (::setgroups(0, nullptr) != 0) return failed("setgroups");
  if (::setresgid(uid, uid, uid) != 0) return failed("setresgid");
  if (::setresuid(uid, uid, uid) != 0) return failed("setresuid");
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (::syscall(SYS_capset, &header, none) != 0) return failed("capset");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return failed("prctl(PR_SET_NO_NEW_PRIVS)");
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return failed("prctl(PR_SET_DUMPABLE)");

  uid_t r, e, s;
  gid_t gr, ge, gs;
  __user_cap_data_struct left[2] = {};
  if (::getresuid(&r, &e, &s) != 0 || ::getresgid(&gr, &ge, &gs) != 0 ||
      ::syscall(SYS_capget, &header, left) != 0)
    return failed("capget");
  bool bounded = false;
  for (int cap = 0; cap <= 63; ++cap)
    bounded = bounded || ::prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1;
  bool clean = r == uid && e == uid && s == uid && gr == uid && ge == uid && gs == uid &&
               ::getgroups(0, nullptr) == 0 && !bounded;
  for (const auto& l : left) clean = clean && (l.effective | l.permitted | l.inheritable) == 0;
  if (!clean)
    return base::fail(base::Code::internal, "the daemon still has privileges after dropping them");
  return base::Unit{};
}

base::Result<uint64_t> raiseOpenFiles() {
  rlimit files;
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return base::failSys(errno, "getrlimit", "NOFILE");
  files.rlim_cur = files.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &files) != 0) return base::failSys(errno, "setrlimit", "NOFILE");
  return static_cast<uint64_t>(files.rlim_cur);
}

}  // namespace mayfly::app
