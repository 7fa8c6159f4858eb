// Layer: zygote. See vdso_random.h.
#include "zygote/vdso_random.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

namespace mayfly::zygote {
namespace {

constexpr int kMapDroppable = 0x08;  // MAP_DROPPABLE of Linux 6.11: a type of mapping, like private
constexpr int kRunsMax = 64;         // each has room for the states of some dozen threads
constexpr size_t kLineBytes = 1'024;

struct Run {
  uintptr_t start, end;
};
Run runs[kRunsMax];
int runs_count = 0;

// Of a line "VmFlags: rd wr mr mw me ac wf dd dp".
bool isDroppable(const char* line) {
  const char* at = line;
  while ((at = strstr(at, " dp")) != nullptr) {
    at += 3;
    if (*at == ' ' || *at == '\n' || *at == '\0') return true;
  }
  return false;
}

}  // namespace

int findDroppableMemory() {
  FILE* maps = fopen("/proc/self/smaps", "re");
  if (maps == nullptr) return -errno;
  runs_count = 0;
  int result = 0;
  char line[kLineBytes];
  Run run{};
  while (result == 0 && fgets(line, sizeof line, maps) != nullptr) {
    unsigned long long start, end;
    char rights[5];
    if (sscanf(line, "%llx-%llx %4s", &start, &end, rights) == 3)
      run = {static_cast<uintptr_t>(start), static_cast<uintptr_t>(end)};
    if (strncmp(line, "VmFlags:", 8) != 0 || !isDroppable(line)) continue;
    if (runs_count == kRunsMax)
      result = -ENOSPC;
    else
      runs[runs_count++] = run;
  }
  fclose(maps);
  return result;
}

int renewDroppableMemory() {
  for (int i = 0; i < runs_count; ++i) {
    void* at = reinterpret_cast<void*>(runs[i].start);
    if (mmap(at, runs[i].end - runs[i].start, PROT_READ | PROT_WRITE,
             MAP_FIXED | MAP_ANONYMOUS | kMapDroppable, -1, 0) != at)
      return -errno;
  }
  return 0;
}

}  // namespace mayfly::zygote
