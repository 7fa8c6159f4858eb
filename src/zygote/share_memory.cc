// Moves the zygote's own memory to where a fork need not visit each page, and a restore none.
//
// A fork maps every page of anonymous memory into the new process, and that process's end unmaps
// each, touched or not; a restore reads every page. Pages of a private mapping of a file are mapped
// when they are touched, sixteen at a time. So the memory of a complete zygote is copied to a file,
// and the file is mapped privately over the same addresses: clones see the same bytes, and write to
// copies of their own.
//
// A zygote that forks keeps the file without any descriptor. One that is dumped writes it where
// whoever dumps it finds it (snapshot.h): it becomes a file of the snapshot, beside criu's.
//
// Such memory is not zero after MADV_DONTNEED, which some allocators expect. So only memory with a
// known owner is shared: the runtime's memory from before any load, its arenas, libc's heap, and
// what the dynamic loader has finished. The kernel keeps the mark on them, and drops it with the
// mapping.
//
// Layer: zygote, in the runtime's process. Allocates nothing: a write to memory during its copy
// would be lost. Before a dump there may be other threads: none may run meanwhile.
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "mayfly/zygote.h"
#include "zygote/memory_file.h"
#include "zygote/other_threads.h"
#include "zygote/raw.h"
#include "zygote/snapshot.h"

namespace mayfly::zygote {
namespace {

constexpr uintptr_t kPage = 4096;
constexpr uintptr_t kRunPagesMin = 16;  // shorter runs stay: each mapping makes a fork slower, too
constexpr uintptr_t kGapPagesMax = 16;  // of untouched pages inside a run
constexpr int kRunsMax = 512;
constexpr unsigned kNoExecSeal = 8;              // MFD_NOEXEC_SEAL, since kernel 6.3
constexpr uint64_t kPatienceNs = 2'000'000'000;  // with threads that run
constexpr unsigned kLookUs = 10'000;
constexpr off_t kPartBytesMax = 64 << 20;  // that are there twice for a moment

struct Run {
  uintptr_t start, end;
  int rights;
};

struct Runs {
  Run at[kRunsMax];
  int count = 0;
};

bool shared = false;
Runs dumped;  // what clones of this process map

// Two flags that have no effect on such memory, and that no other code sets together. Another
// thread may unmap a part meanwhile.
int mark(uintptr_t start, size_t size) {
  void* at = reinterpret_cast<void*>(start);
  const bool done = madvise(at, size, MADV_DONTDUMP) == 0 && madvise(at, size, MADV_RANDOM) == 0;
  return done || errno == ENOMEM ? 0 : -errno;
}

int unmark(uintptr_t start, size_t size) {
  void* at = reinterpret_cast<void*>(start);
  const bool done = madvise(at, size, MADV_DODUMP) == 0 && madvise(at, size, MADV_NORMAL) == 0;
  return done || errno == ENOMEM ? 0 : -errno;
}

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

// What a mapping is: constant is a file's part that was written once, by the dynamic loader.
enum class Memory { other, anonymous, heap, constant };

// "START-END rw-p OFFSET DEV INODE   NAME", the first line of a mapping in smaps.
Memory kindOf(const char* line, Run* found) {
  found->start = readHex(&line);
  if (*line++ != '-') return Memory::other;
  found->end = readHex(&line);
  const bool constant = strncmp(line, " r--p ", 6) == 0;
  if (!constant && strncmp(line, " rw-p ", 6) != 0) return Memory::other;
  found->rights = constant ? PROT_READ : PROT_READ | PROT_WRITE;
  line += 6;
  for (int field = 0; field < 2; ++field) {  // offset, device
    while (*line != ' ' && *line != '\0') ++line;
    while (*line == ' ') ++line;
  }
  const bool of_file = line[0] != '0' || (line[1] != ' ' && line[1] != '\0');
  if (of_file || constant) return of_file && constant ? Memory::constant : Memory::other;
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

// A flag of a line "VmFlags: rd wr mr mw me ac ".
bool has(const char* line, const char* flag) { return strstr(line, flag) != nullptr; }

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
      else if (strncmp(line, kFlags, sizeof kFlags - 1) == 0 && kind != Memory::other &&
               !has(line, " dp"))  // of the C library's generator: the kernel may drop it
        r = visit(mapping, kind, has(line, " dd") && has(line, " rr"));
    }
  if (r == 0 && n < 0) r = -errno;
  close(maps);
  return r;
}

// Of an entry of pagemap: present or swapped, and whether it is the file's own page.
bool isTouched(uint64_t entry, bool of_file) {
  constexpr uint64_t kFilePage = 1ull << 61;
  return (entry >> 62) != 0 && !(of_file && (entry & kFilePage) != 0);
}

// The kernel maps its page of zeros where a program only reads.
bool isZero(uintptr_t page) {
  const auto* words = reinterpret_cast<const uint64_t*>(page);
  size_t i = 0;
  while (i < kPage / sizeof *words && words[i] == 0) ++i;
  return i == kPage / sizeof *words;
}

// The last page of the block of libc's that has a mapping of its own and begins on this page, else
// 0. That page stays as it is: where realloc() has the kernel enlarge the block in its place, it
// would go on behind the file's end; the kernel refuses it for a block of two mappings, and
// realloc() makes a new one.
uintptr_t lastOfOwnBlock(uintptr_t page, uintptr_t mapping_end) {
  constexpr uint64_t kFlags = 7, kIsMapped = 2;
  const auto* header = reinterpret_cast<const uint64_t*>(page);
  const uint64_t bytes = header[1] & ~kFlags;
  const bool is_block = header[0] == 0 && (header[1] & kFlags) == kIsMapped && bytes != 0 &&
                        bytes % kPage == 0 && bytes <= mapping_end - page;
  return is_block ? page + bytes - kPage : 0;
}

// The caller's stack, or libc's block of its thread: what is written to them now would be lost.
bool isOwnStack(Run run) {
  const char here = 0;
  const uintptr_t places[] = {reinterpret_cast<uintptr_t>(&here),
                              static_cast<uintptr_t>(pthread_self())};
  for (const uintptr_t place : places)
    if (place >= run.start && place < run.end) return true;
  return false;
}

// The touched pages of a mapping, as runs.
int addRuns(int pagemap, Run mapping, Memory kind, Runs* runs) {
  // The page between two of a file's touched ones has the file's bytes: none is in a run.
  const uintptr_t gap_max = kind == Memory::constant ? 0 : kGapPagesMax;
  uint64_t entries[256];
  uintptr_t last_of_block = 0;
  Run run{0, 0, mapping.rights};
  auto finish = [&] {
    const bool room = runs->count < kRunsMax && !isOwnStack(run);
    if (room && run.end - run.start >= kRunPagesMin * kPage) runs->at[runs->count++] = run;
    run.start = run.end = 0;
  };
  for (uintptr_t page = mapping.start; page < mapping.end;) {
    uintptr_t left = (mapping.end - page) / kPage;
    size_t count = left < 256 ? left : 256;
    ssize_t n = pread(pagemap, entries, count * sizeof entries[0],
                      static_cast<off_t>(page / kPage * sizeof entries[0]));
    if (n != static_cast<ssize_t>(count * sizeof entries[0])) return n < 0 ? -errno : -EIO;
    for (size_t i = 0; i < count; ++i, page += kPage) {
      const bool ends_block = page == last_of_block;
      if (ends_block) finish();
      if (ends_block || !isTouched(entries[i], kind == Memory::constant) || isZero(page)) continue;
      if (kind == Memory::anonymous)
        if (const uintptr_t last = lastOfOwnBlock(page, mapping.end); last != 0)
          last_of_block = last;
      if (page == last_of_block) continue;
      if (run.end != 0 && page - run.end > gap_max * kPage) finish();
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
    const bool taken = kind == Memory::heap || (kind == Memory::constant && isDumped()) ||
                       (kind == Memory::anonymous && marked);
    return taken ? addRuns(pagemap, mapping, kind, runs) : 0;
  });
  close(pagemap);
  return r;
}

int copy(int file, Run run, off_t offset) {
  for (uintptr_t at = run.start; at < run.end;) {
    ssize_t n = pwrite(file, reinterpret_cast<const void*>(at), run.end - at,
                       offset + static_cast<off_t>(at - run.start));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? -errno : -EIO;
    at += static_cast<uintptr_t>(n);
  }
  return 0;
}

int map(int file, Run run, off_t offset) {
  void* at = mmap(reinterpret_cast<void*>(run.start), run.end - run.start, run.rights,
                  MAP_PRIVATE | MAP_FIXED, file, offset);
  return at != MAP_FAILED ? 0 : -errno;
}

// Calls each(run, its place in the file) for all, until one fails.
template <class Each>
int eachRun(const Runs& runs, Each each) {
  off_t offset = 0;
  int r = 0;
  for (int i = 0; r == 0 && i < runs.count; ++i) {
    r = each(runs.at[i], offset);
    offset += static_cast<off_t>(runs.at[i].end - runs.at[i].start);
  }
  return r;
}

off_t bytesOf(const Runs& runs) {
  off_t bytes = 0;
  for (int i = 0; i < runs.count; ++i)
    bytes += static_cast<off_t>(runs.at[i].end - runs.at[i].start);
  return bytes;
}

// --- a zygote that forks -------------------------------------------------------------

int create() {
  MemoryFile file;
  if (createMemoryFile(&file) == 0) {
    close(file.read);
    return file.write;
  }
  int fd = memfd_create("zygote", MFD_CLOEXEC | kNoExecSeal);
  if (fd < 0) fd = memfd_create("zygote", MFD_CLOEXEC);
  return fd >= 0 && fchmod(fd, 0) == 0 ? fd : -errno;
}

int shareForForks(const Runs& runs) {
  const int file = create();
  if (file < 0) return file;
  int r = eachRun(runs, [&](Run run, off_t offset) {
    const int copied = copy(file, run, offset);
    return copied != 0 ? copied : map(file, run, offset);
  });
  if (r == 0) r = holdMemory(file, bytesOf(runs));
  close(file);
  return r;
}

// --- a zygote that is dumped ---------------------------------------------------------

// As many of the runs as are in one part; the last may be cut.
void keepPart(Runs* runs) {
  off_t bytes = 0;
  int count = 0;
  for (; count < runs->count && bytes < kPartBytesMax; ++count) {
    Run& run = runs->at[count];
    const auto left = static_cast<uintptr_t>(kPartBytesMax - bytes);
    if (run.end - run.start > left) run.end = run.start + left;
    bytes += static_cast<off_t>(run.end - run.start);
  }
  runs->count = count;
}

// Copies a part to the end of the file, while no other thread runs. *before is the look at them.
// 0, or -EBUSY: they ran.
int copyPart(int file, off_t offset, Runs* runs, OtherThreads* before) {
  OtherThreads after;
  runs->count = 0;
  if (int r = lookAtOtherThreads(before); r != 0) return r;
  if (!before->asleep) return -EBUSY;
  if (int r = findRuns(runs); r != 0) return r;
  keepPart(runs);
  int r = eachRun(*runs, [&](Run run, off_t at) { return copy(file, run, offset + at); });
  if (r != 0 && r != -EFAULT) return r;  // what is unmapped was unmapped by a thread that ran
  if (int looked = lookAtOtherThreads(&after); looked != 0) return looked;
  return r == 0 && after == *before ? 0 : -EBUSY;
}

// Maps what was copied. An error leaves memory of which a part may be old.
int mapPart(int file, off_t offset, const Runs& runs, const OtherThreads& before) {
  OtherThreads after;
  int r = eachRun(runs, [&](Run run, off_t at) { return map(file, run, offset + at); });
  if (r == 0) r = lookAtOtherThreads(&after);
  return r != 0 ? r : after == before ? 0 : -EAGAIN;
}

// What cannot be shared is dumped like other memory. 0 or -errno; *bytes are shared.
int shareParts(int file, off_t* bytes) {
  const uint64_t due_ns = nowNs() + kPatienceNs;
  OtherThreads before;
  static Runs part;
  while (dumped.count < kRunsMax) {
    const int copied = copyPart(file, *bytes, &part, &before);
    if (copied == -EBUSY && nowNs() < due_ns) {
      usleep(kLookUs);
      continue;
    }
    if (copied == -EBUSY || copied == -ENOSPC) return 0;
    if (copied != 0) return copied;
    if (part.count == 0) return 0;
    if (part.count > kRunsMax - dumped.count) part.count = kRunsMax - dumped.count;
    if (int r = mapPart(file, *bytes, part, before); r != 0) return r;
    for (int i = 0; i < part.count; ++i) dumped.at[dumped.count++] = part.at[i];
    *bytes += bytesOf(part);
  }
  return 0;
}

int shareForDump() {
  const int file = open(kMemoryPath, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (file < 0) return -errno;
  off_t bytes = 0;
  int r = shareParts(file, &bytes);
  // A part that was copied and not mapped.
  if (r == 0 && bytes != 0 && ftruncate(file, bytes) != 0) r = -errno;
  if (r == 0 && bytes == 0 && unlink(kMemoryPath) != 0) r = -errno;
  close(file);
  return r;
}

}  // namespace

void mapSharedMemory() {
  // What is no longer mapped as it was need not be read.
  for (int i = 0; i < dumped.count; ++i) {
    const Run& run = dumped.at[i];
    (void)madvise(reinterpret_cast<void*>(run.start), run.end - run.start, MADV_POPULATE_READ);
  }
}

}  // namespace mayfly::zygote

using namespace mayfly::zygote;

extern "C" int mayfly_zygote_mark_memory(void) {
  return eachMapping([](Run mapping, Memory kind, bool) {
    return kind == Memory::anonymous ? mark(mapping.start, mapping.end - mapping.start) : 0;
  });
}

extern "C" int mayfly_zygote_mark_chunks(size_t alignment) {
  return eachMapping([alignment](Run mapping, Memory kind, bool) {
    if (kind != Memory::anonymous || mapping.start % alignment != 0) return 0;
    int r = 0;
    for (uintptr_t at = mapping.start; r == 0 && at < mapping.end;) {
      const uint64_t bytes = *reinterpret_cast<const uint64_t*>(at);
      if (bytes < kPage || bytes % kPage != 0 || bytes > mapping.end - at) break;
      r = mark(at, bytes);
      at += (bytes + alignment - 1) / alignment * alignment;
    }
    return r;
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
  if (isDumped()) {
    malloc_trim(0);  // what is free need not be in the file
    // A package may have left it 0, which closes /proc/self.
    if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0) return -errno;
  }
  shared = true;
  if (!isDumped()) {
    Runs runs;
    const int r = findRuns(&runs);
    return r != 0 ? r : shareForForks(runs);
  }
  if (int r = shareForDump(); r != 0) return r;
  // A dump would keep the mark of what is not shared.
  return eachMapping([](Run mapping, Memory kind, bool marked) {
    return kind == Memory::anonymous && marked ? unmark(mapping.start, mapping.end - mapping.start)
                                               : 0;
  });
}
