#include "zygote/task_blob.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "zygote/raw.h"

namespace mayfly::zygote {

namespace {

constexpr uint32_t kStringsMax = 4'096;
constexpr uint32_t kFilesMax = 10'000;

struct View {
  const char* base;
  uint64_t size;
  bool holds(uint64_t offset, uint64_t bytes) const { return offset <= size && bytes <= size - offset; }
};

// `count` strings from *offset on, as an array that ends in NULL.
char** readStrings(const View& blob, uint64_t* offset, uint32_t count) {
  char** list = static_cast<char**>(calloc(count + 1, sizeof(char*)));
  if (list == nullptr) return nullptr;
  for (uint32_t i = 0; i < count; ++i) {
    if (*offset >= blob.size) return nullptr;
    size_t left = blob.size - *offset;
    const char* text = blob.base + *offset;
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

// Every component is made by us in an empty box, so no link can be in the way.
int writeFile(const char* path, const char* bytes, uint64_t size, mode_t mode) {
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
  if (fd < 0) return -errno;
  int r = writeAll(fd, bytes, size);
  if (r == 0 && fchmod(fd, mode & 0777) != 0) r = -errno;
  close(fd);
  return r;
}

}  // namespace

int readTask(int blob_fd, uint64_t blob_bytes, mayfly_task* task, const char** step) {
  *step = "task block";
  struct stat st;
  if (fstat(blob_fd, &st) != 0) return -errno;
  if (blob_bytes < sizeof(TaskBlob) || static_cast<uint64_t>(st.st_size) < blob_bytes) return -EBADMSG;
  void* map = mmap(nullptr, blob_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, blob_fd, 0);
  if (map == MAP_FAILED) return -errno;
  View blob{static_cast<const char*>(map), blob_bytes};
  TaskBlob head;
  memcpy(&head, blob.base, sizeof head);
  if (head.magic != kMagic || head.argc > kStringsMax || head.envc > kStringsMax ||
      head.files > kFilesMax || !blob.holds(head.code_offset, head.code_bytes))
    return -EBADMSG;
  uint64_t offset = head.strings_offset;
  task->kind = head.kind;
  task->has_seed = head.has_seed;
  task->seed = head.seed;
  task->argc = static_cast<int>(head.argc);
  task->argv = readStrings(blob, &offset, head.argc);
  task->envp = task->argv != nullptr ? readStrings(blob, &offset, head.envc) : nullptr;
  if (task->envp == nullptr) return -EBADMSG;
  task->strings = blob.base + head.strings_offset;
  task->strings_bytes = offset - head.strings_offset;
  task->code = head.code_bytes > 0 ? blob.base + head.code_offset : "";
  task->code_bytes = head.code_bytes;
  *step = "input files";
  offset = head.files_offset;
  for (uint32_t i = 0; i < head.files; ++i) {
    FileEntry entry;
    if (!blob.holds(offset, sizeof entry)) return -EBADMSG;
    memcpy(&entry, blob.base + offset, sizeof entry);
    offset += sizeof entry;
    if (entry.path_bytes == 0 || !blob.holds(offset, entry.path_bytes) ||
        blob.base[offset + entry.path_bytes - 1] != 0 || !blob.holds(entry.offset, entry.bytes))
      return -EBADMSG;
    int r = writeFile(blob.base + offset, blob.base + entry.offset, entry.bytes, entry.mode);
    if (r != 0) return r;
    offset += entry.path_bytes;
  }
  return 0;
}

}  // namespace mayfly::zygote
