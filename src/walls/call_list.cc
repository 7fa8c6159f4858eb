#include "walls/call_list.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
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

namespace mayfly::walls {
namespace {

using enum OnCall;

constexpr KnownCall kEnding[] = {
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
constexpr unsigned long kIoctlCommands[] = {FIONBIO, FIONREAD, TIOCOUTQ};
constexpr unsigned kNetlinkRoute = 0;  // linux/netlink.h
constexpr unsigned long kThread = CLONE_VM | CLONE_THREAD | CLONE_SIGHAND;
constexpr unsigned long kNamespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                      CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
constexpr int kChanging = O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND | (O_TMPFILE & ~O_DIRECTORY);

// The handler runs amid any code of ours, malloc included, so all that it needs is made before.
constexpr size_t kCallsMax = 512, kNameBytesMax = 32;
char call_names[kCallsMax][kNameBytesMax];
bool told[kCallsMax];
int log_fd = -1;
char who_text[32];

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
  size_t n = append(line, 0, who_text);
  n = append(line, n, ": error: refused itself the system call ");
  n = append(line, n, call < kCallsMax ? call_names[call] : "of an unknown number");
  n = append(line, n, ", which is not in its list: a defect, or somebody who took it over\n");
  if (::send(log_fd, line, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) (void)!::write(log_fd, line, n);
}

base::Status handleRefused(std::string_view who, base::FdView log) {
  log_fd = log.get();
  who.copy(who_text, sizeof who_text - 1);
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

  base::Status build(std::span<const KnownCall> calls, const std::string& who) {
    if (!context_) return base::fail(base::Code::internal, "seccomp_init: out of memory");
    const auto set = [this](scmp_filter_attr attribute, uint32_t value) {
      note("seccomp_attr_set", ::seccomp_attr_set(context_.get(), attribute, value));
    };
    set(SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    set(SCMP_FLTATR_CTL_TSYNC, 1);
    set(SCMP_FLTATR_CTL_OPTIMIZE, 2);
    for (const std::span<const KnownCall> list : {calls, std::span<const KnownCall>(kEnding)})
      for (const KnownCall& call : list) {
        // A call that this architecture or this libseccomp lacks is nobody's to make.
        const int number = ::seccomp_syscall_resolve_name(std::string(call.name).c_str());
        if (number >= 0) add(number, call);
      }
    note("seccomp_load", ::seccomp_load(context_.get()));
    if (error_ < 0) return base::failSys(-error_, failed_, who + "'s own list");
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
      case missing:
        return rule(SCMP_ACT_ERRNO(ENOSYS), number);
      case readOnly:
        return rule(SCMP_ACT_ALLOW, number, SCMP_A2(SCMP_CMP_MASKED_EQ, kChanging, 0));
      case dataOnly:
        return rule(SCMP_ACT_ALLOW, number, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
      case threadOnly:
        return rule(SCMP_ACT_ALLOW, number,
                    SCMP_A0(SCMP_CMP_MASKED_EQ, kThread | kNamespaces, kThread));
      case someOptions:
        if (call.name == "fcntl")
          for (int command : kFcntlCommands)
            rule(SCMP_ACT_ALLOW, number,
                 SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffff'ffffu, static_cast<unsigned>(command)));
        else
          for (unsigned long command : kIoctlCommands)
            rule(SCMP_ACT_ALLOW, number, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffff'ffffu, command));
        return;
      case internet: {
        const auto domain = [](unsigned family) {
          return SCMP_A0(SCMP_CMP_MASKED_EQ, 0xffff'ffffu, family);
        };
        rule(SCMP_ACT_ALLOW, number, domain(AF_INET));
        rule(SCMP_ACT_ALLOW, number, domain(AF_INET6));
        rule(SCMP_ACT_ALLOW, number, domain(AF_NETLINK),
             SCMP_A2(SCMP_CMP_MASKED_EQ, 0xffff'ffffu, kNetlinkRoute));
        // The C library looks for nscd. A name without a path would lead to programs of the host.
        return rule(SCMP_ACT_ERRNO(EAFNOSUPPORT), number, domain(AF_UNIX));
      }
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

std::span<const KnownCall> endingCalls() { return kEnding; }

base::Status allowOnly(std::span<const KnownCall> calls, std::string_view who, base::FdView log) {
  if (base::kSanitized) return base::Unit{};
  MAYFLY_CHECK(handleRefused(who, log));
  return Filter().build(calls, std::string(who));
}

}  // namespace mayfly::walls
