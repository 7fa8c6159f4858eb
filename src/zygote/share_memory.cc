// Moves the zygote's own memory to where a fork need not visit each page.
//
// A fork maps every page of anonymous memory into the new process, and that process's end unmaps
// each, touched or not. Pages of a private mapping of a file are mapped when they are touched,
// sixteen at a time. So the memory of a complete zygote is copied to a file without any descriptor,
// and the file is mapped privately over the same addresses: clones see the same bytes, and write to
// copies of their own.
//
// Such memory is not zero after MADV_DONTNEED, which some allocators expect. So only memory with a
// known owner is shared: the runtime's memory from before any load, its arenas, and libc's heap.
// The kernel keeps the mark on them, and drops it with the mapping.
//
// Layer: zygote, in the runtime's process. Allocates nothing: a write to memory during its copy
// would be lost.
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "mayfly/zygote.h"
#include "zygote/raw.h"

namespace mayfly::zygote {
namespace {

constexpr uintptr_t kPage = 4096;
constexpr uintptr_t kRunPagesMin = 16;  // shorter runs stay: each mapping makes a fork slower, too
constexpr uintptr_t kGapPagesMax = 16;  // of untouched pages inside a run
constexpr int kRunsMax = 512;
constexpr unsigned kNoExecSeal = 8;  // MFD_NOEXEC_SEAL, since kernel 6.3

bool shared = false;

// Two flags that have no effect on such memory, and that no other code sets together.
int mark(uintptr_t start, size_t size) {
  void* at = reinterpret_cast<void*>(start);
  return madvise(at, size, MADV_DONTDUMP) == 0 && madvise(at, size, MADV_RANDOM) == 0 ? 0 : -errno;
}

struct Run {
  uintptr_t start, end;
};

struct Runs {
  Run at[kRunsMax];
  int count = 0;
};

// Reads hexadecimal digits at *text, and advances *text past them.
uintptr_t readHex(const char** text) {
  uintptr_t value = 0;
  for (;; ++*text) {
    char c = **text;
    unsigned digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10u : 16u;
    if (digit == 16) return value;
    value = value * 16 + digit;
  }
}

enum class Memory { other, anonymous, heap };

// "START-END rw-p OFFSET DEV INODE   NAME", the first line of a mapping in smaps.
Memory kindOf(const char* line, Run* found) {
  found->start = readHex(&line);
  if (*line++ != '-') return Memory::other;
  found->end = readHex(&line);
  if (strncmp(line, " rw-p ", 6) != 0) return Memory::other;
  line += 6;
  for (int field = 0; field < 2; ++field) {  // offset, device
    while (*line != ' ' && *line != '\0') ++line;
    while (*line == ' ') ++line;
  }
  if (line[0] != '0' || (line[1] != ' ' && line[1] != '\0')) return Memory::other;  // of a file
  line += 1;
  while (*line == ' ') ++line;
  return *line == '\0'                 ? Memory::anonymous
         : strcmp(line, "[heap]") == 0 ? Memory::heap
                                       : Memory::other;
}

bool isFirstLine(const char* line) {
  readHex(&line);
  return *line == '-';
}

// Calls visit(mapping, kind, whether it is marked) for each; 0 or -errno.
template <class Visit>
int eachMapping(Visit visit) {
  int maps = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
  if (maps < 0) return -errno;
  int r = 0;
  char line[512], buffer[4096];
  size_t length = 0;
  ssize_t n = 0;
  Run mapping{};
  Memory kind = Memory::other;
  while (r == 0 && (n = read(maps, buffer, sizeof buffer)) > 0)
    for (ssize_t i = 0; r == 0 && i < n; ++i) {
      if (buffer[i] != '\n') {
        if (length + 1 < sizeof line) line[length++] = buffer[i];
        continue;
      }
      line[length] = '\0';
      length = 0;
      constexpr char kFlags[] = "VmFlags:";
      if (isFirstLine(line))
        kind = kindOf(line, &mapping);
      else if (strncmp(line, kFlags, sizeof kFlags - 1) == 0 && kind != Memory::other)
        r = visit(mapping, kind, strstr(line, " dd") != nullptr && strstr(line, " rr") != nullptr);
    }
  if (r == 0 && n < 0) r = -errno;
  close(maps);
  return r;
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
    ssize_t n = pread(pagemap, entries, count * sizeof entries[0],
                      static_cast<off_t>(page / kPage * sizeof entries[0]));
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
  int r = eachMapping([&](Run mapping, Memory kind, bool marked) {
    return kind == Memory::heap || marked ? addRuns(pagemap, mapping, runs) : 0;
  });
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

// A file without a name on a tmpfs of its own with large pages: the kernel maps and unmaps many at
// a time.
int createLarge() {
  int config = static_cast<int>(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC));
  if (config < 0) return -errno;
  auto set = [&](unsigned command, const char* key, const char* value) {
    return syscall(SYS_fsconfig, config, command, key, value, 0) == 0;
  };
  int folder = -1, file = -1;
  if (set(FSCONFIG_SET_STRING, "huge", "always") && set(FSCONFIG_SET_STRING, "mode", "0700") &&
      set(FSCONFIG_CMD_CREATE, nullptr, nullptr))
    folder = static_cast<int>(syscall(SYS_fsmount, config, FSMOUNT_CLOEXEC, 0));
  if (folder >= 0) file = openat(folder, "zygote", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0);
  int r = file >= 0 && unlinkat(folder, "zygote", 0) == 0 ? file : -errno;
  if (r < 0 && file >= 0) close(file);
  if (folder >= 0) close(folder);
  close(config);
  return r;
}

int create() {
  int file = createLarge();
  if (file < 0) file = memfd_create("zygote", MFD_CLOEXEC | kNoExecSeal);
  if (file < 0) file = memfd_create("zygote", MFD_CLOEXEC);
  return file < 0 ? -errno : file;
}

// Gives each page one more mapping than clones can see, so that no page map shows whether others
// touched it.
int hold(int file, off_t bytes) {
  if (bytes == 0) return 0;
  auto size = static_cast<size_t>(bytes);
  void* all = mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
  if (all == MAP_FAILED) return -errno;
  return madvise(all, size, MADV_DONTFORK) == 0 ? 0 : -errno;
}

}  // namespace
}  // namespace mayfly::zygote

using namespace mayfly::zygote;

extern "C" int mayfly_zygote_mark_memory(void) {
  return eachMapping([](Run mapping, Memory kind, bool) {
    return kind == Memory::anonymous ? mark(mapping.start, mapping.end - mapping.start) : 0;
  });
}

extern "C" void* mayfly_zygote_arena_alloc(void*, size_t size) {
  void* arena = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (arena == MAP_FAILED) return nullptr;
  // If the mark fails, the arena is forked like any other memory.
  if (!shared) (void)mark(reinterpret_cast<uintptr_t>(arena), size);
  return arena;
}

extern "C" void mayfly_zygote_arena_free(void*, void* arena, size_t size) { munmap(arena, size); }

extern "C" int mayfly_zygote_share_memory(void) {
  Runs runs;
  if (int r = findRuns(&runs); r != 0) return r;
  shared = true;
  int file = create();
  if (file < 0) return file;
  int r = fchmod(file, 0) == 0 ? 0 : -errno;
  off_t offset = 0;
  for (int i = 0; r == 0 && i < runs.count; ++i) {
    r = share(file, runs.at[i], offset);
    offset += static_cast<off_t>(runs.at[i].end - runs.at[i].start);
  }
  if (r == 0) r = hold(file, offset);
  close(file);
  return r;
}
