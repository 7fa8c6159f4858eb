// The zygote's own memory, put where a fork does not have to look at it.
//
// A fork enters every page of anonymous memory into the new process, and the end of that
// process takes each out again, touched or not. Pages of a private mapping of a file are
// entered when they are touched, sixteen at a time. So what the zygote holds once it is
// complete goes to a sealed memfd, mapped privately over the very addresses: clones see
// the same bytes, write to copies of their own, and nobody can write to the file.
//
// Layer: zygote, in the runtime's process. Allocates nothing: a write to what is being
// copied would be lost.
#include <fcntl.h>
#include <sys/mman.h>

#include "mayfly/zygote.h"
#include "zygote/raw.h"

namespace mayfly::zygote {
namespace {

constexpr uintptr_t kPage = 4096;
constexpr uintptr_t kRunPagesMin = 16;  // shorter runs stay: each mapping costs a fork, too
constexpr uintptr_t kGapPagesMax = 16;  // of pages that were never touched, inside a run
constexpr int kRunsMax = 512;
constexpr unsigned kNoExecSeal = 8;  // MFD_NOEXEC_SEAL, of kernels from 6.3 on

struct Run {
  uintptr_t start, end;
};

struct Runs {
  Run at[kRunsMax];
  int count = 0;
};

// Hexadecimal digits at *text, which ends up behind them.
uintptr_t readHex(const char** text) {
  uintptr_t value = 0;
  for (;; ++*text) {
    char c = **text;
    unsigned digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10u : 16u;
    if (digit == 16) return value;
    value = value * 16 + digit;
  }
}

// "START-END rw-p OFFSET DEV INODE   NAME": the anonymous ones and the heap.
bool isOwnMemory(const char* line, Run* found) {
  found->start = readHex(&line);
  if (*line++ != '-') return false;
  found->end = readHex(&line);
  if (strncmp(line, " rw-p ", 6) != 0) return false;
  line += 6;
  for (int field = 0; field < 2; ++field) {  // offset, device
    while (*line != ' ' && *line != '\0') ++line;
    while (*line == ' ') ++line;
  }
  if (line[0] != '0' || (line[1] != ' ' && line[1] != '\0')) return false;  // a file's
  line += 1;
  while (*line == ' ') ++line;
  return *line == '\0' || strcmp(line, "[heap]") == 0;
}

// The touched pages of a mapping, as runs.
int addRuns(int pagemap, Run mapping, Runs* runs) {
  uint64_t entries[256];
  Run run{0, 0};
  auto finish = [&] {
    bool room = runs->count < kRunsMax;
    if (room && run.end - run.start >= kRunPagesMin * kPage) runs->at[runs->count++] = run;
    run = {0, 0};
  };
  for (uintptr_t page = mapping.start; page < mapping.end;) {
    uintptr_t left = (mapping.end - page) / kPage;
    size_t count = left < 256 ? left : 256;
    ssize_t n = pread(pagemap, entries, count * sizeof entries[0], static_cast<off_t>(page / kPage * sizeof entries[0]));
    if (n != static_cast<ssize_t>(count * sizeof entries[0])) return n < 0 ? -errno : -EIO;
    for (size_t i = 0; i < count; ++i, page += kPage) {
      if ((entries[i] >> 62) == 0) continue;  // neither present nor swapped
      if (run.end != 0 && page - run.end > kGapPagesMax * kPage) finish();
      if (run.end == 0) run.start = page;
      run.end = page + kPage;
    }
  }
  finish();
  return 0;
}

int findRuns(Runs* runs) {
  int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0) return -errno;
  int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  int r = maps < 0 ? -errno : 0;
  char line[512];
  size_t length = 0;
  char buffer[4096];
  ssize_t n = 0;
  while (r == 0 && (n = read(maps, buffer, sizeof buffer)) > 0)
    for (ssize_t i = 0; r == 0 && i < n; ++i) {
      if (buffer[i] != '\n') {
        if (length + 1 < sizeof line) line[length++] = buffer[i];
        continue;
      }
      line[length] = '\0';
      length = 0;
      Run mapping;
      if (isOwnMemory(line, &mapping)) r = addRuns(pagemap, mapping, runs);
    }
  if (r == 0 && n < 0) r = -errno;
  if (maps >= 0) close(maps);
  close(pagemap);
  return r;
}

int share(int file, Run run, off_t offset) {
  for (uintptr_t at = run.start; at < run.end;) {
    ssize_t n = pwrite(file, reinterpret_cast<const void*>(at), run.end - at,
                       offset + static_cast<off_t>(at - run.start));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? -errno : -EIO;
    at += static_cast<uintptr_t>(n);
  }
  void* map = mmap(reinterpret_cast<void*>(run.start), run.end - run.start, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_FIXED, file, offset);
  return map != MAP_FAILED ? 0 : -errno;
}

}  // namespace
}  // namespace mayfly::zygote

using namespace mayfly::zygote;

extern "C" int mayfly_zygote_share_memory(void) {
  Runs runs;
  if (int r = findRuns(&runs); r != 0) return r;
  int file = memfd_create("zygote", MFD_CLOEXEC | MFD_ALLOW_SEALING | kNoExecSeal);
  if (file < 0) file = memfd_create("zygote", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file < 0) return -errno;
  int r = 0;
  off_t offset = 0;
  for (int i = 0; r == 0 && i < runs.count; ++i) {
    r = share(file, runs.at[i], offset);
    offset += static_cast<off_t>(runs.at[i].end - runs.at[i].start);
  }
  if (r == 0 && fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0) r = -errno;
  close(file);
  return r;
}
