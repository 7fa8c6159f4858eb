// The real spawner, maker, init and exec zygote, driven by hand like mayflyd would: the parts of a
// box, its end, and its leftovers.
#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#include "base/bound_socket.h"
#include "base/clock.h"
#include "base/fd.h"
#include "mayfly/zygote.h"
#include "wire/front.h"
#include "wire/spool.h"
#include "wire/spawner.h"
#include "wire/zygote.h"

namespace mayfly::spawner {
namespace {

using base::Fd;
using namespace wire;
namespace fs = std::filesystem;

constexpr int kWaitMsMax = 20'000;

std::string binDir() { return fs::read_symlink("/proc/self/exe").parent_path(); }

// Times as long as on a processor of its own may a computation take here.
uint64_t slowness() {
  const char* times = ::getenv("MAYFLY_TEST_SLOWNESS");
  return times != nullptr ? std::strtoull(times, nullptr, 10) : 1;
}

bool readable(int fd) {
  pollfd p{fd, POLLIN, 0};
  return ::poll(&p, 1, kWaitMsMax) == 1;
}

// A root file system of six folders and two programs.
std::string buildImage(const fs::path& dir) {
  fs::path root = dir / "root";
  for (const char* d :
       {"proc", "sys", "dev", "tmp", "task", "run", "mnt", "bin", "usr/lib/mayfly", "etc"})
    fs::create_directories(root / d);
  fs::copy_file(binDir() + "/mayfly-maker", root / "usr/lib/mayfly/mayfly-maker");
  fs::copy_file(binDir() + "/mayfly-exec-zygote", root / "usr/lib/mayfly/mayfly-exec-zygote");
  fs::copy_file(binDir() + "/box-probe", root / "bin/probe");
  fs::copy_file(binDir() + "/hostile-zygote", root / "bin/hostile");
  std::string cmd = "mkfs.erofs -T0 " + (dir / "images/").string() + std::string(64, 'a') +
                    ".erofs " + root.string() + " >/dev/null 2>&1";
  fs::create_directories(dir / "images");
  if (std::system(cmd.c_str()) != 0) return {};
  return dir / "images";
}

// A spawner of its own, driven like mayflyd drives it.
class Live {
 public:
  Live(const std::string& images, std::string instance, const char* uid_slot)
      : instance_(std::move(instance)) {
    auto pair = base::makeSeqpacketPair();
    if (!pair) return;
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      int high = ::fcntl(pair->theirs.get(), F_DUPFD, 64);
      ::dup2(high, 3);
      ::close(high);
      std::string bin = binDir() + "/mayfly-spawner";
      ::execl(bin.c_str(), bin.c_str(), "--instance", instance_.c_str(), "--images", images.c_str(),
              "--uid-slot", uid_slot, nullptr);
      ::_exit(1);
    }
    socket_ = std::move(pair->ours);
    pair->theirs.reset();
    hello_ = next();
  }

  Event next() {
    Event event;
    if (!readable(socket_.get())) return Event{};
    for (Fd& fd : fds_) fd.reset();
    auto got = base::receiveMessage(socket_.view(), base::writableBytesOf(event));
    if (!got || got->bytes != sizeof event) return Event{};
    for (size_t i = 0; i < got->fds && i < std::size(fds_); ++i) fds_[i] = std::move(got->fd[i]);
    return event;
  }

  base::Status send(const Request& r, std::vector<int> fds = {}) {
    return base::sendMessage(socket_.view(), base::bytesOf(r), fds);
  }

  Event publish(base::ZygoteId id, const char* hostile_deed = nullptr, uint32_t flags = 0) {
    sendPublish(id, hostile_deed, flags);
    return next();
  }

  // What the spawner itself has used.
  uint64_t cpuNs() const {
    uint64_t ns = 0;
    std::ifstream("/proc/" + std::to_string(pid_) + "/schedstat") >> ns;
    return ns;
  }

  void sendPublish(base::ZygoteId id, const char* hostile_deed = nullptr, uint32_t flags = 0) {
    Request r;
    r.op = Op::publish;
    r.zygote_id = id;
    r.flags = kLoopback | flags;
    r.limits.memory_bytes = 64 << 20;
    std::string(64, 'a').copy(r.digest, 64);
    strcpy(r.zygote[0],
           hostile_deed != nullptr ? "/bin/hostile" : "/usr/lib/mayfly/mayfly-exec-zygote");
    if (hostile_deed != nullptr) strcpy(r.zygote[1], hostile_deed);
    sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    auto program = base::makeMemfd("seccomp");
    EXPECT_EQ(::write(program->get(), &allow, sizeof allow), static_cast<ssize_t>(sizeof allow));
    EXPECT_TRUE(send(r, {program->get(), 2}));
  }

  // The spawner's own end after mayflyd's: its wait status.
  int close() {
    socket_.reset();
    int status = -1;
    ::waitpid(pid_, &status, 0);
    return status;
  }

  // Our folder in v2.
  fs::path v2() const {
    for (const char* h : {"unified", "."})
      if (fs::path p = fs::path("/sys/fs/cgroup") / h / "mayfly" / instance_;
          fs::exists(p / "cgroup.events"))
        return p;
    return {};
  }

  bool anyCgroup() const {
    for (const char* h : {"unified", "cpu", "memory", "pids", "."})
      if (fs::exists("/sys/fs/cgroup/" + std::string(h) + "/mayfly/" + instance_)) return true;
    return false;
  }

  std::string instance_;
  pid_t pid_ = -1;
  Fd socket_;
  Fd fds_[6];
  Event hello_;
};

struct Process {
  pid_t pid;
  std::string name;
  Fd fd;
};

// All processes whose parent is `parent`, held by pidfd.
std::vector<Process> childrenOf(pid_t parent) {
  std::vector<Process> list;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    pid_t pid = ::atoi(entry.path().filename().c_str());
    if (pid <= 0) continue;
    std::ostringstream text;  // empty if the process has ended meanwhile
    text << std::ifstream(entry.path() / "stat").rdbuf();
    const std::string stat = text.str();
    size_t open = stat.find('('), end = stat.rfind(')');
    if (end == std::string::npos) continue;
    int ppid = 0;
    char state;
    if (::sscanf(stat.c_str() + end + 1, " %c %d", &state, &ppid) != 2 || ppid != parent) continue;
    list.push_back({pid, stat.substr(open + 1, end - open - 1),
                    Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)))});
  }
  return list;
}

class Box : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (::geteuid() != 0) return;
    work_ = fs::temp_directory_path() / ("mayfly-box-" + std::to_string(::getpid()));
    images_ = buildImage(work_);
    ASSERT_FALSE(images_.empty()) << "mkfs.erofs failed";
    live_ = std::make_unique<Live>(images_, "box-live-" + std::to_string(::getpid()), "62");
    ASSERT_EQ(live_->hello_.kind, Kind::hello);
    EXPECT_EQ(std::string(live_->hello_.text)
                  .find("capabilities: CHOWN KILL SETGID SETUID SYS_ADMIN SYS_CHROOT; cgroups:"),
              0u)
        << live_->hello_.text;
    Event e = live_->publish(template_);
    ASSERT_EQ(e.kind, Kind::zygoteReady) << e.step << ": " << e.text;
  }

  static void TearDownTestSuite() {
    if (!live_) return;
    EXPECT_EQ(live_->close(), 0) << "the spawner ends by itself when mayflyd goes";
    EXPECT_FALSE(live_->anyCgroup());
    live_.reset();
    fs::remove_all(work_);
  }

  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "boxes need root";
    ASSERT_TRUE(live_);
  }

  static Event next() { return live_->next(); }

  struct Ended {
    Event exited, reaped, gone;
    std::string out;
    Fd spool;
    int cap = 0;
  };

  // Sends the task of `argv` to a new box; the task runs when this returns.
  void start(std::vector<std::string> argv, base::Limits limits = {}) {
    Request r;
    r.op = Op::make;
    r.box = box_ = ++boxes_;
    r.zygote_id = template_;
    limits_ = limits;
    // Parked with a template's maximum; the claim sets the task's own caps.
    r.limits.memory_bytes = 1ull << 30;
    r.limits.processes = 512;
    r.limits.cpu_milli = 4'000;
    r.limits.disk_bytes = 512ull << 20;
    r.limits.disk_inodes = 60'000;
    ASSERT_TRUE(live_->send(r));
    Event made = next();
    ASSERT_EQ(made.kind, Kind::boxMade) << made.step << ": " << made.text;
    control_ = std::move(live_->fds_[0]);
    stdin_ = std::move(live_->fds_[1]);
    stdout_ = std::move(live_->fds_[2]);
    stderr_ = std::move(live_->fds_[3]);
    doors_[0] = std::move(live_->fds_[4]);
    doors_[1] = std::move(live_->fds_[5]);
    if (on_doors_) on_doors_();
    wire::CloneReady ready;
    ASSERT_TRUE(readable(control_.get()));
    auto got = base::receiveMessage(control_.view(), base::writableBytesOf(ready));
    ASSERT_TRUE(got && got->bytes == sizeof ready);
    ASSERT_EQ(ready.error, 0) << ready.step;
    std::string strings;
    for (auto& a : argv) strings += a + '\0';
    wire::TaskBlob head;
    head.argc = static_cast<uint32_t>(argv.size());
    head.strings_offset = sizeof head;
    head.files_offset = sizeof head + strings.size();
    head.files = static_cast<uint32_t>(files_.size());
    for (const BlobFile& f : files_) {
      wire::FileEntry entry = f.entry;
      entry.path_bytes = static_cast<uint32_t>(f.path.size() + 1);
      strings.append(reinterpret_cast<const char*>(&entry), sizeof entry);
      strings += f.path + '\0';
    }
    auto blob = base::makeMemfd("task");
    ASSERT_EQ(::write(blob->get(), &head, sizeof head), static_cast<ssize_t>(sizeof head));
    ASSERT_EQ(::write(blob->get(), strings.data(), strings.size()),
              static_cast<ssize_t>(strings.size()));
    ASSERT_TRUE(base::sealMemfd(blob->view()));
    wire::Claim claim;
    claim.block_bytes = sizeof head + strings.size();
    claim.open_files = limits.open_files;
    claim.file_size_bytes = limits.file_size_bytes;
    claim.cpu_time_s = 60;
    std::vector<int> fds{blob->get()};
    fds.insert(fds.end(), blobs_.begin(), blobs_.end());
    claim.blob_fds = static_cast<uint32_t>(blobs_.size());
    ASSERT_TRUE(base::sendMessage(control_.view(), base::bytesOf(claim), fds));
    // It has its task, but not yet its caps.
    pollfd early{control_.get(), POLLIN, 0};
    if (start_error_ == 0) {
      ASSERT_EQ(::poll(&early, 1, 20), 0);
    }
    r.op = Op::claim;
    r.limits = limits;
    ASSERT_TRUE(live_->send(r));
    wire::Started started;
    ASSERT_TRUE(readable(control_.get()));
    got = base::receiveMessage(control_.view(), base::writableBytesOf(started));
    ASSERT_TRUE(got && got->bytes == sizeof started);
    ASSERT_EQ(started.error, start_error_) << started.step;
    stdin_.reset();
  }

  void sendEnd(Ended* ended) {
    Request r;
    r.op = Op::end;
    r.box = box_;
    r.flags = kCollect;
    r.collect_ms_max = 5'000;
    r.limits = limits_;
    auto spool = base::makeMemfd("spool");
    ASSERT_TRUE(live_->send(r, {spool->get()}));
    ended->spool = std::move(*spool);
  }

  void terminate() {
    Request r;
    r.op = Op::terminate;
    r.box = box_;
    ASSERT_TRUE(live_->send(r));
  }

  Event sampleOnce() {
    Request r;
    r.op = Op::sample;
    r.box = box_;
    EXPECT_TRUE(live_->send(r));
    Event e = next();
    while (e.kind == Kind::capHit) e = next();
    return e;
  }

  Ended finish(bool end_now = false) {
    Ended ended;
    if (end_now) sendEnd(&ended);
    for (;;) {
      Event e = next();
      if (e.kind == Kind::cloneExited) ended.exited = e;
      if (e.kind == Kind::capHit) ended.cap = static_cast<int>(e.cap);
      if ((e.kind == Kind::cloneExited || e.kind == Kind::capHit) && !ended.spool) sendEnd(&ended);
      if (e.kind == Kind::boxReaped) ended.reaped = e;
      if (e.kind == Kind::boxGone) {
        ended.gone = e;
        break;
      }
      if (e.kind == Kind{}) {
        ADD_FAILURE() << "no event in time";
        break;
      }
    }
    char text[4096];
    for (ssize_t n; (n = ::read(stdout_.get(), text, sizeof text)) > 0;)
      ended.out.append(text, static_cast<size_t>(n));
    for (ssize_t n; (n = ::read(stderr_.get(), text, sizeof text)) > 0;)
      ended.out.append(text, static_cast<size_t>(n));
    EXPECT_EQ(ended.gone.complete, 1u) << ended.gone.text;
    EXPECT_GT(ended.gone.reaped_ns, 0u);
    EXPECT_GE(ended.gone.cgroups_gone_ns, ended.gone.fds_closed_ns);
    return ended;
  }

  // What the task says first.
  std::string line() {
    std::string text;
    for (char c; readable(stdout_.get()) && ::read(stdout_.get(), &c, 1) == 1 && c != '\n';)
      text += c;
    return text;
  }

  // Ends a box that the test does not follow any more.
  void endBox(base::BoxId box) {
    Request r;
    r.op = Op::end;
    r.box = box;
    ASSERT_TRUE(live_->send(r));
    for (Event e; (e = next()).kind != Kind::boxGone || e.box != box;)
      ASSERT_NE(e.kind, Kind{}) << "box " << box << " does not end";
  }

  Ended run(std::vector<std::string> argv, base::Limits limits = {}) {
    start(std::move(argv), limits);
    if (HasFatalFailure()) return {};
    return finish();
  }

  static inline fs::path work_;
  static inline std::string images_;
  static inline std::unique_ptr<Live> live_;
  static inline base::TemplateId template_ = 1;
  static inline base::BoxId boxes_ = 0;
  // Of the next task: files whose content is in blobs, and the error that its start must give.
  struct BlobFile {
    std::string path;
    wire::FileEntry entry;
  };
  std::vector<BlobFile> files_;
  std::vector<int> blobs_;
  int start_error_ = 0;
  base::BoxId box_ = 0;
  base::Limits limits_;  // its task's
  Fd control_, stdin_, stdout_, stderr_;
  Fd doors_[2];                     // the unix and the TCP one, if its zygote has doors
  std::function<void()> on_doors_;  // before the claim
};

TEST_F(Box, SigtermEndsAPlainTaskAndLetsAnotherSaveItsState) {
  start({"/bin/probe", "sleep"});
  ASSERT_FALSE(HasFatalFailure());
  terminate();
  Ended plain = finish();
  EXPECT_EQ(plain.exited.exit_code, CLD_KILLED);
  EXPECT_EQ(plain.exited.exit_status, SIGTERM);
  EXPECT_EQ(plain.exited.terminated, 1u);

  start({"/bin/probe", "save"});
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_EQ(line(), "ready");
  terminate();
  Ended saved = finish();
  EXPECT_EQ(saved.exited.exit_code, CLD_EXITED);
  EXPECT_EQ(saved.exited.exit_status, 6);
  EXPECT_EQ(saved.exited.terminated, 1u);
  EXPECT_EQ(saved.reaped.terminated, 1u);
  EXPECT_EQ(saved.gone.collect, CollectState::done);

  Ended own = run({"/bin/probe", "exit", "6"});
  EXPECT_EQ(own.exited.terminated, 0u);
}

TEST_F(Box, RunsACommandAndTheKernelTellsItsExitCode) {
  Ended e = run({"/bin/probe", "say", "hello"});
  EXPECT_EQ(e.out, "hello\n");
  EXPECT_EQ(e.reaped.exit_code, CLD_EXITED);
  EXPECT_EQ(e.reaped.exit_status, 0);
  EXPECT_EQ(run({"/bin/probe", "exit", "7"}).reaped.exit_status, 7);
}

TEST_F(Box, ASignalIsReportedAsASignal) {
  Ended e = run({"/bin/probe", "signal", "15"});
  EXPECT_EQ(e.reaped.exit_code, CLD_KILLED);
  EXPECT_EQ(e.reaped.exit_status, 15);
}

TEST_F(Box, AbsentCommandIs127AndSaysSo) {
  Ended e = run({"/bin/absent"});
  EXPECT_EQ(e.reaped.exit_status, 127);
  EXPECT_NE(e.out.find("cannot run '/bin/absent'"), std::string::npos) << e.out;
}

TEST_F(Box, ExactlyThreePipesAreOpenAndTheyCanBeReopened) {
  EXPECT_EQ(run({"/bin/probe", "fds"}).out, "0 pipe\n1 pipe\n2 pipe\n");
}

Fd sealed(const std::string& text) {
  auto fd = base::makeMemfd("blob");
  EXPECT_EQ(::write(fd->get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  EXPECT_TRUE(base::sealMemfd(fd->view()));
  return std::move(*fd);
}

TEST_F(Box, FilesAreCopiedOutOfBlobsAndNoDescriptorOfOneStaysOpen) {
  Fd one = sealed("0123456789"), two = sealed("two\n");
  blobs_ = {one.get(), two.get()};
  files_ = {{"part", {.offset = 3, .bytes = 4, .fd = 1}},
            {"d/e/whole", {.bytes = 4, .fd = 2, .mode = 0400}},
            {"again", {.bytes = 4, .fd = 2}},
            {"empty", {.fd = 1}}};
  EXPECT_EQ(run({"/bin/probe", "show", "/task/part"}).out, "3456");
  EXPECT_EQ(run({"/bin/probe", "show", "/task/d/e/whole"}).out, "two\n");
  EXPECT_EQ(run({"/bin/probe", "show", "/task/again"}).out, "two\n");
  EXPECT_EQ(run({"/bin/probe", "show", "/task/empty"}).out, "");
  EXPECT_EQ(run({"/bin/probe", "fds"}).out, "0 pipe\n1 pipe\n2 pipe\n");
  // Only the block itself is mapped.
  std::string maps = run({"/bin/probe", "show", "/proc/self/maps"}).out;
  EXPECT_EQ(maps.find("memfd:blob"), std::string::npos) << maps;
}

TEST_F(Box, AsManyBlobsAsATaskMayHaveFitOneClaim) {
  std::vector<Fd> held;
  for (uint32_t i = 1; i <= wire::kBlobFdsMax; ++i) {
    held.push_back(sealed(std::to_string(i)));
    blobs_.push_back(held.back().get());
    files_.push_back({"f" + std::to_string(i), {.bytes = i < 10 ? 1u : 2u, .fd = i}});
  }
  EXPECT_EQ(run({"/bin/probe", "show", "/task/f64"}).out, "64");
  EXPECT_EQ(run({"/bin/probe", "fds"}).out, "0 pipe\n1 pipe\n2 pipe\n");
}

TEST_F(Box, AFileBeyondItsBlobOrWithoutOneStartsNothing) {
  Fd one = sealed("0123456789");
  blobs_ = {one.get()};
  files_ = {{"f", {.bytes = 11, .fd = 1}}};
  start_error_ = EIO;
  EXPECT_NE(run({"/bin/probe", "say", "x"}).out, "x\n");
  files_ = {{"f", {.bytes = 1, .fd = 2}}};
  start_error_ = EBADMSG;
  EXPECT_NE(run({"/bin/probe", "say", "x"}).out, "x\n");
}

TEST_F(Box, TheTaskIsPid2OfItsOwnNamespaceAndAnOrdinaryUser) {
  EXPECT_EQ(run({"/bin/probe", "ids"}).out, "pid 2 ppid 0 uid 1000 gid 1000 sid 2\n");
}

TEST_F(Box, NoHostPathShowsInMountinfo) {
  std::string text = run({"/bin/probe", "show", "/proc/self/mountinfo"}).out;
  EXPECT_NE(text.find(" - erofs image ro"), std::string::npos) << text;
  EXPECT_EQ(text.find("mayfly"), std::string::npos) << text;
  EXPECT_EQ(text.find("uid="), std::string::npos) << text;
  EXPECT_EQ(text.find("/dev/"), text.find("/dev/shm")) << text;
}

TEST_F(Box, CgroupPathsAreTheirOwnRoots) {
  std::string text = run({"/bin/probe", "show", "/proc/self/cgroup"}).out;
  EXPECT_EQ(text.find("mayfly"), std::string::npos) << text;
  EXPECT_EQ(text.find(".."), std::string::npos) << text;
}

TEST_F(Box, NoCapabilityAndNoWayToOne) {
  std::string text = run({"/bin/probe", "show", "/proc/self/status"}).out;
  for (const char* line :
       {"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"})
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
}

TEST_F(Box, IdMapsNameTheTaskOnly) {
  for (const char* file : {"/proc/self/uid_map", "/proc/self/gid_map"})
    EXPECT_EQ(run({"/bin/probe", "show", file}).out, "      1000       1000          1\n");
}

TEST_F(Box, MemoryCapIsTold) {
  base::Limits limits;
  limits.memory_bytes = 32 << 20;
  Ended e = run({"/bin/probe", "eat"}, limits);
  // Reported by an event before the kernel killed, or found in the counters after.
  EXPECT_TRUE(e.cap == static_cast<int>(Cap::memory) || e.reaped.counters.oom_kills > 0);
  EXPECT_LE(e.reaped.counters.memory_peak_bytes, 33u << 20);
}

TEST_F(Box, ProcessCapIsTold) {
  base::Limits limits;
  limits.processes = 16;
  start({"/bin/probe", "bomb"}, limits);
  // By its event on v2; v1 has no event, so samples find it.
  uint64_t refused = 0;
  for (int i = 0; i < 20'000 && refused == 0; ++i) refused = sampleOnce().counters.forks_refused;
  Ended e = finish(true);
  EXPECT_GT(e.reaped.counters.forks_refused, 0u);
  EXPECT_LE(e.reaped.counters.processes_peak, 16u);
}

TEST_F(Box, CpuTimeIsCountedForTheWholeBox) {
  start({"/bin/probe", "spin"});
  uint64_t cpu = 0, user = 0;
  // Each round trip is an event of its own. On a slow host the first ticks may all be system time.
  for (int i = 0; i < 20'000 && (cpu < 50'000'000 || user == 0); ++i) {
    Event e = sampleOnce();
    ASSERT_EQ(e.kind, Kind::sampled);
    user = e.counters.user_cpu_ns;
    cpu = user + e.counters.system_cpu_ns;
  }
  Ended e = finish(true);
  EXPECT_EQ(e.reaped.exit_code, CLD_KILLED);
  EXPECT_EQ(e.reaped.exit_status, SIGKILL);
  EXPECT_GT(e.reaped.counters.user_cpu_ns, 0u);
}

TEST_F(Box, AnOrphanThatHoldsThePipesDoesNotOutliveTheTask) {
  uint64_t before = base::monotonicNs();
  Ended e = run({"/bin/probe", "orphan"});
  EXPECT_EQ(e.reaped.exit_status, 0);
  EXPECT_LT(base::monotonicNs() - before, 10'000'000'000u);
}

TEST_F(Box, OutputFilesAreRegularFilesOnly) {
  base::Limits limits;
  limits.out_files_bytes = 1 << 20;
  limits.file_size_bytes = 2ull << 30;
  Ended e = run({"/bin/probe", "leave"}, limits);
  EXPECT_EQ(e.gone.collect, CollectState::done);
  off_t size = ::lseek(e.spool.get(), 0, SEEK_END);
  std::string bytes(static_cast<size_t>(size), 0);
  ASSERT_EQ(::pread(e.spool.get(), bytes.data(), bytes.size(), 0), size);
  SpoolHeader head;
  memcpy(&head, bytes.data(), sizeof head);
  ASSERT_EQ(head.magic, kSpoolMagic);
  std::string list;
  size_t at = head.index_offset;
  for (uint32_t i = 0; i < head.count; ++i) {
    SpoolEntry entry;
    memcpy(&entry, bytes.data() + at, sizeof entry);
    at += sizeof entry;
    list += bytes.substr(at, entry.path_bytes) + "=" + bytes.substr(entry.offset, entry.size) + "|";
    at += entry.path_bytes;
    list += bytes.substr(at, entry.skipped_bytes) + "|" + std::to_string(entry.mode) + "\n";
    at += entry.skipped_bytes;
  }
  EXPECT_EQ(
      list,
      "bad\nname=|odd name: control bytes, invalid UTF-8 or a backslash|0\n"
      "fifo=|fifo|0\n"
      "link=|symbolic link|0\n"
      "sparse=|1073741824 bytes are more than what is left of 1048576 for all output files|384\n"
      "sub/a.txt=hello||0\n");
}

TEST_F(Box, EndInTheMiddleOfMakingLeavesNothing) {
  Request r;
  r.op = Op::make;
  r.box = ++boxes_;
  r.zygote_id = template_;
  ASSERT_TRUE(live_->send(r));
  Request end;
  end.op = Op::end;
  end.box = r.box;
  ASSERT_TRUE(live_->send(end));
  for (int i = 0; i < 3; ++i) {
    Event e = next();
    if (e.kind == Kind::boxGone) {
      EXPECT_EQ(e.complete, 1u);
      return;
    }
    EXPECT_TRUE(e.kind == Kind::boxReaped || e.kind == Kind::boxMade) << static_cast<int>(e.kind);
  }
  FAIL() << "no boxGone";
}

// A zygote whose boxes have doors to the broker.
class Doors : public Box {
 protected:
  static constexpr base::ZygoteId kDoorsZygote = 60;
  void SetUp() override {
    Box::SetUp();
    if (IsSkipped()) return;
    before_ = std::exchange(template_, kDoorsZygote);
    static bool published = false;
    if (std::exchange(published, true)) return;
    Event e = live_->publish(kDoorsZygote, nullptr, kDoors);
    ASSERT_EQ(e.kind, Kind::zygoteReady) << e.step << ": " << e.text;
  }
  void TearDown() override {
    if (before_ != 0) template_ = before_;
  }
  void expectSound() {
    for (const Fd& door : doors_) ASSERT_TRUE(door);
    auto local = base::checkBoundLocal(doors_[0].view(), kDoorPath);
    EXPECT_TRUE(local) << local.error().message;
    auto tcp = base::checkBoundLoopback(doors_[1].view(), kDoorPort);
    EXPECT_TRUE(tcp) << tcp.error().message;
  }
  // Answers the next connection with `word`.
  static void answer(const Fd& door, const std::string& word) {
    ASSERT_TRUE(readable(door.get()));
    Fd connection(::accept4(door.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ASSERT_TRUE(connection);
    ASSERT_EQ(::write(connection.get(), word.data(), word.size()),
              static_cast<ssize_t>(word.size()));
  }
  base::TemplateId before_ = 0;
};

constexpr const char kNothingReplaced[] =
    "replace: Operation not permitted\nrename: Operation not permitted\n"
    "remove: Operation not permitted\nfolder: Operation not permitted\nmine: done\n";

TEST_F(Doors, ATaskWhoseDoorsDoNotListenIsRefusedAndCanReplaceNone) {
  on_doors_ = [this] { expectSound(); };
  Ended e = run({"/bin/probe", "doors"});
  EXPECT_EQ(e.out, std::string("local: Connection refused\nbind: Address already in use\n"
                               "tcp: Connection refused\nbind: Permission denied\n") +
                       kNothingReplaced);
}

TEST_F(Doors, ATaskWhoseDoorsAreClosedIsRefusedTheSameWay) {
  on_doors_ = [this] {
    for (Fd& door : doors_) door.reset();
  };
  Ended e = run({"/bin/probe", "doors"});
  EXPECT_EQ(e.out, std::string("local: Connection refused\nbind: Address already in use\n"
                               "tcp: Connection refused\nbind: Permission denied\n") +
                       kNothingReplaced);
}

TEST_F(Doors, WhoeverHasTheDoorsOutsideAnswersTheTask) {
  on_doors_ = [this] {
    expectSound();
    for (const Fd& door : doors_) ASSERT_TRUE(base::listenOn(door.view(), 4));
  };
  start({"/bin/probe", "doors"});
  answer(doors_[0], "hello by path");
  answer(doors_[1], "hello by port");
  Ended e = finish();
  EXPECT_EQ(e.out, std::string("local: hello by path\nbind: Address already in use\n"
                               "tcp: hello by port\nbind: Permission denied\n") +
                       kNothingReplaced);
}

// The network namespace lives as long as its door is open; the box is gone before.
TEST_F(Doors, ABoxIsGoneWhileItsDoorsAreStillOpenOutside) {
  on_doors_ = [this] {
    for (const Fd& door : doors_) ASSERT_TRUE(base::listenOn(door.view(), 4));
  };
  Ended e = run({"/bin/probe", "exit", "5"});
  EXPECT_EQ(e.reaped.exit_status, 5);
  for (Fd& door : doors_) {
    EXPECT_LT(::accept4(door.get(), nullptr, nullptr, SOCK_NONBLOCK), 0);
    EXPECT_EQ(errno, EAGAIN);
    door.reset();
  }
}

TEST_F(Doors, EveryBoxHasItsOwn) {
  ino_t inodes[2][2];
  for (auto& box : inodes) {
    on_doors_ = [&] {
      for (int i = 0; i < 2; ++i) {
        struct stat st {};
        ASSERT_EQ(::fstat(doors_[i].get(), &st), 0);
        box[i] = st.st_ino;
      }
    };
    run({"/bin/probe", "exit", "0"});
  }
  EXPECT_NE(inodes[0][0], inodes[1][0]);
  EXPECT_NE(inodes[0][1], inodes[1][1]);
}

TEST_F(Box, ABoxOfAZygoteWithoutDoorsHasNone) {
  on_doors_ = [this] {
    EXPECT_FALSE(doors_[0]);
    EXPECT_FALSE(doors_[1]);
  };
  EXPECT_EQ(run({"/bin/probe", "show", "/run/broker.sock"}).reaped.exit_status, 1);
}

TEST_F(Box, UnknownTemplateIsRefused) {
  Request r;
  r.op = Op::make;
  r.box = ++boxes_;
  r.zygote_id = 9;
  ASSERT_TRUE(live_->send(r));
  Event e = next();
  EXPECT_EQ(e.kind, Kind::boxFailed);
  EXPECT_STREQ(e.text, "the template is not ready");
}

TEST_F(Box, ADeadZygoteEndsNoRunningTaskAndTheTemplateCanBePublishedAnew) {
  start({"/bin/probe", "sleep"});
  std::vector<Process> all = childrenOf(live_->pid_);
  // The oldest process of its name: a clone has the name, too, until its exec.
  auto zygote = std::min_element(all.begin(), all.end(), [](const Process& a, const Process& b) {
    auto rank = [](const Process& p) {
      return std::pair(p.name.rfind("mayfly-exec", 0) != 0, p.pid);
    };
    return rank(a) < rank(b);
  });
  ASSERT_NE(zygote, all.end());
  ::syscall(SYS_pidfd_send_signal, zygote->fd.get(), SIGKILL, nullptr, 0);
  Event gone = next();
  ASSERT_EQ(gone.kind, Kind::zygoteGone);
  EXPECT_STREQ(gone.text, "the template's zygote was killed by signal 9");
  Event ready = live_->publish(template_);  // the same id: the old one drains beside it
  ASSERT_EQ(ready.kind, Kind::zygoteReady) << ready.step << ": " << ready.text;
  Ended e = finish(true);
  EXPECT_EQ(e.reaped.exit_status, SIGKILL);
  EXPECT_EQ(run({"/bin/probe", "exit", "3"}).reaped.exit_status, 3);
}

// A publish that hangs: the kernel freezes each process of the new zygote at its place.
class FrozenZygote {
 public:
  explicit FrozenZygote(const fs::path& v2) : v2_(v2), watch_(::inotify_init1(IN_CLOEXEC)) {
    EXPECT_GE(::inotify_add_watch(watch_.get(), v2.c_str(), IN_CREATE), 0);
  }
  // Call it at once after the publish: the folder is made before the zygote's processes.
  bool freeze() {
    alignas(inotify_event) char buffer[4'096];
    if (!readable(watch_.get()) || ::read(watch_.get(), buffer, sizeof buffer) <= 0) return false;
    folder_ = v2_ / reinterpret_cast<inotify_event*>(buffer)->name;
    return write("1");
  }
  bool thaw() { return write("0"); }
  // Its pid 1 is born, and frozen.
  void awaitProcess() const {
    std::string pid;
    while (!(std::ifstream(folder_ / "maker/cgroup.procs") >> pid)) ::poll(nullptr, 0, 1);
  }
  const fs::path& folder() const { return folder_; }

 private:
  bool write(const char* text) {
    std::ofstream file(folder_ / "cgroup.freeze");
    file << text << std::flush;
    return file.good();
  }
  fs::path v2_, folder_;
  Fd watch_;
};

TEST_F(Box, AZygoteThatHangsAtItsStartDelaysNoOtherBoxAndFailsInItsTime) {
  constexpr int kBoxes = 100;
  constexpr base::ZygoteId kHangs = 77;
  const base::BoxId first = boxes_ + 1;
  Request r;
  r.zygote_id = template_;
  std::vector<Fd> held;  // a clone ends with its channel
  for (int i = 0; i < kBoxes; ++i) {
    r.op = Op::make;
    r.box = ++boxes_;
    ASSERT_TRUE(live_->send(r));
    Event made = next();
    ASSERT_EQ(made.kind, Kind::boxMade) << made.step << ": " << made.text;
    for (Fd& fd : live_->fds_) held.push_back(std::move(fd));
  }
  FrozenZygote frozen(live_->v2());
  live_->sendPublish(kHangs);
  ASSERT_TRUE(frozen.freeze());
  const uint64_t began_ns = base::monotonicNs();
  r.op = Op::end;
  for (base::BoxId box = first; box <= boxes_; ++box) {
    r.box = box;
    ASSERT_TRUE(live_->send(r));
  }
  for (int gone = 0; gone < kBoxes;) {
    Event e = next();
    ASSERT_TRUE(e.kind == Kind::boxReaped || e.kind == Kind::boxGone || e.kind == Kind::cloneExited)
        << "the publish came to its end first: " << e.step << ": " << e.text;
    if (e.kind == Kind::boxGone) {
      ++gone;
      EXPECT_EQ(e.complete, 1u) << e.text;
    }
  }
  RecordProperty("ms", static_cast<int>((base::monotonicNs() - began_ns) / 1'000'000));
  // It has 10 s for each process, and leaves nothing. Meanwhile boxes are made as usual.
  EXPECT_EQ(run({"/bin/probe", "exit", "4"}).reaped.exit_status, 4);
  Event failed = next();
  ASSERT_EQ(failed.kind, Kind::zygoteFailed) << failed.text;
  EXPECT_EQ(failed.zygote_id, kHangs);
  EXPECT_NE(std::string(failed.text).find("did not start within 10000 ms"), std::string::npos)
      << failed.text;
  EXPECT_FALSE(fs::exists(frozen.folder()));
}

TEST_F(Box, AZygoteThatHangsForAWhileServesInTheEndAndARetiredOneEndsFrozen) {
  FrozenZygote slow(live_->v2());
  live_->sendPublish(78);
  ASSERT_TRUE(slow.freeze());
  slow.awaitProcess();
  ASSERT_TRUE(slow.thaw());
  Event e = next();
  ASSERT_EQ(e.kind, Kind::zygoteReady) << e.step << ": " << e.text;
  FrozenZygote retired(live_->v2());
  live_->sendPublish(79);
  ASSERT_TRUE(retired.freeze());
  Request r;
  r.op = Op::retire;
  for (base::ZygoteId id : {79, 78}) {
    r.zygote_id = id;
    ASSERT_TRUE(live_->send(r));
    e = next();
    ASSERT_EQ(e.kind, Kind::zygoteGone) << e.text;
    EXPECT_STREQ(e.text, "retired");
    EXPECT_EQ(e.zygote_id, id);
  }
  EXPECT_FALSE(fs::exists(retired.folder()) || fs::exists(slow.folder()));
}

TEST_F(Box, ARequestOutOfItsPlaceEndsItsBoxAndNoOther) {
  Request r;
  r.op = Op::make;
  r.box = ++boxes_;
  r.zygote_id = template_;
  ASSERT_TRUE(live_->send(r));
  ASSERT_EQ(next().kind, Kind::boxMade);
  r.op = Op::clone;  // it has its clone
  ASSERT_TRUE(live_->send(r));
  Event e = next();
  ASSERT_EQ(e.kind, Kind::boxDied) << e.text;
  EXPECT_NE(std::string(e.text).find("no place in state 'parked'"), std::string::npos) << e.text;
  r.op = Op::end;
  ASSERT_TRUE(live_->send(r));
  while (e.kind != Kind::boxGone) e = next();
  EXPECT_EQ(e.complete, 1u);
  // A request that crosses the box's end is no fault.
  for (Op op : {Op::end, Op::claim, Op::clone, Op::sample}) {
    r.op = op;
    ASSERT_TRUE(live_->send(r));
  }
  EXPECT_EQ(run({"/bin/probe", "exit", "6"}).reaped.exit_status, 6);
}

// It passes a descriptor that is no new child of the spawner's, or speaks out of its turn.
TEST_F(Box, AHostileZygoteIsItsOwnEndAndNobodyElses) {
  start({"/bin/probe", "sleep"});  // of the honest one
  const base::BoxId honest = box_;
  base::ZygoteId id = 100;
  for (const char* deed :
       {"file", "device", "pipe", "socket", "init", "pid1", "itself", "own child", "ended child",
        "second hello", "refusal", "another box", "twice", "nothing passed", "noise", "many"}) {
    Event ready = live_->publish(++id, deed);
    ASSERT_EQ(ready.kind, Kind::zygoteReady) << deed << ": " << ready.text;
    Request r;
    r.op = Op::make;
    r.box = ++boxes_;
    r.zygote_id = id;
    r.limits.memory_bytes = 64 << 20;
    ASSERT_TRUE(live_->send(r));
    bool gone = false, failed = false;
    while (!gone || !failed) {
      Event e = next();
      ASSERT_NE(e.kind, Kind{}) << deed << ": " << (gone ? "its box" : "it") << " does not end";
      if (e.kind == Kind::zygoteGone) {
        gone = true;
        EXPECT_EQ(e.zygote_id, id) << deed;
        EXPECT_STREQ(e.text, "the template's zygote broke the protocol") << deed;
      } else {
        failed = true;
        EXPECT_EQ(e.kind, Kind::boxFailed) << deed;
        EXPECT_EQ(e.box, boxes_) << deed;
      }
    }
  }
  // No descriptor of theirs keeps the loop busy.
  const uint64_t before_ns = live_->cpuNs();
  ::poll(nullptr, 0, 200);
  EXPECT_LT(live_->cpuNs() - before_ns, slowness() * 20'000'000u);
  box_ = honest;
  EXPECT_EQ(finish(true).reaped.exit_status, SIGKILL);
  EXPECT_EQ(run({"/bin/probe", "exit", "4"}).reaped.exit_status, 4);
}

TEST_F(Box, LocksOnDevicesReachNoBoxOfAnotherZygote) {
  start({"/bin/probe", "flock", "/dev/null"});
  ASSERT_EQ(line(), "taken");
  const base::BoxId first = box_;
  ASSERT_EQ(live_->publish(50).kind, Kind::zygoteReady);
  template_ = 50;
  start({"/bin/probe", "flock", "/dev/null"});
  template_ = 1;
  EXPECT_EQ(line(), "taken");
  endBox(box_);
  endBox(first);
}

TEST_F(Box, PendingSignalsOfAllBoxesLeaveHalfToTheHost) {
  constexpr rlim_t kOfTheHost = 3'000;  // each box may have 1,024
  rlimit whole, few;
  ASSERT_EQ(::getrlimit(RLIMIT_SIGPENDING, &whole), 0);
  few = {std::min(kOfTheHost, whole.rlim_max), whole.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_SIGPENDING, &few), 0);
  auto mine = std::make_unique<Live>(images_, "box-signals-" + std::to_string(::getpid()), "60");
  ASSERT_EQ(::setrlimit(RLIMIT_SIGPENDING, &whole), 0);
  ASSERT_EQ(mine->publish(1).kind, Kind::zygoteReady);
  std::swap(live_, mine);
  int queued = 0;
  for (int i = 0; i < 4; ++i) {
    start({"/bin/probe", "queue"});
    queued += std::stoi(line());
  }
  std::swap(live_, mine);
  EXPECT_GT(queued, 1'024);
  EXPECT_LE(queued, static_cast<int>(few.rlim_cur / 2));
  EXPECT_EQ(mine->close(), 0);
}

TEST_F(Box, ATakenOverZygoteCannotUseUpTheHostsNamespaces) {
  const char file[] = "/proc/sys/user/max_user_namespaces";
  auto numberIn = [&] {
    long number = -1;
    std::ifstream(file) >> number;
    return number;
  };
  for (const Process& p : childrenOf(live_->pid_)) {
    const std::string ns = "/proc/" + std::to_string(p.pid) + "/ns/user";
    // As root of its user namespace.
    const std::unique_ptr<FILE, int (*)(FILE*)> inside(
        ::popen(("nsenter --user=" + ns + " cat " + file).c_str(), "r"), ::pclose);
    long number = -1;
    EXPECT_EQ(::fscanf(inside.get(), "%ld", &number), 1);
    EXPECT_EQ(number, numberIn() / 2) << p.name << " has no ceiling";
    std::ifstream status("/proc/" + std::to_string(p.pid) + "/status");
    for (std::string text; std::getline(status, text);)
      if (text.rfind("CapBnd:", 0) == 0) {
        EXPECT_EQ(std::stoull(text.substr(7), nullptr, 16) & (1ull << 24 /* SYS_RESOURCE */), 0u)
            << p.name << " could lift the ceilings";
      }
  }
}

TEST_F(Box, TasksGoFirstWhereTheHostIsShortOfMemory) {
  EXPECT_EQ(run({"/bin/probe", "show", "/proc/self/oom_score_adj"}).out, "1000\n");
}

TEST_F(Box, AThrottledBoxDiesAtOnce) {
  base::Limits limits;
  limits.cpu_milli = 10;
  uint64_t least_ns = UINT64_MAX;
  for (int i = 0; i < 3 && least_ns > 150'000'000u; ++i) {  // others may need the cores
    start({"/bin/probe", "crowd", "30"}, limits);
    ::poll(nullptr, 0, 500);  // each of them waits for its next millisecond by now
    const uint64_t ended_ns = base::monotonicNs();
    least_ns = std::min(least_ns, finish(true).gone.reaped_ns - ended_ns);
  }
  EXPECT_LT(least_ns, 150'000'000u);
}

TEST_F(Box, ADiskOfManyEmptyFilesStallsNobody) {
  constexpr uint64_t kFiles = 16'000;
  base::Limits limits;
  limits.disk_inodes = kFiles + 100;
  start({"/bin/probe", "files", std::to_string(kFiles)}, limits);
  while (sampleOnce().counters.disk_inodes < kFiles) ::poll(nullptr, 0, 20);
  const uint64_t before_ns = live_->cpuNs();
  endBox(box_);  // nothing is collected: the disk is freed at once
  EXPECT_LT(live_->cpuNs() - before_ns, slowness() * 8'000'000u);
}

TEST_F(Box, AKilledSpawnerTakesEverythingAlongAndTheNextStartSweeps) {
  ASSERT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 1),
            0);  // as mayflyd: what the spawner leaves comes to us
  std::string name = "box-kill-" + std::to_string(::getpid());
  Live mine(images_, name, "61");
  ASSERT_EQ(mine.publish(1).kind, Kind::zygoteReady);
  Request r;
  r.op = Op::make;
  r.box = 1;
  r.zygote_id = 1;
  ASSERT_TRUE(mine.send(r));
  ASSERT_EQ(mine.next().kind, Kind::boxMade);
  std::vector<Process> all = childrenOf(mine.pid_);
  EXPECT_EQ(all.size(), 5u);  // pid 1, maker, zygote, init, clone
  uint64_t killed_ns = base::monotonicNs();
  ::kill(mine.pid_, SIGKILL);
  mine.close();  // once it is reaped, its children come to us
  // Youngest first: the pid 1 of a namespace ends only when all its processes are reaped.
  std::sort(all.begin(), all.end(),
            [](const Process& a, const Process& b) { return a.pid > b.pid; });
  for (const Process& p : all) {
    siginfo_t info{};
    ASSERT_TRUE(readable(p.fd.get())) << p.name << " outlived the spawner";
    EXPECT_EQ(::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(p.fd.get()), &info,
                       WEXITED | __WALL),
              0);
    EXPECT_LT(base::monotonicNs() - killed_ns, 1'000'000'000u) << p.name;
  }
  EXPECT_TRUE(mine.anyCgroup());  // no process was left to remove them
  Live again(images_, name, "61");
  ASSERT_EQ(again.hello_.kind, Kind::hello);
  ASSERT_EQ(again.publish(1).kind, Kind::zygoteReady);
  EXPECT_EQ(again.close(), 0);
  EXPECT_FALSE(again.anyCgroup());
  EXPECT_EQ(run({"/bin/probe", "exit", "5"}).reaped.exit_status, 5);  // the other instance works on
}

}  // namespace
}  // namespace mayfly::spawner
