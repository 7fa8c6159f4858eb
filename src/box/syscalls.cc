#include "box/syscalls.h"

#include <seccomp.h>

#include <string>

namespace mayfly::box {
namespace {

constexpr std::string_view kBase[] = {
    // Files and directories. Only the box's tmpfs is writable.
    "read", "write", "open", "openat", "openat2", "creat", "close", "close_range", "lseek",
    "pread64", "pwrite64", "readv", "writev", "preadv", "pwritev", "preadv2", "pwritev2",
    "sendfile", "copy_file_range", "splice", "tee", "vmsplice", "readahead", "fadvise64", "stat",
    "fstat", "lstat", "newfstatat", "statx", "statfs", "fstatfs", "access", "faccessat",
    "faccessat2", "getdents", "getdents64", "getcwd", "chdir", "fchdir", "mkdir", "mkdirat",
    "rmdir", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat",
    "readlink", "readlinkat", "unlink", "unlinkat", "mknod", "mknodat", "chmod", "fchmod",
    "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "umask", "utime", "utimes",
    "utimensat", "futimesat", "truncate", "ftruncate", "fallocate", "fsync", "fdatasync", "sync",
    "syncfs", "sync_file_range", "flock", "fcntl", "ioctl", "dup", "dup2", "dup3", "pipe", "pipe2",
    "memfd_create", "setxattr", "lsetxattr", "fsetxattr", "getxattr", "lgetxattr", "fgetxattr",
    "listxattr", "llistxattr", "flistxattr", "removexattr", "lremovexattr", "fremovexattr",
    // Memory.
    "mmap", "munmap", "mremap", "mprotect", "madvise", "msync", "mlock", "mlock2", "munlock",
    "mlockall", "munlockall", "brk", "membarrier", "pkey_alloc", "pkey_free", "pkey_mprotect",
    "map_shadow_stack", "mseal", "get_mempolicy",
    // Processes and threads; all in the box's own pid namespace.
    "fork", "vfork", "clone", "execve", "execveat", "exit", "exit_group", "wait4", "waitid",
    "set_tid_address", "set_robust_list", "rseq", "futex", "futex_waitv", "futex_wake",
    "futex_wait", "futex_requeue", "getpid", "getppid", "gettid", "getpgid", "setpgid", "getpgrp",
    "getsid", "setsid", "pidfd_open", "pidfd_send_signal", "prctl", "arch_prctl", "personality",
    "sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getparam", "sched_setparam",
    "sched_getscheduler", "sched_setscheduler", "sched_getattr", "sched_setattr",
    "sched_get_priority_max", "sched_get_priority_min", "sched_rr_get_interval", "getpriority",
    "setpriority", "ioprio_get", "ioprio_set", "getcpu", "getrlimit", "setrlimit", "prlimit64",
    "getrusage", "times",
    // Ids: the box has one uid and no capability, so the kernel refuses every change.
    "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "setuid",
    "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setfsuid", "setfsgid",
    "capget", "capset",
    // Signals.
    "kill", "tkill", "tgkill", "rt_sigaction", "rt_sigprocmask", "rt_sigpending", "rt_sigtimedwait",
    "rt_sigqueueinfo", "rt_tgsigqueueinfo", "rt_sigsuspend", "rt_sigreturn", "sigaltstack", "pause",
    "restart_syscall", "signalfd", "signalfd4",
    // Waiting and time.
    "select", "pselect6", "poll", "ppoll", "epoll_create", "epoll_create1", "epoll_ctl",
    "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2", "timerfd_create",
    "timerfd_settime", "timerfd_gettime", "timer_create", "timer_settime", "timer_gettime",
    "timer_getoverrun", "timer_delete", "alarm", "getitimer", "setitimer", "nanosleep",
    "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time",
    // Sockets: unix, and inet on the box's own loopback; the guards look at the families.
    "socket", "socketpair", "bind", "listen", "accept", "accept4", "connect", "getsockname",
    "getpeername", "getsockopt", "setsockopt", "shutdown", "sendto", "recvfrom", "sendmsg",
    "recvmsg", "sendmmsg", "recvmmsg",
    // System V IPC, in the box's own ipc namespace. The kernel charges segments, queues and
    // semaphores to the memory cgroup, and they die with the namespace.
    "shmget", "shmat", "shmdt", "shmctl", "semget", "semop", "semtimedop", "semctl", "msgget",
    "msgsnd", "msgrcv", "msgctl",
    // A task may confine itself further; seccomp only reports its features.
    "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
    // The rest.
    "getrandom", "uname", "sysinfo"};

// Calls that are not in the base (ENOSYS), and the reasons:
// - inotify_*: all boxes of an image share its inodes, so a watch shows the neighbours' accesses;
//   and instances count against the namespaces' creator, so one box could use up the host's.
// - mq_*: RLIMIT_MSGQUEUE is counted the same way.
// - io_setup...: fs.aio-max-nr is one number for the whole host.
// - modify_ldt, uselib, ustat, sysfs, remap_file_pages, memfd_secret: attack surface that no task
//   needs.

constexpr std::string_view kNever[] = {
    // Namespaces, mounts, roots. clone3 passes its flags in memory, which no filter can read; it
    // gets ENOSYS, so that libraries fall back to clone.
    "clone3", "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "mount_setattr",
    "move_mount", "open_tree", "open_tree_attr", "fsopen", "fsmount", "fsconfig", "fspick",
    // Other processes' memory and descriptors.
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
    // Large or fragile kernel surface; keyrings are shared beyond the box.
    "bpf", "keyctl", "add_key", "request_key", "perf_event_open", "userfaultfd", "io_uring_setup",
    "io_uring_enter", "io_uring_register", "fanotify_init", "fanotify_mark", "lookup_dcookie",
    "nfsservctl", "quotactl", "quotactl_fd", "name_to_handle_at", "open_by_handle_at",
    // The page cache shows the neighbours' reads.
    "mincore", "cachestat",
    // The machine.
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module",
    "create_module", "query_module", "get_kernel_syms", "acct", "swapon", "swapoff", "reboot",
    "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname",
    "syslog", "iopl", "ioperm", "vhangup", "_sysctl",
    // The kernel keeps policies for single pages, in memory that no cap counts.
    "mbind", "set_mempolicy", "set_mempolicy_home_node", "move_pages", "migrate_pages",
    // Sets access control lists, 64 KiB a file, that count for no cap; the older calls are guarded.
    "setxattrat"};

struct Young {
  std::string_view name;
  int number;
};
// Since 424 a call has one number on every architecture. libseccomp 2.5.4 ends at 450.
constexpr Young kYoung[] = {{"set_mempolicy_home_node", 450},
                            {"cachestat", 451},
                            {"fchmodat2", 452},
                            {"map_shadow_stack", 453},
                            {"futex_wake", 454},
                            {"futex_wait", 455},
                            {"futex_requeue", 456},
                            {"statmount", 457},
                            {"listmount", 458},
                            {"mseal", 462},
                            {"setxattrat", 463},
                            {"getxattrat", 464},
                            {"listxattrat", 465},
                            {"removexattrat", 466},
                            {"open_tree_attr", 467},
                            {"file_getattr", 468},
                            {"file_setattr", 469}};

}  // namespace

std::span<const std::string_view> baseCalls() { return kBase; }
std::span<const std::string_view> neverCalls() { return kNever; }

int callNumber(std::string_view name) {
  int number = seccomp_syscall_resolve_name(std::string(name).c_str());
  if (number != __NR_SCMP_ERROR) return number;
  for (const Young& young : kYoung)
    if (young.name == name) return young.number;
  return -1;
}

}  // namespace mayfly::box
