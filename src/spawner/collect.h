// Copies a dead task's /task/out into the spool.
//
// Runs in a child of the spawner's that has become the box's user: it can read
// what the task could read, nothing else, and a hostile tree can hurt nobody but
// this child, which the spawner kills after its time.
//
// Layer: spawner.
#pragma once

#include "base/fd.h"
#include "base/result.h"
#include "base/task.h"

namespace mayfly::spawner {

inline constexpr uint32_t kCollectDepthMax = 16;
inline constexpr uint32_t kCollectNamesMax = 4'000;  // entries looked at, collected or not

// Starts the child; its pidfd. Exit code 0: the spool is whole.
base::Result<base::Fd> startCollector(base::FdView disk_root, base::FdView spool, uint32_t uid,
                                      const base::Limits& limits);

// Closes the disk, after it a child that ends at once: it is the last, and what lies there is
// freed in its time. The child's pidfd.
base::Result<base::Fd> startCloser(base::Fd disk_root);

}  // namespace mayfly::spawner
