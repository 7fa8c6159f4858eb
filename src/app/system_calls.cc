#include "app/system_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>

#include "base/call_filter.h"
#include "base/text.h"

namespace mayfly::app {
namespace {

using enum OnCall;

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
    // the doors of boxes: their sockets are checked, and listen at the claim
    {"getsockname", allow},
    {"getpeername", allow},
    {"listen", allow},
    {"recvfrom", allow},
    {"recvmsg", allow},
    {"sendto", allow},
    {"sendmsg", allow},
    {"shutdown", allow},
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
    // new programs and the ways out of a confined process
    {"execve", end},
    {"execveat", end},
    {"ptrace", end},
    {"process_vm_readv", end},
    {"process_vm_writev", end},
    {"pidfd_getfd", end},
    {"unshare", end},
    {"setns", end},
    {"chroot", end},
    {"pivot_root", end},
    {"mount", end},
    {"umount2", end},
    {"fsopen", end},
    {"fsmount", end},
    {"open_tree", end},
    {"move_mount", end},
    {"mount_setattr", end},
    {"bpf", end},
    {"perf_event_open", end},
    {"userfaultfd", end},
    {"io_uring_setup", end},
    {"init_module", end},
    {"finit_module", end},
    {"add_key", end},
    {"request_key", end},
    {"keyctl", end},
    {"open_by_handle_at", end},
};

constexpr int kFcntlCommands[] = {F_GETFD, F_SETFD,         F_GETFL,     F_SETFL,
                                  F_DUPFD, F_DUPFD_CLOEXEC, F_ADD_SEALS, F_GET_SEALS};
constexpr unsigned long kIoctlCommands[] = {FIONBIO, FIONREAD};
constexpr int kChanging = O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND | (O_TMPFILE & ~O_DIRECTORY);

// The handler runs amid any code of ours, malloc included, so all that it needs is made before.
constexpr size_t kCallsMax = 512, kNameBytesMax = 32;
char call_names[kCallsMax][kNameBytesMax];
bool told[kCallsMax];
int log_fd = -1;

size_t append(char* text, size_t at, const char* word) {
  const size_t n = ::strlen(word);
  ::memcpy(text + at, word, n);
  return at + n;
}

void onRefused(int, siginfo_t* info, void* context) {
  static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RAX] = -EPERM;
  const auto call = static_cast<size_t>(info->si_syscall);
  if (call < kCallsMax && told[call]) return;
  if (call < kCallsMax) told[call] = true;
  char line[160];
  size_t n = append(line, 0, "mayflyd: error: refused itself the system call ");
  n = append(line, n, call < kCallsMax ? call_names[call] : "of an unknown number");
  n = append(line, n, ", which is not in its list: a defect, or somebody who took it over\n");
  if (::send(log_fd, line, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) (void)!::write(log_fd, line, n);
}

base::Status handleRefused(base::FdView log) {
  log_fd = log.get();
  for (size_t call = 0; call < kCallsMax; ++call) {
    char* name = ::seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, static_cast<int>(call));
    const std::string text = name != nullptr ? name : std::to_string(call);
    ::free(name);
    ::memcpy(call_names[call], text.c_str(), std::min(text.size(), kNameBytesMax - 1));
  }
  struct sigaction action {};
  action.sa_sigaction = onRefused;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  if (::sigaction(SIGSYS, &action, nullptr) != 0)
    return base::failSys(errno, "sigaction", "SIGSYS");
  return base::Unit{};
}

class Filter {
 public:
  Filter() : context_(::seccomp_init(SCMP_ACT_TRAP)) {}

  base::Status build() {
    if (!context_) return base::fail(base::Code::internal, "seccomp_init: out of memory");
    const auto set = [this](scmp_filter_attr attribute, uint32_t value) {
      note("seccomp_attr_set", ::seccomp_attr_set(context_.get(), attribute, value));
    };
    set(SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    set(SCMP_FLTATR_CTL_TSYNC, 1);
    set(SCMP_FLTATR_CTL_OPTIMIZE, 2);
    for (const KnownCall& call : kCalls) {
      // A call that this architecture or this libseccomp lacks is nobody's to make.
      const int number = ::seccomp_syscall_resolve_name(std::string(call.name).c_str());
      if (number >= 0) add(number, call);
    }
    note("seccomp_load", ::seccomp_load(context_.get()));
    if (error_ < 0) return base::failSys(-error_, failed_, "the daemon's own list");
    return base::Unit{};
  }

 private:
  struct Release {
    void operator()(void* context) const { ::seccomp_release(context); }
  };

  void note(const char* call, int result) {
    if (result < 0 && error_ == 0) error_ = result, failed_ = call;
  }
  template <class... Conditions>
  void rule(uint32_t action, int number, Conditions... conditions) {
    const scmp_arg_cmp list[] = {conditions..., {}};
    note("seccomp_rule_add",
         ::seccomp_rule_add_array(context_.get(), action, number, sizeof...(conditions), list));
  }

  void add(int number, const KnownCall& call) {
    switch (call.on) {
      case allow:
        return rule(SCMP_ACT_ALLOW, number);
      case readOnly:
        return rule(SCMP_ACT_ALLOW, number, SCMP_A2(SCMP_CMP_MASKED_EQ, kChanging, 0));
      case dataOnly:
        return rule(SCMP_ACT_ALLOW, number, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
      case someOptions:
        if (call.name == "fcntl")
          for (int command : kFcntlCommands)
            rule(SCMP_ACT_ALLOW, number,
                 SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffff'ffffu, static_cast<unsigned>(command)));
        else
          for (unsigned long command : kIoctlCommands)
            rule(SCMP_ACT_ALLOW, number, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffff'ffffu, command));
        return;
      case ourselves:
        return rule(SCMP_ACT_ALLOW, number,
                    SCMP_A0(SCMP_CMP_EQ, static_cast<scmp_datum_t>(::getpid())));
      case end:
        return rule(SCMP_ACT_KILL_PROCESS, number);
    }
  }

  std::unique_ptr<void, Release> context_;
  int error_ = 0;
  const char* failed_ = "";
};

}  // namespace

std::span<const KnownCall> knownCalls() { return kCalls; }

base::Status allowOnlyServing(base::FdView log) {
  if (base::kSanitized) return base::Unit{};
  MAYFLY_CHECK(handleRefused(log));
  return Filter().build();
}

}  // namespace mayfly::app
