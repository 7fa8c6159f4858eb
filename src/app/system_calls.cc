#include "app/system_calls.h"

namespace mayfly::app {
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
    {"clock_nanosleep", allow},
    {"gettimeofday", allow},
    {"time", allow},
    {"getrandom", allow},
    {"futex", allow},
    {"sched_yield", allow},
    {"restart_syscall", allow},
    // clients, the spawner, clones: no new socket but an accepted one
    {"accept4", allow},
    {"getsockopt", allow},
    {"recvfrom", allow},
    {"recvmsg", allow},
    {"sendto", allow},
    {"sendmsg", allow},
    {"shutdown", allow},
    // the doors of boxes: checked as they come, and listening from the claim on
    {"getsockname", allow},
    {"getpeername", allow},
    {"listen", allow},
    // descriptors that are open
    {"read", allow},
    {"readv", allow},
    {"pread64", allow},
    {"write", allow},
    {"writev", allow},
    {"pwrite64", allow},
    {"lseek", allow},
    {"close", allow},
    {"dup", allow},
    {"fcntl", someOptions},
    {"ioctl", someOptions},
    {"pipe2", allow},
    // inputs, spools and blobs
    {"memfd_create", allow},
    {"ftruncate", allow},
    // what the audit reads
    {"openat", readOnly},
    {"getdents64", allow},
    {"newfstatat", allow},
    {"fstat", allow},
    {"stat", allow},
    {"lstat", allow},
    {"statx", allow},
    {"readlink", allow},
    {"readlinkat", allow},
    // memory
    {"brk", allow},
    {"mmap", dataOnly},
    {"mprotect", dataOnly},
    {"mremap", allow},
    {"munmap", allow},
    {"madvise", allow},
    // signals and ends: its own, and those of the children that come to it
    {"rt_sigaction", allow},
    {"rt_sigprocmask", allow},
    {"rt_sigreturn", allow},
    {"getuid", allow},
    {"geteuid", allow},
    {"getgid", allow},
    {"getegid", allow},
    {"getpid", allow},
    {"gettid", allow},
    {"tgkill", ourselves},
    {"wait4", allow},
    {"waitid", allow},
    {"exit", allow},
    {"exit_group", allow},
};

}  // namespace

std::span<const KnownCall> knownCalls() { return kCalls; }

base::Status allowOnlyServing(base::FdView log) { return walls::allowOnly(kCalls, "mayflyd", log); }

}  // namespace mayfly::app
