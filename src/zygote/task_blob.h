// Reads a task out of its sealed memfd: argv, environment, code, input files.
//
// Layer: zygote. Runs in the clone, in its box: what it allocates and writes is
// charged there. 0 or -errno.
#pragma once

#include "mayfly/zygote.h"
#include "zygote/wire.h"

namespace mayfly::zygote {

// Maps the block, checks every offset, writes the files below the working
// folder and fills *task, whose strings stay in the mapping.
int readTask(int blob_fd, uint64_t blob_bytes, mayfly_task* task, const char** step);

}  // namespace mayfly::zygote
