// The gate of a zygote: it names the thread that a preload started, whose code runs in it, and the
// way out.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/call_filter.h"
#include "zygote/bystander.h"
#include "zygote/hygiene.h"
#include "zygote/raw.h"
#include "zygote/surroundings.h"
#include "zygote/v8_random.h"
#include "zygote/vdso_random.h"

namespace mayfly::zygote {
namespace {

// A thread of this program, while the object lives.
class Worker {
 public:
  explicit Worker(const char* name, bool spins = false) {
    thread_ = std::thread([this, spins] {
      started_ = true;
      std::unique_lock lock(mutex_);
      if (!spins) end_.wait(lock, [this] { return over_.load(); });
      lock.unlock();
      while (!over_) {
      }
    });
    if (name != nullptr) pthread_setname_np(thread_.native_handle(), name);
    while (!started_) std::this_thread::yield();
  }
  Worker(const Worker&) = delete;
  ~Worker() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    end_.notify_all();
    thread_.join();
  }

 private:
  std::atomic<bool> started_ = false, over_ = false;
  std::mutex mutex_;
  std::condition_variable end_;
  std::thread thread_;
};

TEST(Hygiene, AThreadIsToldByItsNameItsCodeAndTheWayOut) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer has a thread of its own, and every wait is in its library";
#endif
  char fault[kFaultBytes];
  ASSERT_EQ(findHygieneFault(Gate::fork, fault), 0) << fault;
  {
    const Worker worker("tokio-worker-7");
    EXPECT_EQ(findHygieneFault(Gate::fork, fault), -EUSERS);
    EXPECT_EQ(
        std::string(fault),
        "started a thread 'tokio-worker-7', in zygote_test; take it out of zygote.preload: the "
        "task loads it; or set mechanism = \"restore\", which takes threads along");
    EXPECT_EQ(findHygieneFault(Gate::snapshot, fault), 0) << "a dump takes it along: " << fault;
  }
  {
    const Worker worker(nullptr);  // it has the program's name, which says nothing
    EXPECT_EQ(findHygieneFault(Gate::fork, fault), -EUSERS);
    EXPECT_EQ(std::string(fault).rfind("started a thread, in zygote_test; ", 0), 0u) << fault;
  }
  EXPECT_EQ(findHygieneFault(Gate::fork, fault), 0) << fault;
}

TEST(Hygiene, AThreadThatNeverSleepsIsAFaultToo) {
  const Worker worker("busy", true);
  char fault[kFaultBytes];
  EXPECT_EQ(findHygieneFault(Gate::fork, fault), -EUSERS);
  EXPECT_EQ(std::string(fault).rfind("started a thread 'busy'", 0), 0u) << fault;
}

TEST(Hygiene, AFileOfProcIsAFaultBeforeADumpWhoeverOpenedIt) {
  char fault[kFaultBytes];
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(findHygieneFault(Gate::snapshot, fault), 0) << fault;
  for (const char* path : {"/proc", "/proc/self/status", "/proc/sys/kernel"}) {
    const int opened = ::open(path, O_RDONLY | O_CLOEXEC);
    const int fd = ::fcntl(opened, F_DUPFD_CLOEXEC, 10);  // the first few are replaced later
    ::close(opened);
    ASSERT_GE(fd, 0) << path;
    EXPECT_EQ(findHygieneFault(Gate::snapshot, fault), -EMFILE) << path;
    EXPECT_EQ(std::string(fault),
              "has a file of /proc open (descriptor " + std::to_string(fd) + ")");
#ifndef __SANITIZE_THREAD__  // it has a thread of its own
    EXPECT_EQ(findHygieneFault(Gate::fork, fault), 0) << "a fork's /proc is the box's: " << fault;
#endif
    ::close(fd);
  }
  ::close(null);
}

// What the gate says in a child that takes the baseline, and then does this.
std::string faultAfter(Gate gate, int* error, const std::function<bool()>& preload) {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    char fault[kFaultBytes];
    takeBaseline();
    if (findHygieneFault(gate, fault) != 0 || !preload()) ::_exit(255);
    const int r = findHygieneFault(gate, fault);
    (void)!::write(ends[1], fault, strlen(fault));
    ::_exit(-r);
  }
  ::close(ends[1]);
  std::string said(kFaultBytes, '\0');
  const ssize_t n = ::read(ends[0], said.data(), said.size());
  said.resize(n > 0 ? static_cast<size_t>(n) : 0);
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  *error = -WEXITSTATUS(status);
  return said;
}

bool writes(const char* path, const std::string& text) {
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  const bool well = fd >= 0 && ::write(fd, text.data(), text.size()) > 0;
  ::close(fd);
  return well;
}

TEST(Hygiene, SurroundingsThatAPreloadChangedAreAFault) {
  Surroundings own;
  ASSERT_EQ(readSurroundings("/proc/self", &own), 0);
  for (const ino_t each : own.namespaces) EXPECT_NE(each, 0u);
  // Each process may give itself a place nearer to the end.
  const int other = own.memory_order == 1'000 ? 999 : own.memory_order + 1;
  int error = 0;
  std::vector<Gate> gates{Gate::snapshot};
#ifndef __SANITIZE_THREAD__  // it has a thread of its own, which no fork takes along
  gates.push_back(Gate::fork);
#endif
  for (Gate gate : gates) {
    const std::string said = faultAfter(
        gate, &error, [&] { return writes("/proc/self/oom_score_adj", std::to_string(other)); });
    EXPECT_EQ(error, -EXDEV) << said;
    EXPECT_EQ(said, "changed its oom_score_adj from " + std::to_string(own.memory_order) + " to " +
                        std::to_string(other));
    EXPECT_EQ(faultAfter(gate, &error, [] { return ::chdir("/") == 0; }), "");
    EXPECT_EQ(error, 0);
  }
  const std::string said =
      faultAfter(Gate::snapshot, &error, [] { return ::unshare(CLONE_NEWUSER) == 0; });
  if (error == -255) GTEST_SKIP() << "this host lets nobody make a user namespace";
  EXPECT_EQ(error, -EXDEV) << said;
  EXPECT_EQ(said, "left its user namespace");
}

TEST(Hygiene, AHardLimitThatAPreloadLoweredIsAFault) {
  const auto lowers = [](__rlimit_resource resource, rlim_t to) {
    return [=] {
      const rlimit both{to, to};
      return ::setrlimit(resource, &both) == 0;
    };
  };
  int error = 0;
  EXPECT_EQ(faultAfter(Gate::snapshot, &error, lowers(RLIMIT_NOFILE, 128)),
            "lowered its hard limit on open files to 128");
  EXPECT_EQ(error, -EDQUOT);
  EXPECT_EQ(faultAfter(Gate::snapshot, &error, lowers(RLIMIT_FSIZE, 1 << 20)),
            "lowered its hard limit on the size of a file to 1048576");
  EXPECT_EQ(faultAfter(Gate::snapshot, &error, lowers(RLIMIT_CORE, 0)), "") << "no task's cap";
  EXPECT_EQ(error, 0);
}

TEST(Hygiene, AFilterOfAPreloadIsAFaultBeforeADump) {
  const auto filters = [] {
    sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    const sock_fprog program{1, &all};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
  };
  if (::prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0) GTEST_SKIP() << "the tests run behind a filter";
  int error = 0;
  EXPECT_EQ(faultAfter(Gate::snapshot, &error, filters),
            "installed a filter of system calls, which a dump cannot hold");
  EXPECT_EQ(error, -EPERM);
  EXPECT_EQ(faultAfter(Gate::fork, &error, filters), "") << "a fork hands it on";
}

TEST(Hygiene, KnownLibrariesHaveAVariableThatPreventsTheirThreads) {
  const std::string site = "/usr/local/lib/python3.13/dist-packages/";
  EXPECT_EQ(std::string(wayOut((site + "numpy.libs/libscipy_openblas64_-56d6093b.so").c_str())),
            "OPENBLAS_NUM_THREADS = \"1\" in [zygote.env] prevents it");
  EXPECT_NE(strstr(wayOut((site + "scikit_learn.libs/libgomp-a34b3233.so.1.0.0").c_str()),
                   "OMP_NUM_THREADS"),
            nullptr);
  EXPECT_NE(strstr(wayOut((site + "numexpr/interpreter.so").c_str()), "NUMEXPR_NUM_THREADS"),
            nullptr);
  for (const std::string& path :
       {site + "polars/polars.abi3.so", site + "pyarrow/libarrow.so.2100", std::string()})
    EXPECT_EQ(std::string(wayOut(path.c_str())),
              "take it out of zygote.preload: the task loads it; or set mechanism = \"restore\", "
              "which takes threads along");
}

TEST(MakePrintable, ATerminalGetsNoCommand) {
  const auto made = [](std::string text, Lines lines) {
    makePrintable(text.data(), text.size(), lines);
    return text;
  };
  EXPECT_EQ(made("a\x1b[31mb\x07\x7f\r", Lines::keep), "a?[31mb???");
  EXPECT_EQ(made("one\n\ttwo", Lines::keep), "one\n\ttwo");
  EXPECT_EQ(made("one\n\ttwo", Lines::replace), "one??two");
  EXPECT_EQ(made("\xc2\x9b"
                 "31m \xc2\xa9 \xc3\xa9",
                 Lines::keep),
            "??31m \xc2\xa9 \xc3\xa9");
  // The second byte comes with the next part.
  EXPECT_EQ(made("end\xc2", Lines::keep), "end?");
}

// --- who else is in a box ----------------------------------------------------------------

class Bystander : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(::mkdtemp(proc_), nullptr); }
  void TearDown() override { std::filesystem::remove_all(proc_); }
  void add(const std::string& name, const std::string& status) {
    std::filesystem::create_directory(proc_ + ("/" + name));
    std::ofstream(proc_ + ("/" + name + "/status")) << status;
  }
  pid_t find() const {
    const pid_t known[] = {1, 7, 1'000};
    return findBystander(proc_, known, 3);
  }
  char proc_[32] = "/tmp/proc-XXXXXX";
};

TEST_F(Bystander, OnlyALivingProcessThatNobodyKnowsIsOne) {
  const std::string lives = "Name:\tx\nState:\tS (sleeping)\nThreads:\t1\n";
  for (const char* known : {"1", "7", "1000", "sys"}) add(known, lives);
  EXPECT_EQ(find(), 0);
  add("2", "Name:\tcriu\nState:\tZ (zombie)\nThreads:\t1\n");
  EXPECT_EQ(find(), 0) << "it waits to be reaped";
  add("9", lives);
  EXPECT_EQ(find(), 9);
}

TEST_F(Bystander, AThreadThatOutlivesItsLeaderIsOne) {
  add("2", "Name:\tcriu\nState:\tZ (zombie)\nThreads:\t2\n");
  EXPECT_EQ(find(), 2);
}

TEST_F(Bystander, WhatCannotBeLookedAtIsNotTakenForNobody) {
  add("2", "");
  EXPECT_EQ(find(), 2);
  EXPECT_EQ(findBystander("/nosuch", nullptr, 0), -ENOENT);
}

TEST(BystanderOfHere, TheKernelsWordsAreUnderstood) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  std::vector<pid_t> known;
  for (pid_t other;
       (other = findBystander("/proc", known.data(), static_cast<int>(known.size()))) != 0;) {
    ASSERT_GT(other, 0);
    ASSERT_NE(other, child) << "it has ended";
    known.push_back(other);
  }
  EXPECT_NE(std::find(known.begin(), known.end(), ::getpid()), known.end());
  ::waitpid(child, nullptr, 0);
}

// --- what a snapshot repeats -----------------------------------------------------------

constexpr int kMapDroppable = 0x08;

TEST(VdsoRandom, DroppableMemoryIsMadeAnewAtItsPlaces) {
  constexpr size_t kBytes = 8'192;
  void* at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | kMapDroppable, -1, 0);
  if (at == MAP_FAILED) GTEST_SKIP() << "this kernel has no droppable memory";
  auto* bytes = static_cast<char*>(at);
  memset(bytes, 'x', kBytes);
  ASSERT_EQ(findDroppableMemory(), 0);
  // As criu restores it: the same bytes in ordinary memory.
  ASSERT_EQ(
      ::mmap(at, kBytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE | MAP_FIXED, -1, 0),
      at);
  memset(bytes, 'x', kBytes);
  ASSERT_EQ(renewDroppableMemory(), 0);
  for (size_t i = 0; i < kBytes; i += 512) EXPECT_EQ(bytes[i], 0) << i;
  bytes[0] = 'y';
  const pid_t child = ::fork();
  if (child == 0) ::_exit(bytes[0] == 0 ? 0 : 1);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "a fork wipes it again";
  ::munmap(at, kBytes);
}

// V8's own words for its generator, and for Math.random after some refills.
struct Words {
  uint64_t s0, s1;
};
uint64_t murmur(uint64_t h) {
  h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdull;
  h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53ull;
  return h ^ (h >> 33);
}
void draw(Words* w, int count) {
  while (count-- > 0) {
    uint64_t a = w->s0;
    w->s0 = w->s1;
    a ^= a << 23;
    a ^= a >> 17;
    a ^= w->s1;
    a ^= w->s1 >> 26;
    w->s1 = a;
  }
}

struct Planted {
  Planted(int64_t seed_given, int generators, int maths) : seed(seed_given) {
    for (int i = 0; i < generators; ++i) {
      auto* g = static_cast<int64_t*>(::malloc(3 * sizeof(int64_t)));
      Words w{murmur(static_cast<uint64_t>(seed)), 0};
      w.s1 = murmur(~w.s0);
      draw(&w, 3 + i);
      g[0] = seed;
      memcpy(g + 1, &w, sizeof w);
      all.push_back(reinterpret_cast<uint64_t*>(g + 1));
    }
    for (int i = 0; i < maths; ++i) {
      auto* w = static_cast<Words*>(::malloc(sizeof(Words)));
      *w = {murmur(static_cast<uint64_t>(seed)), murmur(~static_cast<uint64_t>(seed))};
      draw(w, 64 * (7 + i));
      all.push_back(reinterpret_cast<uint64_t*>(w));
    }
  }
  ~Planted() {
    for (uint64_t* one : all) memset(one, 0, 2 * sizeof *one);  // not freed: it keeps its place
  }
  std::vector<std::pair<uint64_t, uint64_t>> values() const {
    std::vector<std::pair<uint64_t, uint64_t>> v;
    for (uint64_t* one : all) v.emplace_back(one[0], one[1]);
    return v;
  }
  int64_t seed;
  std::vector<uint64_t*> all;
};

constexpr char kTooMuchMemory[] = "a sanitizer's own memory, of terabytes, would be searched";

TEST(V8Random, GeneratorsAreFoundByTheirValuesAndGetFreshOnes) {
  if (base::kSanitized) GTEST_SKIP() << kTooMuchMemory;
  const Planted planted(91'234'567, 3, 1);
  ASSERT_EQ(findV8Generators(planted.seed), 0);
  const auto before = planted.values();
  ASSERT_EQ(seedV8Generators(), 0);
  const auto first = planted.values();
  ASSERT_EQ(seedV8Generators(), 0);
  const auto second = planted.values();
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_NE(before[i], first[i]) << i;
    EXPECT_NE(first[i], second[i]) << i;
  }
}

// Memory is read in blocks of 32,768 words, of which the next one has the last two again.
TEST(V8Random, AStateBetweenTwoBlocksCountsOnce) {
  if (base::kSanitized) GTEST_SKIP() << kTooMuchMemory;
  constexpr size_t kBlock = 32'768 * sizeof(uint64_t), kPage = 4'096;
  // The pages around keep the mapping apart from others.
  void* at = ::mmap(nullptr, 4 * kBlock, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(at, MAP_FAILED);
  auto* memory = static_cast<char*>(at) + kPage;
  ASSERT_EQ(::mprotect(memory, 2 * kBlock, PROT_READ | PROT_WRITE), 0);
  const Planted planted(51'234'567, 2, 0);
  const auto seed = static_cast<uint64_t>(planted.seed);
  Words math{murmur(seed), murmur(~seed)};
  draw(&math, 64 * 5);
  for (size_t words_before_end : {3, 2, 1}) {
    auto* place = memory + kBlock - words_before_end * sizeof(uint64_t);
    memcpy(place, &math, sizeof math);
    EXPECT_EQ(findV8Generators(planted.seed), 0) << words_before_end;
    memset(place, 0, sizeof math);
  }
  memset(&math, 0, sizeof math);
  ::munmap(at, 4 * kBlock);
}

TEST(V8Random, AnythingButOneMathRandomAndAGeneratorIsRefused) {
  if (base::kSanitized) GTEST_SKIP() << kTooMuchMemory;
  {
    const Planted without(81'234'567, 0, 1);
    EXPECT_EQ(findV8Generators(without.seed), -ENXIO);
  }
  {
    const Planted none(71'234'567, 1, 0);
    EXPECT_EQ(findV8Generators(none.seed), -ENXIO);
  }
  {
    const Planted two(61'234'567, 1, 2);
    EXPECT_EQ(findV8Generators(two.seed), -ENXIO);
  }
  EXPECT_EQ(findV8Generators(0), -EINVAL);
}

}  // namespace
}  // namespace mayfly::zygote
