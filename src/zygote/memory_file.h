// The file that takes a zygote's memory, and that clones map privately: a clone's copies of pages
// are its own, and what it only reads it shares.
//
// Layer: zygote. Allocates nothing.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

namespace mayfly::zygote {

// A file without a name on a tmpfs of its own, with large pages where the kernel has them: it maps
// and unmaps many at a time. Two descriptors.
struct MemoryFile {
  int write = -1, read = -1;  // `read` can only read
};
// 0 or -errno.
int createMemoryFile(MemoryFile* to);

// A regular file that is not empty, and has no holes: every byte has cost its owner memory.
bool isWhole(const struct stat& file);

// Exactly `bytes` from the start of a file to the end of another. 0 or -errno; -EIO: it is shorter.
int copyBytes(int from, int to, off_t bytes);

// Gives each page one more mapping than clones can see, so that no page map shows whether others
// touched it. 0 or -errno.
int holdMemory(int file, off_t bytes);

}  // namespace mayfly::zygote
