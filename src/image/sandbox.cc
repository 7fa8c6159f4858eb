// Layer: image. See sandbox.h.
#include "image/sandbox.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

namespace mayfly::image {
namespace {

// What installing needs; not one of them leads out of the tree.
constexpr int kInstallCapabilities[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID,
                                        CAP_KILL,  CAP_SETGID,       CAP_SETUID, CAP_SETFCAP};

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

// A mount point like `from` below the tmpfs of kBindFolder.
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

void makeMounts(const Sandbox& s) {
  must("make private", "/", ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  must("bind", s.tree, ::mount(s.tree.c_str(), s.tree.c_str(), nullptr, MS_BIND, nullptr));
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
  if (s.inside == Inside::lookUp)
    must("remount", s.tree,
         ::mount(nullptr, s.tree.c_str(), nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr));
  must("chdir", s.tree, ::chdir(s.tree.c_str()));
  must("pivot_root", s.tree, ::syscall(SYS_pivot_root, ".", "."));
  must("detach", "the old root", ::umount2(".", MNT_DETACH));
  must("chdir", "/", ::chdir("/"));
}

bool isKept(int capability) {
  for (int kept : kInstallCapabilities)
    if (kept == capability) return true;
  return false;
}

void dropRights(Inside inside) {
  for (int c = 0; c < 64; ++c)
    if (inside == Inside::lookUp || !isKept(c)) ::prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
  must("no new privileges", "", ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  must("setgroups", "", ::setgroups(0, nullptr));
  if (inside == Inside::install) return;
  must("setgid", "", ::setresgid(kNobody, kNobody, kNobody));
  must("setuid", "", ::setresuid(kNobody, kNobody, kNobody));
}

}  // namespace

std::function<void()> enterSandbox(Sandbox sandbox) {
  return [s = std::move(sandbox)] {
    const int network = s.inside == Inside::install ? CLONE_NEWNET : 0;
    must("unshare", "",
         ::unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | network));
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
    makeMounts(s);
    dropRights(s.inside);
    // setuid cleared it.
    must("parent-death signal", "", ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
  };
}

std::function<void()> leaveNetwork() {
  return [] { must("unshare", "the network", ::unshare(CLONE_NEWNET)); };
}

std::vector<std::string> sandboxEnvironment(const std::vector<std::string>& more) {
  std::vector<std::string> all = {
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
      "SOURCE_DATE_EPOCH=0", "PYTHONHASHSEED=0"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

}  // namespace mayfly::image
