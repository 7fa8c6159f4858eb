#include "front/walls.h"

#include <errno.h>
#include <sys/resource.h>

#include "walls/call_list.h"

namespace mayfly::front {

namespace {

using walls::KnownCall;
using enum walls::OnCall;

constexpr KnownCall kCalls[] = {
    // the loop
    {"epoll_wait", allow},
    {"epoll_pwait", allow},
    {"epoll_ctl", allow},
    {"poll", allow},
    {"ppoll", allow},
    {"timerfd_settime", allow},
    {"clock_gettime", allow},
    {"gettimeofday", allow},
    {"time", allow},
    {"getrandom", allow},
    {"futex", allow},
    {"sched_yield", allow},
    {"restart_syscall", allow},
    // sockets that others made: accepted, or received with a message
    {"accept4", allow},
    {"getsockopt", allow},
    {"setsockopt", allow},
    {"recvfrom", allow},
    {"recvmsg", allow},
    {"sendto", allow},
    {"sendmsg", allow},
    {"shutdown", allow},
    {"read", allow},
    {"write", allow},
    {"writev", allow},
    {"close", allow},
    {"fcntl", someOptions},
    {"ioctl", someOptions},
    // memory
    {"brk", allow},
    {"mmap", dataOnly},
    {"mprotect", dataOnly},
    {"mremap", allow},
    {"munmap", allow},
    {"madvise", allow},
    // signals and the end
    {"rt_sigaction", allow},
    {"rt_sigprocmask", allow},
    {"rt_sigreturn", allow},
    {"getpid", allow},
    {"gettid", allow},
    {"tgkill", ourselves},
    {"exit", allow},
    {"exit_group", allow},
};

base::Status limit(int resource, rlim_t most, const char* name) {
  const rlimit none{most, most};
  if (::setrlimit(static_cast<__rlimit_resource>(resource), &none) != 0)
    return base::failSys(errno, "setrlimit", name);
  return base::Unit{};
}

}  // namespace

base::Status raiseOpenFiles() {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return base::failSys(errno, "getrlimit", "NOFILE");
  files.rlim_cur = files.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &files) != 0) return base::failSys(errno, "setrlimit", "NOFILE");
  return base::Unit{};
}

base::Status putUpWalls(base::FdView log) {
  MAYFLY_CHECK(limit(RLIMIT_FSIZE, 0, "FSIZE"));
  MAYFLY_CHECK(limit(RLIMIT_CORE, 0, "CORE"));
  MAYFLY_CHECK(limit(RLIMIT_NPROC, 0, "NPROC"));
  return walls::allowOnly(kCalls, "mayfly-broker front", log);
}

}  // namespace mayfly::front
