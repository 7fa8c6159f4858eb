// Layer: image. See sandbox.h.
#include "image/sandbox.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>

#include "image/command.h"

namespace mayfly::image {
namespace {

// The rights that installing needs; none of them leads out of the tree.
constexpr int kInstallCapabilities[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID,
                                        CAP_KILL,  CAP_SETGID,       CAP_SETUID, CAP_SETFCAP};
// The further rights that mmdebstrap needs. With CAP_SYS_ADMIN there is no wall.
constexpr int kBootstrapCapabilities[] = {CAP_SYS_ADMIN, CAP_SYS_CHROOT, CAP_MKNOD};

// Calls that no installation needs, and that most escapes from namespaces begin with. A name that
// this libseccomp does not know is younger than its table.
constexpr const char* kRefusedCalls[] = {"acct",
                                         "add_key",
                                         "adjtimex",
                                         "bpf",
                                         "chroot",
                                         "clock_adjtime",
                                         "clock_settime",
                                         "delete_module",
                                         "finit_module",
                                         "fsconfig",
                                         "fsmount",
                                         "fsopen",
                                         "fspick",
                                         "init_module",
                                         "io_uring_enter",
                                         "io_uring_register",
                                         "io_uring_setup",
                                         "ioperm",
                                         "iopl",
                                         "kcmp",
                                         "kexec_file_load",
                                         "kexec_load",
                                         "keyctl",
                                         "lookup_dcookie",
                                         "mount",
                                         "mount_setattr",
                                         "move_mount",
                                         "move_pages",
                                         "name_to_handle_at",
                                         "open_by_handle_at",
                                         "open_tree",
                                         "perf_event_open",
                                         "pidfd_getfd",
                                         "pivot_root",
                                         "process_madvise",
                                         "process_vm_readv",
                                         "process_vm_writev",
                                         "ptrace",
                                         "quotactl",
                                         "quotactl_fd",
                                         "reboot",
                                         "request_key",
                                         "setns",
                                         "settimeofday",
                                         "swapoff",
                                         "swapon",
                                         "syslog",
                                         "umount",
                                         "umount2",
                                         "unshare",
                                         "userfaultfd",
                                         "vhangup"};
// Without rights over the tree, which is read-only.
bool onlyReads(Inside inside) { return inside == Inside::lookUp || inside == Inside::examine; }

constexpr unsigned long kNamespaces = CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS |
                                      CLONE_NEWPID | CLONE_NEWUSER | CLONE_NEWUTS;

void must(const char* step, const std::string& object, long result) {
  if (result >= 0) return;
  dprintf(2, "mayfly: cannot isolate a build step: %s %s: %s\n", step, object.c_str(),
          strerror(errno));
  ::_exit(126);
}

void bindMount(const std::string& from, const std::string& to, bool writable) {
  must("bind", to, ::mount(from.c_str(), to.c_str(), nullptr, MS_BIND, nullptr));
  const unsigned long flags =
      MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NODEV | (writable ? 0ul : 0ul + MS_RDONLY);
  must("remount", to, ::mount(nullptr, to.c_str(), nullptr, flags, nullptr));
}

void mountTmpfs(const std::string& at, const char* options) {
  must("tmpfs", at, ::mount("tmpfs", at.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, options));
}

// Makes a mount point of the same kind as `from`, below the tmpfs of kBindFolder.
void makeMountPoint(const std::string& root, const std::string& to, const std::string& from) {
  struct stat st;
  must("stat", from, ::stat(from.c_str(), &st));
  for (size_t at = 1; (at = to.find('/', at)) != std::string::npos; ++at)
    ::mkdir((root + to.substr(0, at)).c_str(), 0755);
  if (S_ISDIR(st.st_mode)) {
    ::mkdir((root + to).c_str(), 0755);
  } else {
    ::close(::open((root + to).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  }
}

void makeDevices(const std::string& dev) {
  mountTmpfs(dev, "size=1m,mode=755");
  for (const char* name : {"full", "null", "random", "urandom", "zero"}) {
    const std::string node = dev + "/" + name, host = std::string("/dev/") + name;
    ::close(::open(node.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    must("bind", node, ::mount(host.c_str(), node.c_str(), nullptr, MS_BIND, nullptr));
  }
  ::mkdir((dev + "/shm").c_str(), 01777);
  ::chmod((dev + "/shm").c_str(), 01777);
  for (const auto& [name, target] : {std::pair{"fd", "/proc/self/fd"},
                                     {"stdin", "/proc/self/fd/0"},
                                     {"stdout", "/proc/self/fd/1"},
                                     {"stderr", "/proc/self/fd/2"}})
    must("symlink", name, ::symlink(target, (dev + "/" + name).c_str()));
}

// Mounts that a step needs and the tree must not contain: devices, a /proc, scratch space.
void coverTree(const Sandbox& s) {
  // Read-only: its /proc/sys is the host's, and a step may be uid 0.
  must("proc", s.tree,
       ::mount("proc", (s.tree + "/proc").c_str(), "proc",
               MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, nullptr));
  makeDevices(s.tree + "/dev");
  mountTmpfs(s.tree + "/run", "mode=755");
  if (s.inside == Inside::lookUp) mountTmpfs(s.tree + "/tmp", "mode=1777");
  for (const Bind& b : s.binds) {
    if (b.to.rfind(std::string(kBindFolder) + "/", 0) == 0) makeMountPoint(s.tree, b.to, b.from);
    bindMount(b.from, s.tree + b.to, b.writable);
  }
}

void makeMounts(const Sandbox& s) {
  must("make private", "/", ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  must("bind", s.tree, ::mount(s.tree.c_str(), s.tree.c_str(), nullptr, MS_BIND, nullptr));
  if (s.inside != Inside::finish && s.inside != Inside::examine) coverTree(s);
  const unsigned long tree_flags =
      MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NODEV | (onlyReads(s.inside) ? 0ul + MS_RDONLY : 0ul);
  must("remount", s.tree, ::mount(nullptr, s.tree.c_str(), nullptr, tree_flags, nullptr));
  must("chdir", s.tree, ::chdir(s.tree.c_str()));
  must("pivot_root", s.tree, ::syscall(SYS_pivot_root, ".", "."));
  must("detach", "the old root", ::umount2(".", MNT_DETACH));
  must("chdir", "/", ::chdir("/"));
}

bool isAmong(int capability, std::span<const int> kept) {
  return std::find(kept.begin(), kept.end(), capability) != kept.end();
}

void keepCapabilities(std::span<const int> kept, std::span<const int> more = {}) {
  for (int c = 0; c < 64; ++c)
    if (!isAmong(c, kept) && !isAmong(c, more)) ::prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
}

// Called last, because it also refuses the calls before it.
void refuseCalls() {
  scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
  if (!filter) must("seccomp", "filter", -1);
  const auto add = [&](int result) {
    errno = -result;
    must("seccomp", "rule", result);
  };
  // clone3's flags are in memory, which no filter can read: libc works without clone3.
  add(seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0));
  add(seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
                       SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, TIOCSTI)));
  for (unsigned long bit = 1; bit <= kNamespaces; bit <<= 1)
    if (kNamespaces & bit)
      add(seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                           SCMP_A0(SCMP_CMP_MASKED_EQ, bit, bit)));
  for (const char* name : kRefusedCalls) {
    const int call = seccomp_syscall_resolve_name(name);
    if (call != __NR_SCMP_ERROR) add(seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), call, 0));
  }
  add(seccomp_load(filter));
  seccomp_release(filter);
}

void dropRights(Inside inside) {
  keepCapabilities(onlyReads(inside) ? std::span<const int>()
                                     : std::span<const int>(kInstallCapabilities));
  must("no new privileges", "", ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  must("setgroups", "", ::setgroups(0, nullptr));
  if (onlyReads(inside)) {
    must("setgid", "", ::setresgid(kNobody, kNobody, kNobody));
    must("setuid", "", ::setresuid(kNobody, kNobody, kNobody));
  }
  refuseCalls();
}

// This process stays outside, as the parent of a new pid namespace's first process, and ends with
// the same status.
void enterNamespaces(int more) {
  must("unshare", "", ::unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | more));
  const pid_t inner = ::fork();
  must("fork", "", inner);
  if (inner > 0) {
    int status = 0;
    while (::waitpid(inner, &status, 0) < 0 && errno == EINTR) {
    }
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  }
  must("parent-death signal", "", ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
  ::setsid();
  ::umask(022);
  must("host name", "", ::sethostname("mayfly", 6));
}

}  // namespace

std::function<void()> enterSandbox(Sandbox sandbox) {
  return [s = std::move(sandbox)] {
    enterNamespaces(s.inside == Inside::lookUp ? 0 : CLONE_NEWNET);
    makeMounts(s);
    dropRights(s.inside);
    // Set again: setuid cleared it.
    must("parent-death signal", "", ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
  };
}

std::function<void()> leaveHost() {
  return [] {
    enterNamespaces(CLONE_NEWNET);
    must("make private", "/", ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
    must("proc", "/proc",
         ::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr));
    keepCapabilities(kInstallCapabilities, kBootstrapCapabilities);
    must("setgroups", "", ::setgroups(0, nullptr));
  };
}

std::vector<std::string> sandboxEnvironment(const std::vector<std::string>& more) {
  std::vector<std::string> all = {
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
      fmt::format("SOURCE_DATE_EPOCH={}", kImageUnixSeconds), "PYTHONHASHSEED=0"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

}  // namespace mayfly::image
