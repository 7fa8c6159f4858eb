// Layer: zygote. See surroundings.h.
#include "zygote/surroundings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::zygote {

int readSurroundings(const char* proc, Surroundings* to, size_t kinds) {
  char path[64], text[16];
  for (size_t i = 0; i < kinds; ++i) {
    struct stat st {};
    snprintf(path, sizeof path, "%s/ns/%s", proc, kNamespaces[i]);
    if (stat(path, &st) != 0 && errno != ENOENT) return -errno;
    to->namespaces[i] = st.st_ino;
  }
  snprintf(path, sizeof path, "%s/oom_score_adj", proc);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  const ssize_t n = read(fd, text, sizeof text - 1);
  const int error = n < 0 ? -errno : 0;
  close(fd);
  text[n > 0 ? n : 0] = '\0';
  to->memory_order = atoi(text);
  return error;
}

bool findChange(const Surroundings& before, const Surroundings& now, char* text, size_t size) {
  for (size_t i = 0; i < kNamespaceCount; ++i) {
    if (before.namespaces[i] == now.namespaces[i]) continue;
    snprintf(text, size, "left its %s namespace", kNamespaces[i]);
    return true;
  }
  if (before.memory_order == now.memory_order) return false;
  snprintf(text, size, "changed its oom_score_adj from %d to %d", before.memory_order,
           now.memory_order);
  return true;
}

}  // namespace mayfly::zygote
