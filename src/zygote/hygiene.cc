// Layer: zygote. See hygiene.h.
#include "zygote/hygiene.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "zygote/raw.h"
#include "zygote/surroundings.h"
#include "wire/zygote.h"

namespace mayfly::zygote {

using namespace wire;
namespace {

constexpr int kDescriptorsMax = 1'024;  // of a baseline; a descriptor above it is always a fault
constexpr size_t kLongest = 3;          // preloads that the report names
constexpr size_t kMapsLineBytes = 1'024;
constexpr size_t kStackWordsMax = 4'096;  // of a thread, above its stack pointer
constexpr decltype(statfs::f_type) kProcMagic = 0x9fa0;
constexpr int kLooksMax = 40;  // at a thread that runs
constexpr unsigned kLookMs = 5;

bool have_baseline = false;
bool own[kDescriptorsMax] = {};
Surroundings given;    // at the baseline
int seccomp_mode = 0;  // the same

// Those that a task's own limits are set from: nobody raises a hard limit again.
struct HardLimit {
  __rlimit_resource resource;
  const char* name;
  rlim_t at_baseline;
};
HardLimit hard_limits[] = {{RLIMIT_NOFILE, "open files", 0},
                           {RLIMIT_FSIZE, "the size of a file", 0},
                           {RLIMIT_CPU, "processor time", 0}};

struct Preload {
  char name[64];
  uint64_t ns;
};
Preload longest[kLongest] = {};
unsigned preloads = 0;
uint64_t first_ns = 0, last_ns = 0;

// Calls visit(descriptor) for each open one, until it returns non-zero.
template <class Visit>
int eachDescriptor(Visit visit) {
  DIR* dir = opendir("/proc/self/fd");
  if (dir == nullptr) return -errno;
  int result = 0;
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] == '.') continue;
    int fd = atoi(entry->d_name);
    if (fd == dirfd(dir)) continue;
    if ((result = visit(fd)) != 0) break;
  }
  closedir(dir);
  return result;
}

// The start of a file of /proc as text; empty if it cannot be read.
void readStart(const char* path, char* to, size_t size) {
  to[0] = '\0';
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t n = read(fd, to, size - 1);
  close(fd);
  to[n > 0 ? n : 0] = '\0';
  to[strcspn(to, "\n")] = '\0';
}

// Reads the program counter and then the words on the stack of a thread that sleeps; the number of
// words. A thread that runs has neither to show, so it is given some time: a worker without work
// spins before it sleeps.
size_t readStack(int thread, uint64_t* words, size_t words_max) {
  char path[48], text[256];
  snprintf(path, sizeof path, "/proc/self/task/%d/syscall", thread);
  unsigned long long stack = 0, counter = 0;
  for (int look = 0; look < kLooksMax && counter == 0; ++look) {
    if (look > 0) usleep(kLookMs * 1'000);
    readStart(path, text, sizeof text);
    if (text[0] == '\0') return 0;         // it ended
    const char* end = strrchr(text, ' ');  // "number arguments... stack counter", or "running"
    if (end == nullptr) continue;
    while (end > text && end[-1] != ' ') --end;
    if (sscanf(end, "%llx %llx", &stack, &counter) != 2) counter = 0;
  }
  if (counter == 0) return 0;
  words[0] = counter;
  // Not through a pointer: the thread may end meanwhile, and its stack with it.
  int memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
  if (memory < 0) return 1;
  ssize_t n = pread(memory, words + 1, (words_max - 1) * sizeof *words, static_cast<off_t>(stack));
  close(memory);
  return 1 + (n > 0 ? static_cast<size_t>(n) / sizeof *words : 0);
}

// The path of the file whose code the thread runs: the innermost one that is not of the C or C++
// library, through which every thread waits.
void findCode(const uint64_t* words, size_t count, char* path, size_t size) {
  path[0] = '\0';
  FILE* maps = fopen("/proc/self/maps", "re");
  if (maps == nullptr) return;
  static constexpr const char* kCommon[] = {"/libc.so", "/libc-2", "/ld-linux", "/libpthread",
                                            "/libstdc++"};
  size_t best = count;
  char line[kMapsLineBytes];
  while (fgets(line, sizeof line, maps) != nullptr) {
    unsigned long long from, to;
    char rights[5];
    const char* file = strchr(line, '/');
    if (sscanf(line, "%llx-%llx %4s", &from, &to, rights) != 3 || rights[2] != 'x' ||
        file == nullptr)
      continue;
    bool common = false;
    for (const char* name : kCommon) common = common || strstr(file, name) != nullptr;
    for (size_t i = 0; i < best && !common; ++i) {
      if (words[i] < from || words[i] >= to) continue;
      best = i;
      copyText(path, size, file);
      path[strcspn(path, "\n")] = '\0';
    }
  }
  fclose(maps);
}

void describeThread(int thread, char* fault) {
  char path[48], usual[32], name[32], file[kMapsLineBytes];
  snprintf(path, sizeof path, "/proc/self/task/%d/comm", thread);
  readStart(path, name, sizeof name);
  readStart("/proc/self/comm", usual, sizeof usual);
  uint64_t words[kStackWordsMax];
  findCode(words, readStack(thread, words, kStackWordsMax), file, sizeof file);
  const char* shown = strstr(file, "-packages/");  // of Python: "numpy.libs/libopenblas.so"
  shown = shown != nullptr ? shown + strlen("-packages/") : strrchr(file, '/');
  if (shown != nullptr && *shown == '/') ++shown;
  const bool named = name[0] != '\0' && strcmp(name, usual) != 0;
  snprintf(fault, kFaultBytes, "started a thread%s%s%s%s%.80s; %s", named ? " '" : "",
           named ? name : "", named ? "'" : "", shown != nullptr ? ", in " : "",
           shown != nullptr ? shown : "", wayOut(file));
}

int findThread(char* fault) {
  DIR* dir = opendir("/proc/self/task");
  if (dir == nullptr) return -errno;
  int other = 0;
  while (const dirent* entry = readdir(dir))
    if (int id = atoi(entry->d_name); id != 0 && id != getpid()) other = id;
  closedir(dir);
  if (other == 0) return 0;
  describeThread(other, fault);
  return -EUSERS;
}

int findChild(char* fault) {
  siginfo_t info;
  int r;
  do r = waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL);
  while (r != 0 && errno == EINTR);
  if (r != 0) return errno == ECHILD ? 0 : -errno;
  copyText(fault, kFaultBytes, "left a child process");
  return -ECHILD;
}

// A timer would end the zygote, or run its code, at any time.
int findTimer(char* fault) {
  bool found = false;
  constexpr __itimer_which kIntervalTimers[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};
  for (auto which : kIntervalTimers) {
    itimerval timer{};
    if (getitimer(which, &timer) != 0) return -errno;
    found = found || timer.it_value.tv_sec != 0 || timer.it_value.tv_usec != 0;
  }
  if (int fd = open("/proc/self/timers", O_RDONLY | O_CLOEXEC);
      fd >= 0) {  // absent in some kernels
    char byte;
    found = found || read(fd, &byte, 1) == 1;
    close(fd);
  }
  if (!found) return 0;
  copyText(fault, kFaultBytes, "set a timer");
  return -EBUSY;
}

// A place in /proc must not become one in the full /proc that covers the box's own while criu opens
// it by its path. criu 4.1 refuses it in words of its own; a later one may not.
int judgeDescriptor(Gate gate, int fd, char* fault) {
  if (fd <= kSeccompFd) return 0;
  struct statfs fs;
  if (gate == Gate::snapshot && fstatfs(fd, &fs) == 0 && fs.f_type == kProcMagic) {
    snprintf(fault, kFaultBytes, "has a file of /proc open (descriptor %d)", fd);
    return -EMFILE;
  }
  if (have_baseline && fd < kDescriptorsMax && own[fd]) return 0;
  struct stat st;
  if (fstat(fd, &st) != 0) return -errno;
  if (S_ISSOCK(st.st_mode)) {
    snprintf(fault, kFaultBytes, "opened a socket (descriptor %d)", fd);
    return -EADDRINUSE;
  }
  if (!have_baseline) return 0;
  char path[32], target[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(path, target, sizeof target - 1);
  target[n > 0 ? n : 0] = '\0';
  snprintf(fault, kFaultBytes, "left descriptor %d open: %s", fd, target);
  return -EMFILE;
}

// All clones would share it.
int findSharedMemory(char* fault) {
  FILE* maps = fopen("/proc/self/maps", "re");
  if (maps == nullptr) return -errno;
  int result = 0;
  char line[kMapsLineBytes];
  while (result == 0 && fgets(line, sizeof line, maps) != nullptr) {
    const char* rights =
        strchr(line, ' ');  // "rw-s"; a line's far end reads as another without harm
    if (rights == nullptr || strlen(rights) < 5 || rights[2] != 'w' || rights[4] != 's') continue;
    copyText(fault, kFaultBytes, "left writable shared memory");
    result = -ETXTBSY;
  }
  fclose(maps);
  return result;
}

// A clone would have them, too: forked with the order, dumped with all.
int findOtherSurroundings(char* fault) {
  if (!have_baseline) return 0;
  Surroundings now;
  if (int r = readSurroundings("/proc/self", &now); r != 0) return r;
  return findChange(given, now, fault, kFaultBytes) ? -EXDEV : 0;
}

// criu cannot dump one from inside a user namespace.
int findFilter(char* fault) {
  if (!have_baseline || prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == seccomp_mode) return 0;
  copyText(fault, kFaultBytes, "installed a filter of system calls, which a dump cannot hold");
  return -EPERM;
}

// Every task of the template would have less than its caps say.
int findLowerLimit(char* fault) {
  if (!have_baseline) return 0;
  for (const HardLimit& each : hard_limits) {
    rlimit now;
    if (getrlimit(each.resource, &now) != 0) return -errno;
    if (now.rlim_max >= each.at_baseline) continue;
    snprintf(fault, kFaultBytes, "lowered its hard limit on %s to %llu", each.name,
             static_cast<unsigned long long>(now.rlim_max));
    return -EDQUOT;
  }
  return 0;
}

}  // namespace

void takeBaseline() {
  for (HardLimit& each : hard_limits) {
    rlimit now;
    if (getrlimit(each.resource, &now) == 0) each.at_baseline = now.rlim_max;
  }
  seccomp_mode = prctl(PR_GET_SECCOMP, 0, 0, 0, 0);
  // What cannot be read differs from what can be read later.
  if (readSurroundings("/proc/self", &given) != 0) given = {};
  eachDescriptor([](int fd) {
    if (fd < kDescriptorsMax) own[fd] = true;
    return 0;
  });
  have_baseline = true;
  first_ns = last_ns = nowNs();
}

int findHygieneFault(Gate gate, char* fault) {
  fault[0] = '\0';
  int r = gate == Gate::fork ? findThread(fault) : 0;
  if (r == 0) r = findChild(fault);
  if (r == 0) r = findTimer(fault);
  if (r == 0) r = eachDescriptor([&](int fd) { return judgeDescriptor(gate, fd, fault); });
  if (r == 0 && gate == Gate::fork) r = findSharedMemory(fault);
  if (r == 0) r = findOtherSurroundings(fault);
  if (r == 0) r = findLowerLimit(fault);
  if (r == 0 && gate == Gate::snapshot) r = findFilter(fault);
  return r;
}

const char* wayOut(const char* path) {
  static constexpr const char* kWays[][2] = {
      {"openblas", "OPENBLAS_NUM_THREADS = \"1\" in [zygote.env] prevents it"},
      {"libmkl_", "MKL_NUM_THREADS = \"1\" in [zygote.env] prevents it"},
      {"libgomp", "OMP_NUM_THREADS = \"1\" in [zygote.env] prevents it"},
      {"libomp", "OMP_NUM_THREADS = \"1\" in [zygote.env] prevents it"},
      {"libiomp", "OMP_NUM_THREADS = \"1\" in [zygote.env] prevents it"},
      {"/numexpr/", "NUMEXPR_NUM_THREADS = \"1\" in [zygote.env] prevents it"},
  };
  for (const auto& [part, way] : kWays)
    if (strstr(path, part) != nullptr) return way;
  return "take it out of zygote.preload: the task loads it; or set mechanism = \"restore\", which "
         "takes threads along";
}

void notePreload(const char* name) {
  uint64_t now = nowNs(), took = now - last_ns;
  last_ns = now;
  ++preloads;
  for (size_t i = 0; i < kLongest; ++i) {
    if (took <= longest[i].ns) continue;
    memmove(longest + i + 1, longest + i, (kLongest - i - 1) * sizeof *longest);
    copyText(longest[i].name, sizeof longest[i].name, name);
    longest[i].ns = took;
    return;
  }
}

void reportPreloads() {
  if (preloads == 0) return;
  char line[512];
  int n = snprintf(line, sizeof line, "preloaded %u in %.1f ms", preloads,
                   static_cast<double>(last_ns - first_ns) / 1e6);
  for (size_t i = 0; i < kLongest && longest[i].ns != 0; ++i)
    n += snprintf(line + n, sizeof line - static_cast<size_t>(n), "%s %s %.1f ms",
                  i == 0 ? ";" : ",", longest[i].name, static_cast<double>(longest[i].ns) / 1e6);
  dprintf(2, "%s\n", line);
}

}  // namespace mayfly::zygote
