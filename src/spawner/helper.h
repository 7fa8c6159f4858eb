// A child of the spawner for one piece of work that may take long or hang: the loop watches its
// pidfd and kills it when its time is over.
//
// Layer: spawner. Forking takes some hundred microseconds.
#pragma once

#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <initializer_list>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::spawner {

inline constexpr char kEmpty[] = "/empty";  // a folder of the room: an empty root
inline constexpr int kHelperFd = 3;         // the first descriptor that a helper gets

// Returns the child's pidfd. The child has `keep` as descriptors from kHelperFd on, and no other of
// the spawner's: a descriptor that it held open would keep a box from its end. Its exit code is the
// result of `work`.
template <class Work>
base::Result<base::Fd> startHelper(const char* what, std::initializer_list<base::FdView> keep,
                                   Work work) {
  const pid_t spawner = ::getpid();
  int pidfd = -1;
  clone_args args{};
  args.flags = CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  const long pid = ::syscall(SYS_clone3, &args, sizeof args);
  if (pid < 0) return base::failSys(errno, "clone3", what);
  if (pid > 0) return base::Fd(pidfd);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (::getppid() != spawner) ::_exit(2);  // it ended before that
  ::prctl(PR_SET_NAME, "mayfly-helper", 0, 0, 0);
  constexpr int kAbove = 64;  // above the targets, so that no dup2 overwrites a source
  int high[8], count = 0;
  for (base::FdView fd : keep)
    if ((high[count++] = ::fcntl(fd.get(), F_DUPFD, kAbove)) < 0) ::_exit(2);
  for (int i = 0; i < count; ++i)
    if (::dup2(high[i], kHelperFd + i) < 0) ::_exit(2);
  ::syscall(SYS_close_range, static_cast<unsigned>(kHelperFd + count), ~0u, 0u);
  ::_exit(work());
}

}  // namespace mayfly::spawner
