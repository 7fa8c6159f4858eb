// Layer: zygote. See hygiene.h.
#include "zygote/hygiene.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "zygote/raw.h"
#include "wire/zygote.h"

namespace mayfly::zygote {

using namespace wire;
namespace {

constexpr int kDescriptorsMax = 1'024;  // of a baseline; a descriptor above it is always a fault
constexpr size_t kLongest = 3;          // preloads that the report names
constexpr size_t kMapsLineBytes = 1'024;

bool have_baseline = false;
bool own[kDescriptorsMax] = {};

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

int findThread(char* fault) {
  DIR* dir = opendir("/proc/self/task");
  if (dir == nullptr) return -errno;
  int count = 0;
  while (const dirent* entry = readdir(dir))
    if (entry->d_name[0] != '.') ++count;
  closedir(dir);
  if (count == 1) return 0;
  copyText(fault, kFaultBytes, "started a thread");
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

int judgeDescriptor(int fd, char* fault) {
  if (fd <= kSeccompFd || (have_baseline && fd < kDescriptorsMax && own[fd])) return 0;
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

}  // namespace

void takeBaseline() {
  eachDescriptor([](int fd) {
    if (fd < kDescriptorsMax) own[fd] = true;
    return 0;
  });
  have_baseline = true;
  first_ns = last_ns = nowNs();
}

int findHygieneFault(char* fault) {
  fault[0] = '\0';
  int r = findThread(fault);
  if (r == 0) r = findChild(fault);
  if (r == 0) r = findTimer(fault);
  if (r == 0) r = eachDescriptor([fault](int fd) { return judgeDescriptor(fd, fault); });
  if (r == 0) r = findSharedMemory(fault);
  return r;
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
