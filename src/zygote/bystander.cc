// Layer: zygote. See bystander.h.
#include "zygote/bystander.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace mayfly::zygote {
namespace {

constexpr size_t kStatusBytesMax = 4'096;

// Ended, and no thread of it goes on. What is gone altogether has ended, too.
bool hasEnded(int folder, const char* name) {
  char path[300], text[kStatusBytesMax];
  snprintf(path, sizeof path, "%s/status", name);
  const int fd = openat(folder, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT || errno == ESRCH;
  const ssize_t n = read(fd, text, sizeof text - 1);
  const int error = errno;
  close(fd);
  if (n < 0) return error == ESRCH;
  text[n] = '\0';
  const char* state = strstr(text, "\nState:\t");
  const char* threads = strstr(text, "\nThreads:\t");
  if (state == nullptr || threads == nullptr) return false;
  state += strlen("\nState:\t");
  return (*state == 'Z' || *state == 'X') && atoi(threads + strlen("\nThreads:\t")) <= 1;
}

}  // namespace

pid_t findBystander(const char* proc, const pid_t* known, int count) {
  DIR* folder = opendir(proc);
  if (folder == nullptr) return -errno;
  pid_t found = 0;
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(folder);
    if (entry == nullptr) {
      found = -errno;  // 0 at the end
      break;
    }
    const pid_t pid = atoi(entry->d_name);
    if (pid <= 0) continue;
    bool is_known = false;
    for (int i = 0; i < count; ++i) is_known = is_known || known[i] == pid;
    if (is_known || hasEnded(dirfd(folder), entry->d_name)) continue;
    found = pid;
    break;
  }
  closedir(folder);
  return found;
}

}  // namespace mayfly::zygote
