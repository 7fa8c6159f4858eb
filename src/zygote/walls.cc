#include "zygote/walls.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sched.h>
#include <sys/stat.h>

#include "zygote/raw.h"
#include "wire/zygote.h"

namespace mayfly::zygote {

using namespace wire;

namespace {

// Landlock's interface as in the kernel: the headers of the oldest supported distribution know only
// its first version.
struct RulesetAttr {
  uint64_t handled_access_fs, handled_access_net, scoped;
};
struct __attribute__((packed)) PathRule {
  uint64_t allowed_access;
  int32_t parent_fd;
};
constexpr uint64_t kExecute = 1 << 0, kWriteFile = 1 << 1, kReadFile = 1 << 2, kReadDir = 1 << 3,
                   kMakeChar = 1 << 6, kMakeBlock = 1 << 11, kRefer = 1 << 13, kTruncate = 1 << 14,
                   kIoctlDev = 1 << 15;
constexpr uint64_t kScopeAbstractSocket = 1 << 0, kScopeSignal = 1 << 1;
constexpr int kCreateRuleset = 444, kAddRule = 445, kRestrictSelf = 446;

int allowFolder(int ruleset, int fd, uint64_t access) {
  PathRule rule{access, fd};
  return syscall(kAddRule, ruleset, 1 /* path beneath */, &rule, 0) == 0 ? 0 : -errno;
}

int allow(int ruleset, const char* path, uint64_t access) {
  int fd = open(path, O_PATH | O_CLOEXEC);
  if (fd < 0) return -errno;
  int r = allowFolder(ruleset, fd, access);
  close(fd);
  return r;
}

// Like allow(); a box without terminals lacks the path.
int allowIfThere(int ruleset, const char* path, uint64_t access) {
  int r = allow(ruleset, path, access);
  return r == -ENOENT ? 0 : r;
}

int limit(int what, uint64_t value) {
  rlimit now;
  if (getrlimit(static_cast<__rlimit_resource>(what), &now) != 0) return -errno;
  // A hard limit can only be lowered here: the host's limit is the ceiling.
  rlim_t v = value < now.rlim_max ? value : now.rlim_max;
  rlimit both{v, v};
  return setrlimit(static_cast<__rlimit_resource>(what), &both) == 0 ? 0 : -errno;
}

int writeText(const char* path, const char* text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  int r = write(fd, text, strlen(text)) < 0 ? -errno : 0;
  close(fd);
  return r;
}

// The task's own user namespace, below the box's: it owns none of the box's other namespaces, so no
// capability in it reaches them; and its id map names only kBoxUser, while the box's shows the ids
// that the template gave it.
int enterOwnUserNamespace() {
  if (unshare(CLONE_NEWUSER) != 0) return -errno;
  char map[32];
  snprintf(map, sizeof map, "%u %u 1", kBoxUser, kBoxUser);
  int r = writeText("/proc/self/uid_map", map);
  if (r == 0) r = writeText("/proc/self/setgroups", "deny");
  return r != 0 ? r : writeText("/proc/self/gid_map", map);
}

// Makes those capabilities effective that a change of ids has kept.
int raiseCapabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct caps[2] = {};
  if (syscall(SYS_capget, &header, caps) != 0) return -errno;
  for (auto& half : caps) half.effective = half.permitted;
  return syscall(SYS_capset, &header, caps) == 0 ? 0 : -errno;
}

}  // namespace

int landlockAbi() {
  long abi = syscall(kCreateRuleset, nullptr, 0, 1 /* version */);
  return abi < 0 ? 0 : static_cast<int>(abi);
}

namespace {

// `restores`: -1, or the folder that criu reads.
int confine(int abi, int restores) {
  if (abi < 1) return 0;  // the doctor reports it, and the settings decide whether it is allowed
  RulesetAttr attr{};
  attr.handled_access_fs = (1ull << 13) - 1;
  if (abi >= 2) attr.handled_access_fs |= kRefer;
  if (abi >= 3) attr.handled_access_fs |= kTruncate;
  if (abi >= 5) attr.handled_access_fs |= kIoctlDev;
  if (abi >= 6) attr.scoped = kScopeAbstractSocket | kScopeSignal;
  size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
  int ruleset = static_cast<int>(syscall(kCreateRuleset, &attr, size, 0));
  if (ruleset < 0) return -errno;
  uint64_t own = attr.handled_access_fs & ~(kMakeChar | kMakeBlock | kIoctlDev);
  uint64_t device = (kReadFile | kReadDir | kWriteFile | kTruncate) & attr.handled_access_fs;
  // `/dev/tty` is the caller's controlling terminal: one of the box's own, or none.
  uint64_t terminal = (kReadFile | kWriteFile | kIoctlDev) & attr.handled_access_fs;
  int r = allow(ruleset, "/", kExecute | kReadFile | kReadDir);
  if (r == 0) r = allow(ruleset, "/tmp", own);
  if (r == 0) r = allow(ruleset, "/task", own);
  if (r == 0) r = allow(ruleset, "/run", own);
  if (r == 0) r = allow(ruleset, "/dev", device);
  if (r == 0) r = allow(ruleset, "/dev/shm", own);
  if (r == 0) r = allowIfThere(ruleset, "/dev/pts", terminal);
  if (r == 0) r = allowIfThere(ruleset, "/dev/tty", terminal);
  if (r == 0 && restores >= 0) r = allow(ruleset, "/proc", device);
  if (r == 0 && restores >= 0) r = allowFolder(ruleset, restores, kReadFile | kReadDir);
  if (r == 0 && syscall(kRestrictSelf, ruleset, 0) != 0) r = -errno;
  close(ruleset);
  return r;
}

}  // namespace

int confineFiles(int abi) { return confine(abi, -1); }

int confineRestorer(int abi, int readable_fd) { return confine(abi, readable_fd); }

int joinOwnKeyring() {
  return syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr) >= 0 || errno == ENOSYS ? 0
                                                                                           : -errno;
}

int becomeTask(UserNamespace place) {
  if (chdir("/task") != 0) return -errno;
  umask(022);
  if (setsid() < 0) return -errno;
  // Without a new user namespace, which gives all capabilities, dropCapabilities() needs some.
  if (place == UserNamespace::ofBox && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return -errno;
  if (setgroups(0, nullptr) != 0 || setresgid(kBoxUser, kBoxUser, kBoxUser) != 0 ||
      setresuid(kBoxUser, kBoxUser, kBoxUser) != 0)
    return -errno;
  // The change of ids made the process non-dumpable; the task may inspect itself.
  if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0) return -errno;
  if (int r = place == UserNamespace::own ? enterOwnUserNamespace() : raiseCapabilities(); r != 0)
    return r;
  // Set after the change of ids, which clears it.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) return -errno;
  if (int r = joinOwnKeyring(); r != 0) return r;
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : -errno;
}

int setFixedLimits() {
  // 1, not 0: a piped core pattern ignores 0 and gives up at 1.
  int r = limit(RLIMIT_CORE, 1);
  if (r == 0) r = limit(RLIMIT_MEMLOCK, 8u << 20);
  if (r == 0) r = limit(RLIMIT_MSGQUEUE, 819'200);
  // Also counted up to the host's root: a box's use reduces what is left for all boxes.
  if (r == 0) r = limit(RLIMIT_SIGPENDING, 1'024);
  if (r == 0) r = limit(RLIMIT_RTPRIO, 0);
  if (r == 0) r = limit(RLIMIT_NICE, 0);
  rlimit stack{8u << 20, 64u << 20};
  rlimit now;
  if (r == 0 && getrlimit(RLIMIT_STACK, &now) == 0) {
    if (now.rlim_max < stack.rlim_max) stack.rlim_max = now.rlim_max;
    if (stack.rlim_cur > stack.rlim_max) stack.rlim_cur = stack.rlim_max;
    r = setrlimit(RLIMIT_STACK, &stack) == 0 ? 0 : -errno;
  }
  return r;
}

int setTaskLimits(const LimitsAtClaim& limits) {
  int r = limit(RLIMIT_NOFILE, limits.open_files);
  if (r == 0) r = limit(RLIMIT_FSIZE, limits.file_size_bytes);
  if (r == 0) r = limit(RLIMIT_CPU, limits.cpu_time_s);
  return r;
}

}  // namespace mayfly::zygote
