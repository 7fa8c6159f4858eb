// mayfly-bench-criu: criu's own command line, restoring a template's snapshot again and again; the
// times as JSON on stdout.
//
// This is the floor of a restored clone: a namespace of each kind, the image as root, and then only
// `criu restore`, the clone's end and its reaping. There is no user namespace, no cgroup, no
// seccomp, no Landlock, no reseed, no task. Each of --outstanding workers is pid 1 of namespaces of
// its own and restores one clone after another.
//
//   --kernel-file kept   criu finds what it learned of the kernel in an earlier restore
//   --kernel-file none   as in a fresh box or container, whose /run is empty
//
// A restore that fails is counted, and criu's words for it are told; the times are those of the
// others. More failures than a tenth end the run.
//
// Layer: bench. Needs root. One thread. Ends with its workers.
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/clock.h"
#include "zygote/snapshot.h"

namespace {

using namespace mayfly;
using base::monotonicNs;
using namespace mayfly::zygote;

constexpr int kStallMsMax = 60'000;  // without any restore
constexpr int kFirstStream = 3;
constexpr uid_t kTaskUser = 1'000;
constexpr int kFirstTriesMax = 3;
constexpr size_t kSaidBytesMax = 16'384;
constexpr char kKernelPath[] = "/run/criu.kdat", kImagesPath[] = "/mnt";

struct Options {
  std::string snapshot, root;
  uint64_t count = 20;
  uint32_t outstanding = 1;
  bool keeps_kernel_file = true;
};

// One restore, as a worker tells it.
struct Restore {
  uint64_t began_ns = 0, restored_ns = 0, reaped_ns = 0, cpu_ns = 0;
  int32_t failed = 0;   // 0, or the end of criu; 1: it left no clone, or one that ended badly
  char said[160] = {};  // criu's words for it
};

// All of a run.
struct Restores {
  std::vector<Restore> good;
  uint64_t failed = 0;
  std::string said;  // of the first that failed
};

[[noreturn]] void die(const std::string& text) {
  std::fprintf(stderr, "mayfly-bench-criu: %s\n", text.c_str());
  ::exit(1);
}

void must(bool well, const char* what) {
  if (!well) die(std::string(what) + ": " + strerror(errno));
}

Streams readStreams(const std::string& snapshot) {
  Streams streams;
  const Streams wanted;
  const int fd = ::open((snapshot + "/" + kStreamsFile).c_str(), O_RDONLY | O_CLOEXEC);
  must(fd >= 0, "the snapshot's streams");
  const ssize_t n = ::read(fd, &streams, sizeof streams);
  ::close(fd);
  if (n != sizeof streams || streams.magic != wanted.magic || streams.version != wanted.version)
    die("'" + snapshot + "' is no snapshot of this version");
  return streams;
}

// --- a worker: pid 1 of its namespaces ------------------------------------------------

void device(const std::string& path, unsigned minor) {
  must(::mknod(path.c_str(), S_IFCHR | 0666, makedev(1, minor)) == 0 &&
           ::chmod(path.c_str(), 0666) == 0,
       path.c_str());
}

void makeRoot(const Options& o) {
  must(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "private mounts");
  must(::mount(o.root.c_str(), o.root.c_str(), nullptr, MS_BIND, nullptr) == 0, "the image");
  // criu would write its statistics beside the images, and the snapshot would be another.
  const std::string images = o.root + kImagesPath;
  must(
      ::mount(o.snapshot.c_str(), images.c_str(), nullptr, MS_BIND, nullptr) == 0 &&
          ::mount(nullptr, images.c_str(), nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr) == 0,
      "the snapshot");
  // criu compares the modes of what was open with those at the dump.
  for (const char* place : {"/tmp", "/task", "/run", "/dev"})
    must(::mount("tmpfs", (o.root + place).c_str(), "tmpfs", MS_NOSUID,
                 strcmp(place, "/task") == 0 ? "mode=755,uid=1000,gid=1000" : "mode=777") == 0,
         place);
  must(::mount("proc", (o.root + "/proc").c_str(), "proc", 0, nullptr) == 0, "/proc");
  device(o.root + "/dev/null", 3);
  device(o.root + "/dev/urandom", 9);
  must(::mkdir((o.root + "/dev/shm").c_str(), 0777) == 0, "/dev/shm");
  must(::chdir(o.root.c_str()) == 0 && ::syscall(SYS_pivot_root, ".", ".") == 0 &&
           ::umount2(".", MNT_DETACH) == 0 && ::chdir("/") == 0,
       "pivot_root");
}

// criu looks at the kernel by a connection to itself.
void raiseLoopback() {
  const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request{};
  ::memcpy(request.ifr_name, "lo", 3);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  must(fd >= 0 && ::ioctl(fd, SIOCSIFFLAGS, &request) == 0, "the loopback");
  ::close(fd);
}

// The clone's ends of its pipes, in the order of the stand-ins; `held` are the others.
struct Pipes {
  int placed[kStandIns], held[kStandIns];
};

Pipes makePipes() {
  Pipes pipes;
  for (int i = 0; i < kStandIns; ++i) {
    int ends[2] = {-1, -1};
    if (i == kControlOf) {
      ends[0] = ::open(kControlPath, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
      must(ends[0] >= 0, kControlPath);
    } else {
      must(::pipe2(ends, O_CLOEXEC) == 0, "pipe2");
    }
    const bool writes = i == kStdout || i == kStderr;
    pipes.placed[i] = ends[writes ? 1 : 0];
    pipes.held[i] = ends[writes ? 0 : 1];
    must(::fchown(pipes.placed[i], kTaskUser, kTaskUser) == 0, "fchown");
  }
  return pipes;
}

// Takes what criu said, which may be several lines: the first one with an error that is one.
void readWords(int said, char* to, size_t size) {
  static char text[kSaidBytesMax];
  const ssize_t n = ::pread(said, text, sizeof text - 1, 0);
  text[n > 0 ? n : 0] = '\0';
  static constexpr const char* kUsual[] = {"rlimit:", "stats-", "tun:"};  // in a good restore, too
  for (char *save = nullptr, *line = ::strtok_r(text, "\n", &save); line != nullptr;
       line = ::strtok_r(nullptr, "\n", &save)) {
    const bool usual = std::any_of(std::begin(kUsual), std::end(kUsual), [line](const char* word) {
      return ::strstr(line, word) != nullptr;
    });
    if (usual || ::strstr(line, "Error") == nullptr) continue;
    ::snprintf(to, size, "%s", line);
    return;
  }
}

[[noreturn]] void runCriu(const Pipes& pipes, const Streams& streams, int said) {
  constexpr int kAbove = 64;
  static char inherit[kStandIns + 1][64];
  const char* argv[32] = {kCriuPath,
                          "restore",
                          "-D",
                          kImagesPath,
                          "-v1",
                          "--manage-cgroups=ignore",
                          "--restore-detached",
                          "--restore-sibling"};
  int count = 8;
  for (int i = 0; i < kStandIns; ++i) {
    if (::dup2(pipes.placed[i], kAbove + i) < 0) ::_exit(126);
    if (i == kControlOf)
      ::snprintf(inherit[i], sizeof inherit[i], "fd[%d]:%s", kFirstStream + i, kControlPath + 1);
    else
      ::snprintf(inherit[i], sizeof inherit[i], "fd[%d]:pipe:[%lu]", kFirstStream + i,
                 static_cast<unsigned long>(streams.pipe[i]));
    argv[count++] = "--inherit-fd";
    argv[count++] = inherit[i];
  }
  for (int i = 0; i < kStandIns; ++i)
    if (::dup2(kAbove + i, kFirstStream + i) < 0) ::_exit(126);
  int end = kFirstStream + kStandIns;
  if (streams.memory_bytes != 0) {
    const int memory = ::open((std::string(kImagesPath) + "/" + kMemoryFile).c_str(), O_RDONLY);
    if (memory < 0 || ::dup2(memory, end) < 0) ::_exit(126);
    ::snprintf(inherit[kStandIns], sizeof inherit[kStandIns], "fd[%d]:%s", end, kMemoryPath + 1);
    argv[count++] = "--inherit-fd";
    argv[count++] = inherit[kStandIns];
    ++end;
  }
  if (::dup2(said, STDERR_FILENO) < 0) ::_exit(126);
  if (::syscall(SYS_close_range, end, ~0u, 0) != 0) ::_exit(126);
  ::execv(kCriuPath, const_cast<char* const*>(argv));
  ::_exit(127);
}

uint64_t childrenCpuNs() {
  rusage used;
  ::getrusage(RUSAGE_CHILDREN, &used);
  const auto ns = [](const timeval& t) {
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u +
           static_cast<uint64_t>(t.tv_usec) * 1'000u;
  };
  return ns(used.ru_utime) + ns(used.ru_stime);
}

// Restores one clone; the end of its pipe ends it.
Restore restoreOnce(const Options& o, const Streams& streams, int said) {
  Restore r;
  must(::ftruncate(said, 0) == 0 && ::lseek(said, 0, SEEK_SET) == 0, "criu's words");
  if (!o.keeps_kernel_file && ::unlink(kKernelPath) != 0 && errno != ENOENT)
    must(false, kKernelPath);
  const uint64_t cpu_before_ns = childrenCpuNs();
  r.began_ns = monotonicNs();
  const Pipes pipes = makePipes();
  const pid_t criu = ::fork();
  must(criu >= 0, "fork");
  if (criu == 0) runCriu(pipes, streams, said);
  int status = 0;
  must(::waitpid(criu, &status, 0) == criu, "waitpid");
  r.restored_ns = monotonicNs();
  r.failed = status;
  for (int i = 0; i < kStandIns; ++i) {
    ::close(pipes.placed[i]);
    if (pipes.held[i] >= 0) ::close(pipes.held[i]);
  }
  if (r.failed != 0) ::kill(-1, SIGKILL);  // what is half restored may wait for ever
  int clones = 0;
  while (::waitpid(-1, &status, 0) > 0) ++clones;
  r.reaped_ns = monotonicNs();
  r.cpu_ns = childrenCpuNs() - cpu_before_ns;
  if (r.failed == 0 && (clones != 1 || status != 0)) r.failed = 1;
  if (r.failed == 0) return r;
  ::snprintf(r.said, sizeof r.said, "status %d, %d clones", r.failed, clones);
  readWords(said, r.said, sizeof r.said);
  return r;
}

[[noreturn]] void work(const Options& o, const Streams& streams, int go, int results) {
  must(::unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) == 0,
       "unshare");
  const pid_t init = ::fork();
  must(init >= 0, "fork");
  if (init != 0) {
    int status = 0;
    while (::waitpid(init, &status, 0) < 0 && errno == EINTR) {
    }
    ::_exit(status == 0 ? 0 : 1);
  }
  must(::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0, "parent-death signal");
  makeRoot(o);
  raiseLoopback();
  // Finds the kernel file, and fills the page cache; told as a result of no time.
  const int said = ::memfd_create("said", MFD_CLOEXEC);
  must(said >= 0, "memfd_create");
  Restore first;
  for (int i = 0; i == 0 || (first.failed != 0 && i < kFirstTriesMax); ++i)
    first = restoreOnce({o.snapshot, o.root, 1, 1, true}, streams, said);
  first.began_ns = first.restored_ns = first.reaped_ns = first.cpu_ns = 0;
  char byte;
  must(::write(results, &first, sizeof first) == sizeof first && ::read(go, &byte, 1) == 1,
       "the start");
  for (uint64_t i = 0; i < o.count; ++i) {
    const Restore r = restoreOnce(o, streams, said);
    must(::write(results, &r, sizeof r) == sizeof r, "the result");
  }
  ::_exit(0);
}

// --- all workers -----------------------------------------------------------------------

// The next result; false: all workers have ended.
bool next(int results, Restore* to) {
  pollfd polled{results, POLLIN, 0};
  if (::poll(&polled, 1, kStallMsMax) <= 0) die("no restore ended in a minute");
  const ssize_t n = ::read(results, to, sizeof *to);
  must(n == 0 || n == sizeof *to, "a result");
  return n != 0;
}

// At least one may fail, however few there are.
bool tooMany(uint64_t failed, uint64_t all) { return failed > std::max<uint64_t>(1, all / 10); }

Restores measure(const Options& o) {
  const Streams streams = readStreams(o.snapshot);
  int go[2], results[2];
  must(::pipe2(go, O_CLOEXEC) == 0 && ::pipe2(results, O_CLOEXEC) == 0, "pipe2");
  for (uint32_t i = 0; i < o.outstanding; ++i) {
    const pid_t pid = ::fork();
    must(pid >= 0, "fork");
    if (pid == 0) {
      must(::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0, "parent-death signal");
      ::close(go[1]);
      work(o, streams, go[0], results[1]);
    }
  }
  ::close(results[1]);
  Restores all;
  Restore r;
  const uint64_t wanted = o.count * o.outstanding;
  for (uint32_t i = 0; i < o.outstanding; ++i)
    if (!next(results[0], &r) || r.failed != 0)
      die(std::string("criu cannot restore the snapshot here: ") + r.said);
  const std::vector<char> bytes(o.outstanding, 'g');
  must(::write(go[1], bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()),
       "the start");
  while (next(results[0], &r)) {
    if (r.failed == 0) {
      all.good.push_back(r);
      continue;
    }
    if (all.failed++ == 0) all.said = r.said;
    if (tooMany(all.failed, wanted))
      die(std::to_string(all.failed) + " of " + std::to_string(wanted) +
          " restores failed; the first: " + all.said);
  }
  while (::wait(nullptr) > 0) {
  }
  if (all.good.size() + all.failed != wanted || all.good.empty())
    die(std::to_string(all.good.size()) + " of " + std::to_string(wanted) + " restores were made");
  return all;
}

nlohmann::ordered_json spread(std::vector<uint64_t> ns) {
  std::sort(ns.begin(), ns.end());
  const auto at = [&](size_t percent) {
    return ns[std::min(ns.size() - 1, ns.size() * percent / 100)];
  };
  return {{"p50_ns", at(50)}, {"p90_ns", at(90)}, {"p99_ns", at(99)}};
}

nlohmann::ordered_json toJson(const Restores& all) {
  std::vector<uint64_t> restored, cycled, cpu;
  uint64_t began = UINT64_MAX, ended = 0;
  for (const Restore& r : all.good) {
    restored.push_back(r.restored_ns - r.began_ns);
    cycled.push_back(r.reaped_ns - r.began_ns);
    cpu.push_back(r.cpu_ns);
    began = std::min(began, r.began_ns);
    ended = std::max(ended, r.reaped_ns);
  }
  const double seconds = static_cast<double>(ended - began) / 1e9;
  return {{"restores", all.good.size() + all.failed},
          {"failed", all.failed},
          {"said", all.said},
          {"per_s", static_cast<double>(all.good.size()) / seconds},
          {"restore", spread(restored)},
          {"cycle", spread(cycled)},
          {"cpu", spread(cpu)}};
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  std::string kernel_file = "kept";
  CLI::App cli{"mayfly-bench-criu: criu's own command line, restoring a snapshot again and again"};
  cli.add_option("--snapshot", o.snapshot, "the snapshot's folder")
      ->required()
      ->check(CLI::ExistingDirectory);
  cli.add_option("--root", o.root, "the mounted image of its template")
      ->required()
      ->check(CLI::ExistingDirectory);
  cli.add_option("--count", o.count, "restores of each worker")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  cli.add_option("--outstanding", o.outstanding, "workers")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  cli.add_option("--kernel-file", kernel_file, "kept or none")
      ->check(CLI::IsMember({"kept", "none"}))
      ->capture_default_str();
  CLI11_PARSE(cli, argc, argv);
  o.keeps_kernel_file = kernel_file == "kept";
  if (::geteuid() != 0) die("namespaces and mounts need root");
  const std::string report =
      toJson(measure(o)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::printf("%s\n", report.c_str());
}
