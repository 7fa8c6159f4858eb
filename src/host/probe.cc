#include "host/report.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <sstream>

#include "base/fd.h"
#include "base/text.h"
#include "box/seccomp.h"

namespace mayfly::host {
namespace {

using base::Fd;
using base::FdView;

constexpr int kLandlockCreateRuleset = 444;
constexpr int kChildMsMax = 5'000;  // a probe that takes longer counts as failed

std::string readText(const std::string& path) {
  auto text = base::readSmallFile({}, path, 1u << 20);
  if (!text) return {};
  while (!text->empty() && text->back() == '\n') text->pop_back();
  return std::move(*text);
}

uint64_t readNumber(const std::string& path) {
  return ::strtoull(readText(path).c_str(), nullptr, 10);
}

// Runs `probe` in a forked child: returns 0, the probe's errno, or ETIMEDOUT if it hangs.
int inChild(const std::function<int()>& probe) {
  pid_t pid = ::fork();
  if (pid < 0) return errno;
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::_exit(probe() & 0xff);
  }
  Fd handle(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  pollfd wait{handle.get(), POLLIN, 0};
  int ready;
  do {
    ready = ::poll(&wait, 1, handle ? kChildMsMax : 0);
  } while (ready < 0 && errno == EINTR);
  if (handle && ready <= 0) ::kill(pid, SIGKILL);  // our unreaped child: the pid cannot be reused
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (handle && ready <= 0) return ETIMEDOUT;
  return WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
}

int errnoOf(long result) { return result < 0 ? errno : 0; }
std::string why(int error) { return ::strerror(error); }

struct Probe {
  HostReport report;
  KernelVersion kernel;
  bool root = ::geteuid() == 0;
  std::string group;
  bool terminals = false;  // a box can have terminals

  HostLine& line(std::string what, std::string value) {
    return report.lines.emplace_back(
        HostLine{group, std::move(what), std::move(value), HostVerdict::ok, "", ""});
  }
  void ok(std::string what, std::string value) { line(std::move(what), std::move(value)); }
  void degraded(std::string what, std::string value, std::string note) {
    auto& l = line(std::move(what), std::move(value));
    l.verdict = HostVerdict::degraded, l.note = std::move(note);
  }
  void missing(std::string what, std::string value, std::string costs, std::string note) {
    auto& l = line(std::move(what), std::move(value));
    l.verdict = HostVerdict::missing, l.costs = std::move(costs), l.note = std::move(note);
  }
  void unknown(std::string what, std::string note) {
    auto& l = line(std::move(what), "not tried");
    l.verdict = HostVerdict::unknown, l.note = std::move(note);
  }

  void kernelAndRights();
  void namespaces();
  void cgroups();
  void filters();
  void files();
  void neighbours();
  void budget();
};

void Probe::kernelAndRights() {
  group = "Kernel";
  utsname name{};
  ::uname(&name);
  kernel = parseKernelVersion(name.release);
  std::string value = fmt::format("{} {}", name.release, name.machine);
  if (kernel < KernelVersion{5, 14})
    missing("version", value, "ephemeral",
            "At least 5.14 is needed: only cgroup.kill proves that nothing still runs.");
  else
    ok("version", value);

  std::string status = readText("/proc/self/status");
  auto field = [&](const char* key) {
    size_t at = status.find(key);
    return at == std::string::npos ? 0
                                   : ::strtoull(status.c_str() + at + ::strlen(key), nullptr, 16);
  };
  constexpr struct {
    int bit;
    const char* name;
  } kNeeded[] = {{21, "SYS_ADMIN"}, {7, "SETUID"},      {6, "SETGID"},
                 {0, "CHOWN"},      {18, "SYS_CHROOT"}, {5, "KILL"}};
  uint64_t effective = field("CapEff:");
  std::string lacking;
  for (const auto& cap : kNeeded)
    if (!(effective >> cap.bit & 1))
      lacking += (lacking.empty() ? "" : " ") + std::string(cap.name);
  if (lacking.empty())
    ok("capabilities", "SYS_ADMIN SETUID SETGID CHOWN SYS_CHROOT KILL: all that the spawner needs");
  else if (!root)
    unknown("capabilities", "Run the doctor as root to see the daemon's capabilities.");
  else
    missing("capabilities", "no " + lacking, "isolation",
            "The spawner cannot build a box without them.");
}

// Maps a namespace that this process has just unshared: uid 0 is this process's uid, nothing else.
int mapSelf(unsigned uid, unsigned gid) {
  auto write = [](const char* path, const std::string& text) {
    int fd = ::open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return errno;
    int r = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : errno;
    ::close(fd);
    return r;
  };
  if (int e = write("/proc/self/setgroups", "deny")) return e;
  if (int e = write("/proc/self/uid_map", fmt::format("0 {} 1", uid))) return e;
  return write("/proc/self/gid_map", fmt::format("0 {} 1", gid));
}

void Probe::namespaces() {
  group = "Walls";
  constexpr struct {
    int flag;
    const char* name;
  } kKinds[] = {{CLONE_NEWUSER, "user"},    {CLONE_NEWPID, "pid"}, {CLONE_NEWNS, "mnt"},
                {CLONE_NEWNET, "net"},      {CLONE_NEWIPC, "ipc"}, {CLONE_NEWUTS, "uts"},
                {CLONE_NEWCGROUP, "cgroup"}};
  std::string have, lack;
  unsigned uid = ::geteuid(), gid = ::getegid();
  for (const auto& kind : kKinds) {
    int error = inChild([&] {
      int flags = kind.flag == CLONE_NEWUSER || root ? kind.flag : kind.flag | CLONE_NEWUSER;
      return errnoOf(::unshare(flags));
    });
    if (error == 0)
      have += (have.empty() ? "" : " ") + std::string(kind.name);
    else
      lack += fmt::format("{}{} ({})", lack.empty() ? "" : ", ", kind.name, why(error));
  }
  if (lack.empty())
    ok("namespaces", have);
  else
    missing("namespaces", "no " + lack, "isolation",
            "See /proc/sys/user/max_*_namespaces and the kernel's configuration.");

  // A template's user namespace, with a box's below it together with all other kinds.
  int error = inChild([&] {
    if (::unshare(CLONE_NEWUSER) != 0) return errno;
    if (int e = mapSelf(uid, gid)) return e;
    return errnoOf(::unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC |
                             CLONE_NEWUTS | CLONE_NEWPID | CLONE_NEWCGROUP));
  });
  if (error == 0)
    ok("nested", "a box's namespaces below its template's");
  else
    missing("nested", why(error), "isolation", "Nested user namespaces are refused on this host.");

  error = inChild([&] {
    int handle = static_cast<int>(::syscall(SYS_pidfd_open, ::getppid(), 0));
    if (handle < 0) return errno;
    // Joins the parent's own namespaces: changes nothing, but the kernel makes every check.
    return root ? errnoOf(::setns(handle, CLONE_NEWUTS | CLONE_NEWIPC)) : 0;
  });
  if (error == 0)
    ok("pidfd", root ? "held by descriptor; setns by pidfd" : "held by descriptor");
  else
    missing("pidfd", why(error), "isolation", "setns by pidfd needs kernel 5.8.");

  error = inChild([] {
    int fs = static_cast<int>(::syscall(SYS_fsopen, "proc", 0));
    if (fs < 0) return errno;
    return errnoOf(::syscall(SYS_fsconfig, fs, 1 /* set string */, "subset", "pid", 0));
  });
  if (error == 0)
    ok("proc", "subset=pid: a box's /proc shows nothing of the host");
  else if (!root)
    unknown("proc", "Run the doctor as root to try it.");
  else
    missing("proc", why(error), "isolation", "proc with subset=pid needs kernel 5.8.");

  error = inChild([&] {
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return errno;
    if (int e = mapSelf(uid, gid)) return e;
    return errnoOf(::mount("devpts", "/proc", "devpts", MS_NOSUID | MS_NOEXEC,
                           "newinstance,ptmxmode=0666,mode=0620,max=1"));
  });
  terminals = error == 0;
  if (terminals)
    ok("terminals", "a devpts of its own for each box");
  else
    degraded("terminals", why(error),
             "Boxes have no pseudo-terminals: script, pexpect, os.openpty fail in them. "
             "The kernel needs CONFIG_UNIX98_PTYS.");
}

// Makes and removes a throw-away cgroup: which of `names` the controller offers here.
std::vector<std::string> filesOf(const std::string& hierarchy,
                                 const std::vector<std::string>& names, int* error) {
  std::string path = fmt::format("{}/mayfly-doctor-{}", hierarchy, ::getpid());
  std::vector<std::string> found;
  *error = ::mkdir(path.c_str(), 0755) == 0 ? 0 : errno;
  if (*error != 0) return found;
  for (const std::string& name : names)
    if (::access((path + "/" + name).c_str(), F_OK) == 0) found.push_back(name);
  ::rmdir(path.c_str());
  return found;
}

void Probe::cgroups() {
  group = "Caps";
  std::string mountinfo = readText("/proc/self/mountinfo");
  CgroupLayout layout = parseCgroupLayout(mountinfo, "");
  if (!layout.v2_path.empty())
    layout = parseCgroupLayout(mountinfo, readText(layout.v2_path + "/cgroup.controllers"));
  auto has = [](const std::vector<std::string>& files, const char* name) {
    return std::find(files.begin(), files.end(), name) != files.end();
  };

  auto controller = [&](const char* what, CgroupPlace place) {
    if (place == CgroupPlace::none)
      missing(what, "no controller", "caps", "Mount its v1 hierarchy or boot with cgroup v2.");
    else
      ok(what, fmt::format("cgroup {}", name(place)));
  };
  controller("cpu", layout.cpu);
  controller("memory", layout.memory);
  controller("processes", layout.pids);

  if (layout.v2_path.empty()) {
    missing("cgroup v2", "not mounted", "ephemeral",
            "Mount it (mount -t cgroup2 none /sys/fs/cgroup/unified): cgroup.kill kills "
            "every box.");
    return;
  }
  int error = 0;
  auto files = filesOf(layout.v2_path,
                       {"cgroup.kill", "cgroup.events", "memory.max", "memory.peak",
                        "memory.swap.max", "memory.oom.group", "pids.max", "pids.peak", "cpu.max"},
                       &error);
  if (error != 0 && !root) {
    unknown("cgroup v2", "Run the doctor as root: it tries a throw-away cgroup.");
  } else if (error != 0) {
    missing("cgroup v2", why(error), "ephemeral",
            "No cgroup can be made in " + layout.v2_path + ".");
  } else if (!has(files, "cgroup.kill") || !has(files, "cgroup.events")) {
    missing("cgroup v2", "no cgroup.kill", "ephemeral", "cgroup.kill needs kernel 5.14.");
  } else {
    ok("cgroup v2", "cgroup.kill, populated");
  }

  // The files that the spawner reads at a box's end, and the gaps of v1.
  if (error == 0 && layout.memory == CgroupPlace::v2) {
    if (!has(files, "memory.max"))
      degraded("memory files", "not enabled below the root",
               "The spawner enables it: write +memory to " + layout.v2_path +
                   "/cgroup.subtree_control.");
    else if (!has(files, "memory.peak"))
      degraded("memory files", "no memory.peak",
               "A task's peak memory is unknown (it needs kernel 5.19).");
    else
      ok("memory files", "max, peak, oom.group");
  }
  std::vector<std::string> v1;
  int v1_error = 0;
  if (layout.memory == CgroupPlace::v1) {
    v1 = filesOf(layout.memory_path,
                 {"memory.memsw.limit_in_bytes", "memory.oom_control", "memory.max_usage_in_bytes",
                  "memory.kmem.tcp.limit_in_bytes"},
                 &v1_error);
    if (v1_error != 0 && !root)
      unknown("memory files", "Run the doctor as root: it tries a throw-away cgroup.");
    else if (v1_error != 0)
      missing("memory files", why(v1_error), "caps",
              "No cgroup can be made in " + layout.memory_path + ".");
    else if (!has(v1, "memory.oom_control"))
      missing("memory files", "no memory.oom_control", "caps",
              "A kill at the memory cap looks like a crash.");
    else
      ok("memory files", has(v1, "memory.kmem.tcp.limit_in_bytes")
                             ? "limit, peak, oom_control; TCP buffers capped apart"
                             : "limit, peak, oom_control");
  }
  std::vector<std::string> pids = files;
  if (layout.pids == CgroupPlace::v1)
    pids = filesOf(layout.pids_path, {"pids.peak", "pids.events"}, &v1_error);
  if (layout.pids != CgroupPlace::none && (root || error == 0)) {
    if (has(pids, "pids.peak"))
      ok("process files", layout.pids == CgroupPlace::v1
                              ? "max, peak; the cap is enforced by sampling"
                              : "max, peak, events");
    else
      degraded("process files", "no pids.peak",
               "A task's peak of processes is unknown (it needs kernel 6.1).");
  }

  std::string meminfo = readText("/proc/meminfo");
  size_t at = meminfo.find("SwapTotal:");
  uint64_t swap =
      at == std::string::npos ? 0 : ::strtoull(meminfo.c_str() + at + 10, nullptr, 10) << 10;
  bool swap_capped = layout.memory == CgroupPlace::v2 ? has(files, "memory.swap.max")
                                                      : has(v1, "memory.memsw.limit_in_bytes");
  if (swap == 0)
    ok("swap", "none");
  else if (swap_capped)
    ok("swap", base::humanBytes(swap) + ", forbidden to boxes");
  else if (!root)
    unknown("swap", "Run the doctor as root to see whether boxes can be kept from it.");
  else
    missing("swap", base::humanBytes(swap) + ", cannot be forbidden", "caps",
            "Turn it off, or boot with swapaccount=1: a box would use more than its memory cap.");

  error = layout.v2_path.empty() ? ENOENT : inChild([&] {
    std::string own = readText("/proc/self/cgroup");
    size_t line_at = own.rfind("0::");
    if (line_at == std::string::npos) return ENOENT;
    std::string path = own.substr(line_at + 3);
    path = path.substr(0, path.find('\n'));
    int dir = ::open((layout.v2_path + path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) return errno;
    clone_args args{};
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = SIGCHLD;
    args.cgroup = static_cast<uint64_t>(dir);
    long pid = ::syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) ::_exit(0);
    if (pid < 0) return errno;
    ::waitpid(static_cast<pid_t>(pid), nullptr, 0);
    return 0;
  });
  if (error == 0)
    ok("CLONE_INTO_CGROUP", "a box is born under its caps");
  else if (!root)
    unknown("CLONE_INTO_CGROUP", "Run the doctor as root to try it.");
  else
    missing("CLONE_INTO_CGROUP", why(error), "caps", "CLONE_INTO_CGROUP needs kernel 5.7.");
}

void Probe::filters() {
  group = "Filters";
  auto program = box::buildSeccomp({});
  if (!program) {
    missing("seccomp", program.error().message, "isolation", program.error().advice);
  } else {
    struct stat st {};
    ::fstat(program->get(), &st);
    size_t count = static_cast<size_t>(st.st_size) / sizeof(sock_filter);
    int error = inChild([&] {
      std::vector<sock_filter> code(count);
      if (::pread(program->get(), code.data(), static_cast<size_t>(st.st_size), 0) != st.st_size)
        return EIO;
      sock_fprog prog{static_cast<unsigned short>(count), code.data()};
      if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
      if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) != 0) return errno;
      return ::syscall(SYS_unshare, CLONE_NEWUSER) == -1 && errno == EPERM ? 0 : ENOTSUP;
    });
    if (error == 0)
      ok("seccomp", fmt::format("{} instructions, loaded and refusing", count));
    else
      missing("seccomp", why(error), "isolation", "The kernel needs CONFIG_SECCOMP_FILTER.");
  }
  long abi = ::syscall(kLandlockCreateRuleset, nullptr, 0, 1 /* version */);
  if (abi < 1)
    missing("Landlock", errno == EOPNOTSUPP ? "built in, not enabled" : "not in this kernel",
            "landlock",
            "The second wall behind the mounts is missing. Boot with lsm=landlock,... to get it.");
  else if (abi < 6)
    degraded("Landlock", fmt::format("ABI {}", abi),
             "No scopes for abstract sockets and signals (ABI 6); only namespaces contain these.");
  else
    ok("Landlock", fmt::format("ABI {}: files, abstract sockets, signals", abi));
}

void Probe::files() {
  group = "Files";
  int error = inChild([] {
    int fs =
        static_cast<int>(::syscall(SYS_fsopen, "erofs", 0));  // loads the module where it is one
    return errnoOf(fs);
  });
  std::string known = readText("/proc/filesystems");
  bool erofs = error == 0 || known.find("erofs") != std::string::npos;
  if (!erofs && !root)
    unknown("images (erofs)", "Run the doctor as root: the module may not be loaded yet.");
  else if (!erofs)
    missing("images (erofs)", "not in this kernel", "isolation",
            "Templates' images are erofs files.");
  else if (kernel >= KernelVersion{6, 12})
    ok("images (erofs)", "mounted straight from a file");
  else if (::access("/dev/loop-control", F_OK) == 0)
    ok("images (erofs)", "mounted through a loop device (kernel before 6.12)");
  else
    missing("images (erofs)", "no loop devices", "isolation",
            "Load the module 'loop', or use kernel 6.12.");

  auto memfd = base::makeMemfd("mayfly-doctor");
  if (memfd && base::sealMemfd(memfd->view()))
    ok("memfd", "sealed: inputs cannot change in transit");
  else
    missing("memfd", "no sealing", "isolation", "Kernel 3.17 with CONFIG_MEMFD_CREATE.");

  std::string pattern = readText("/proc/sys/kernel/core_pattern");
  if (!pattern.empty() && pattern[0] == '@')
    missing("core dumps", "'" + pattern + "'", "ephemeral",
            "A socket as core pattern gets a task's memory whatever its limits; use a file or "
            "a pipe.");
  else
    ok("core dumps", fmt::format("'{}': boxes dump none (limit 1)", pattern));
}

void Probe::neighbours() {
  group = "Neighbours";
  std::string ksm = readText("/sys/kernel/mm/ksm/run");
  if (ksm == "1")
    degraded("page merging", "on",
             "Boxes cannot join (seccomp refuses), but other processes of the host can.");
  else
    ok("page merging", ksm.empty() ? "not in this kernel" : "off");
  std::string smt = readText("/sys/devices/system/cpu/smt/active");
  if (smt == "1")
    degraded("hyperthreads", "on",
             "Two tenants may share a core: turn SMT off if tenants are enemies.");
  else
    ok("hyperthreads", "off");
  std::string mask = readText("/sys/devices/virtual/workqueue/cpumask");  // hexadecimal words
  long workers = 0, cores = ::sysconf(_SC_NPROCESSORS_ONLN);
  for (char digit : mask)
    if (digit != ',')
      workers += std::popcount(
          static_cast<unsigned>(::strtoul(std::string(1, digit).c_str(), nullptr, 16)));
  if (!terminals || (!mask.empty() && workers < cores))
    ok("terminals' work",
       terminals ? fmt::format("in kernel workers on {} of {} cores", workers, cores) : "none");
  else
    degraded("terminals' work", "in kernel workers on every core",
             "This work is outside a task's cpu caps: if tenants are enemies, set terminal.ptys to "
             "0, or write fewer cores to /sys/devices/virtual/workqueue/cpumask.");
  std::string vulnerable;
  for (const char* name : {"spectre_v1", "spectre_v2", "meltdown", "spec_store_bypass", "l1tf",
                           "mds", "tsx_async_abort", "mmio_stale_data", "retbleed", "srbds",
                           "gather_data_sampling", "reg_file_data_sampling", "spec_rstack_overflow",
                           "indirect_target_selection", "tsa", "vmscape"}) {
    std::string state = readText(std::string("/sys/devices/system/cpu/vulnerabilities/") + name);
    if (state.rfind("Vulnerable", 0) == 0)
      vulnerable += (vulnerable.empty() ? "" : " ") + std::string(name);
  }
  if (vulnerable.empty())
    ok("cpu flaws", "the kernel leaves no known flaw open");
  else
    degraded("cpu flaws", vulnerable,
             "Open on this kernel or machine: a task may read memory that is not its own.");
  std::string overcommit = readText("/proc/sys/vm/overcommit_memory");
  if (overcommit == "2")
    degraded("overcommit", "strict",
             "Forks may fail long before any cap is reached (vm.overcommit_memory is 2).");
  else
    ok("overcommit", overcommit == "1" ? "always" : "heuristic");
  std::string thp = readText("/sys/kernel/mm/transparent_hugepage/enabled");
  size_t open = thp.find('['), close = thp.find(']');
  if (open != std::string::npos && close != std::string::npos)
    ok("huge pages",
       fmt::format("transparent: {}; reserved: {}", thp.substr(open + 1, close - open - 1),
                   readNumber("/proc/sys/vm/nr_hugepages")));
  std::string yama = readText("/proc/sys/kernel/yama/ptrace_scope");
  ok("ptrace", yama.empty() ? "no Yama; refused in boxes by seccomp"
                            : "Yama " + yama + "; refused in boxes by seccomp");
}

void Probe::budget() {
  HostBudget& b = report.budget;
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  b.fds_hard = files.rlim_max;
  b.pids_max =
      std::min(readNumber("/proc/sys/kernel/pid_max"), readNumber("/proc/sys/kernel/threads-max"));
  b.user_namespaces_max = ~0ull;
  for (const char* kind : {"user", "pid", "mnt", "net", "ipc", "uts", "cgroup"})
    b.user_namespaces_max = std::min(
        b.user_namespaces_max, readNumber(fmt::format("/proc/sys/user/max_{}_namespaces", kind)));
  std::istringstream lines(readText("/proc/meminfo"));
  std::string key, unit;
  for (uint64_t value; lines >> key >> value;) {
    std::getline(lines, unit);
    if (key == "MemTotal:") b.memory_total_bytes = value << 10;
    if (key == "MemAvailable:") b.memory_available_bytes = value << 10;
  }
  if (terminals)
    b.ptys_max = boxesPtys(readNumber("/proc/sys/kernel/pty/max"),
                           readNumber("/proc/sys/kernel/pty/reserve"),
                           readNumber("/proc/sys/kernel/pty/nr"));
  countBoxes(b);
  report.capacity = capacityOf(b, {});
}

}  // namespace

HostReport hostReport() {
  Probe probe;
  probe.kernelAndRights();
  probe.namespaces();
  probe.cgroups();
  probe.filters();
  probe.files();
  probe.neighbours();
  probe.budget();
  return std::move(probe.report);
}

}  // namespace mayfly::host
