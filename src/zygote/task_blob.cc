#include "zygote/task_blob.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "zygote/raw.h"

namespace mayfly::zygote {

using namespace wire;

namespace {

constexpr uint32_t kStringsMax = 4'096;
constexpr uint32_t kFilesMax = 10'000;

struct View {
  const char* base;
  uint64_t size;
  bool holds(uint64_t offset, uint64_t bytes) const {
    return offset <= size && bytes <= size - offset;
  }
};

// `count` strings from *offset on, as an array that ends in NULL.
char** readStrings(const View& block, uint64_t* offset, uint32_t count) {
  char** list = static_cast<char**>(calloc(count + 1, sizeof(char*)));
  if (list == nullptr) return nullptr;
  for (uint32_t i = 0; i < count; ++i) {
    if (*offset >= block.size) return nullptr;
    size_t left = block.size - *offset;
    const char* text = block.base + *offset;
    size_t length = strnlen(text, left);
    if (length == left) return nullptr;
    list[i] = const_cast<char*>(text);
    *offset += length + 1;
  }
  return list;
}

int writeAll(int fd, const char* bytes, uint64_t size) {
  while (size > 0) {
    ssize_t n = write(fd, bytes, size < (1u << 30) ? size : (1u << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? -errno : -EIO;
    bytes += n;
    size -= static_cast<uint64_t>(n);
  }
  return 0;
}

// Inside the kernel, pages go from memfd to tmpfs: the box is charged only for the copy.
int copyAll(int to, int from, uint64_t offset, uint64_t size) {
  auto at = static_cast<off_t>(offset);
  while (size > 0) {
    ssize_t n = sendfile(to, from, &at, size < (1u << 30) ? size : (1u << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? -errno : -EIO;
    size -= static_cast<uint64_t>(n);
  }
  return 0;
}

int makeFile(const char* path) {
  char part[4096];
  size_t length = strlen(path);
  if (length == 0 || length >= sizeof part || path[0] == '/') return -EINVAL;
  for (size_t i = 0; i < length; ++i)
    if (path[i] == '/') {
      memcpy(part, path, i);
      part[i] = 0;
      if (mkdir(part, 0755) != 0 && errno != EEXIST) return -errno;
    }
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  return fd < 0 ? -errno : fd;
}

// We make every component in an empty box, so no component can be a link.
int writeFile(const View& block, const FileEntry& entry, const char* path, const int* fds,
              int count) {
  if (entry.fd >= static_cast<uint32_t>(count)) return -EBADMSG;
  if (entry.fd == 0 && !block.holds(entry.offset, entry.bytes)) return -EBADMSG;
  int fd = makeFile(path);
  if (fd < 0) return fd;
  int r = entry.fd == 0 ? writeAll(fd, block.base + entry.offset, entry.bytes)
                        : copyAll(fd, fds[entry.fd], entry.offset, entry.bytes);
  if (r == 0 && fchmod(fd, entry.mode & 0777) != 0) r = -errno;
  close(fd);
  return r;
}

}  // namespace

int readTask(const int* fds, int count, uint64_t block_bytes, mayfly_task* task,
             const char** step) {
  *step = "task block";
  struct stat st;
  if (fstat(fds[0], &st) != 0) return -errno;
  if (block_bytes < sizeof(TaskBlob) || static_cast<uint64_t>(st.st_size) < block_bytes)
    return -EBADMSG;
  void* map = mmap(nullptr, block_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds[0], 0);
  if (map == MAP_FAILED) return -errno;
  View block{static_cast<const char*>(map), block_bytes};
  TaskBlob head;
  memcpy(&head, block.base, sizeof head);
  if (head.magic != kZygoteMagic || head.argc > kStringsMax || head.envc > kStringsMax ||
      head.files > kFilesMax || !block.holds(head.code_offset, head.code_bytes))
    return -EBADMSG;
  uint64_t offset = head.strings_offset;
  task->kind = head.kind;
  task->has_seed = head.has_seed;
  task->seed = head.seed;
  task->argc = static_cast<int>(head.argc);
  task->argv = readStrings(block, &offset, head.argc);
  task->envp = task->argv != nullptr ? readStrings(block, &offset, head.envc) : nullptr;
  if (task->envp == nullptr) return -EBADMSG;
  task->strings = block.base + head.strings_offset;
  task->strings_bytes = offset - head.strings_offset;
  task->code = head.code_bytes > 0 ? block.base + head.code_offset : "";
  task->code_bytes = head.code_bytes;
  *step = "input files";
  offset = head.files_offset;
  for (uint32_t i = 0; i < head.files; ++i) {
    FileEntry entry;
    if (!block.holds(offset, sizeof entry)) return -EBADMSG;
    memcpy(&entry, block.base + offset, sizeof entry);
    offset += sizeof entry;
    if (entry.path_bytes == 0 || !block.holds(offset, entry.path_bytes) ||
        block.base[offset + entry.path_bytes - 1] != 0)
      return -EBADMSG;
    int r = writeFile(block, entry, block.base + offset, fds, count);
    if (r != 0) return r;
    offset += entry.path_bytes;
  }
  return 0;
}

}  // namespace mayfly::zygote
