#include "vault/room.h"

#include <sched.h>

#include "walls/child_room.h"

namespace mayfly::vault {
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
    {"select", allow},
    {"pselect6", allow},
    {"timerfd_settime", allow},
    {"eventfd2", allow},
    {"clock_gettime", allow},
    {"clock_nanosleep", allow},
    {"gettimeofday", allow},
    {"time", allow},
    {"getrandom", allow},
    {"futex", allow},
    {"sched_yield", allow},
    {"restart_syscall", allow},
    // the threads that resolve names and write the journal
    {"clone", threadOnly},
    {"clone3", missing},
    {"set_robust_list", allow},
    {"rseq", allow},
    {"sched_getaffinity", allow},
    {"exit", allow},
    // upstreams, name servers, the link, those who ask for introspection
    {"socket", internet},
    {"socketpair", allow},
    {"connect", allow},
    {"bind", allow},
    {"listen", allow},
    {"accept", allow},  // Asio 1.74
    {"accept4", allow},
    {"getsockname", allow},
    {"getpeername", allow},
    {"getsockopt", allow},
    {"setsockopt", allow},
    {"recvfrom", allow},
    {"recvmsg", allow},
    {"sendto", allow},
    {"sendmsg", allow},
    {"sendmmsg", allow},
    {"shutdown", allow},
    // descriptors
    {"read", allow},
    {"readv", allow},
    {"pread64", allow},
    {"write", allow},
    {"writev", allow},
    {"pwrite64", allow},
    {"lseek", allow},
    {"close", allow},
    {"dup", allow},
    {"dup3", allow},
    {"fcntl", someOptions},
    {"ioctl", someOptions},
    {"pipe2", allow},
    // its own root: /etc is read-only, /journal is the journal's
    {"openat", allow},
    {"access", allow},
    {"faccessat", allow},
    {"faccessat2", allow},
    {"newfstatat", allow},
    {"fstat", allow},
    {"stat", allow},
    {"lstat", allow},
    {"statx", allow},
    {"readlink", allow},
    {"getcwd", allow},
    {"fsync", allow},
    {"fdatasync", allow},
    {"ftruncate", allow},
    {"unlink", allow},
    // memory
    {"brk", allow},
    {"mmap", dataOnly},
    {"mprotect", dataOnly},
    {"mremap", allow},
    {"munmap", allow},
    {"madvise", allow},
    {"mlock", allow},
    {"mlock2", allow},
    {"munlock", allow},
    // itself
    {"rt_sigaction", allow},
    {"rt_sigprocmask", allow},
    {"rt_sigreturn", allow},
    {"getuid", allow},
    {"geteuid", allow},
    {"getgid", allow},
    {"getegid", allow},
    {"getpid", allow},
    {"gettid", allow},
    {"uname", allow},
    {"sysinfo", allow},
    {"prlimit64", allow},
    {"tgkill", ourselves},
    {"exit_group", allow},
};

}  // namespace

std::span<const KnownCall> knownCalls() { return kCalls; }

base::Status allowOnlyServing(base::FdView log) {
  return walls::allowOnly(kCalls, "mayfly-broker vault", log);
}

base::Status enterRoom(const RoomOptions& options) {
  return walls::enterChildRoom({options.uid,
                                CLONE_NEWIPC | CLONE_NEWUTS,
                                {{options.state_dir + "/etc", "/etc", false},
                                 {options.state_dir + "/journal", "/journal", true}}});
}

}  // namespace mayfly::vault
