// Copies a dead task's /task/out into the spool.
//
// Runs in a child of the spawner that has become the box's user: it can read only files that the
// task could read, and a hostile tree can hurt only this child, which the spawner kills at its
// deadline (by CAP_KILL: the child's uid is another one).
//
// Layer: spawner.
#pragma once

#include "base/fd.h"
#include "base/result.h"
#include "base/task.h"

namespace mayfly::spawner {

inline constexpr uint32_t kCollectDepthMax = 16;
inline constexpr uint32_t kCollectNamesMax = 4'000;  // entries that are looked at, collected or not

// Starts the child and returns its pidfd. Exit code 0: the spool is complete.
base::Result<base::Fd> startCollector(base::FdView disk_root, base::FdView spool, uint32_t uid,
                                      const base::Limits& limits);

// Closes the disk so that a child drops the last reference: the child's exit frees the disk, and
// the spawner does not wait for it. Returns the child's pidfd.
base::Result<base::Fd> startCloser(base::Fd disk_root);

}  // namespace mayfly::spawner
