// Reads a task out of its sealed memfds: argv, environment, code, input files.
//
// Layer: zygote. Runs in the clone, in its box, which is charged for its memory and files. 0 or
// -errno.
#pragma once

#include "mayfly/zygote.h"
#include "wire/zygote.h"

namespace mayfly::zygote {

// Maps the block, checks every offset, writes the files below the working folder and fills *task,
// whose strings stay in the mapping. `fds`: the block, then the blobs of its files; they stay the
// caller's.
int readTask(const int* fds, int count, uint64_t block_bytes, mayfly_task* task, const char** step);

}  // namespace mayfly::zygote
