// Layer: zygote. See memory_file.h.
#include "zygote/memory_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::zygote {
namespace {

constexpr char kName[] = "zygote";

// A folder on a new tmpfs, or -errno.
int createFolder(bool large_pages) {
  const int config = static_cast<int>(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC));
  if (config < 0) return -errno;
  const auto set = [&](unsigned command, const char* key, const char* value) {
    return syscall(SYS_fsconfig, config, command, key, value, 0) == 0;
  };
  int folder = -1;
  if ((!large_pages || set(FSCONFIG_SET_STRING, "huge", "always")) &&
      set(FSCONFIG_SET_STRING, "mode", "0700") && set(FSCONFIG_CMD_CREATE, nullptr, nullptr))
    folder = static_cast<int>(syscall(SYS_fsmount, config, FSMOUNT_CLOEXEC, 0));
  if (folder < 0) folder = -errno;
  close(config);
  return folder;
}

}  // namespace

int createMemoryFile(MemoryFile* to) {
  int folder = createFolder(true);
  if (folder < 0) folder = createFolder(false);  // a kernel without large pages
  if (folder < 0) return folder;
  to->write = openat(folder, kName, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
  int r = to->write < 0 ? -errno : 0;
  if (r == 0) to->read = openat(folder, kName, O_RDONLY | O_CLOEXEC);
  if (r == 0 && to->read < 0) r = -errno;
  if (r == 0 && (fchmod(to->write, 0) != 0 || unlinkat(folder, kName, 0) != 0)) r = -errno;
  close(folder);
  if (r == 0) return 0;
  if (to->write >= 0) close(to->write);
  if (to->read >= 0) close(to->read);
  *to = MemoryFile();
  return r;
}

bool isWhole(const struct stat& file) {
  constexpr off_t kBlock = 512;  // of st_blocks
  return S_ISREG(file.st_mode) && file.st_size > 0 && file.st_blocks * kBlock >= file.st_size;
}

int copyBytes(int from, int to, off_t bytes) {
  off_t at = 0;
  while (at < bytes) {
    const ssize_t n = sendfile(to, from, &at, static_cast<size_t>(bytes - at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? -errno : -EIO;
  }
  return 0;
}

int holdMemory(int file, off_t bytes) {
  if (bytes == 0) return 0;
  const auto size = static_cast<size_t>(bytes);
  void* all = mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
  if (all == MAP_FAILED) return -errno;
  return madvise(all, size, MADV_DONTFORK) == 0 ? 0 : -errno;
}

}  // namespace mayfly::zygote
