// Layer: zygote. See other_threads.h.
#include "zygote/other_threads.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::zygote {
namespace {

struct Entry {  // of getdents64
  uint64_t inode;
  int64_t offset;
  uint16_t bytes;
  uint8_t type;
  char name[];
};

// The number behind `label` in the text of a status file.
bool number(const char* text, const char* label, uint64_t* to) {
  const char* at = strstr(text, label);
  if (at == nullptr) return false;
  for (at += strlen(label); *at == ' ' || *at == '\t'; ++at) {
  }
  if (*at < '0' || *at > '9') return false;
  for (*to = 0; *at >= '0' && *at <= '9'; ++at) *to = *to * 10 + static_cast<uint64_t>(*at - '0');
  return true;
}

// A thread that has ended meanwhile is one that ran: its absence shows in the count.
int lookAt(int folder, const char* thread, OtherThreads* to) {
  char path[32], text[4'096];
  snprintf(path, sizeof path, "%.16s/status", thread);
  const int fd = openat(folder, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT || errno == ESRCH ? 0 : -errno;
  const ssize_t n = read(fd, text, sizeof text - 1);
  const int error = errno;
  close(fd);
  if (n < 0) return error == ESRCH ? 0 : -error;
  text[n] = '\0';
  uint64_t waited = 0, preempted = 0;
  if (!number(text, "\nvoluntary_ctxt_switches:", &waited) ||
      !number(text, "\nnonvoluntary_ctxt_switches:", &preempted))
    return -EPROTO;
  to->switches += waited + preempted;
  to->asleep = to->asleep && strstr(text, "\nState:\tS") != nullptr;
  ++to->count;
  return 0;
}

}  // namespace

int lookAtOtherThreads(OtherThreads* to) {
  *to = OtherThreads();
  char own[16];
  snprintf(own, sizeof own, "%ld", syscall(SYS_gettid));
  const int folder = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return -errno;
  alignas(Entry) char entries[2'048];
  int r = 0;
  for (long n; r == 0 && (n = syscall(SYS_getdents64, folder, entries, sizeof entries)) != 0;) {
    if (n < 0) r = -errno;
    for (long at = 0; r == 0 && at < n;) {
      const auto* entry = reinterpret_cast<const Entry*>(entries + at);
      at += entry->bytes;
      if (entry->name[0] != '.' && strcmp(entry->name, own) != 0)
        r = lookAt(folder, entry->name, to);
    }
  }
  close(folder);
  return r;
}

}  // namespace mayfly::zygote
