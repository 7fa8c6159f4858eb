// How a process that was forked into a box's pid namespace enters the rest of the box.
//
// Layer: zygote. Safe after a raw clone3; libc only; 0 or -errno.
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "zygote/raw.h"
#include "wire/zygote.h"

namespace mayfly::zygote {

// The fds of a MakeClone, by name.
enum { kInit, kControl, kIn, kOut, kErr, kCgroup, kGo, kFirstTasks };
static_assert(kFirstTasks == wire::kCloneFds);

// One byte: the first says that the box is complete, the second that the task may start. -ESRCH:
// the box ends.
int awaitGo(int fd);

// All of the box's namespaces but those of pids, which the fork entered, and of cgroups.
int joinBox(int init_pidfd);
// The same, with a cgroup namespace of its own, whose root is the caller's cgroup.
int enterBox(int init_pidfd);

// Forks into the box's pid namespace and goes back to its own, `own_pid_ns`. As the spawner's child
// and in the v2 cgroup of the MakeClone; or, without its fds, as this process's own child. A caller
// that cannot go back is useless and ends.
struct Fork {
  const int* fds = nullptr;    // of the MakeClone
  pid_t* thread_id = nullptr;  // libc's cached copy, set in the child
  pid_t pid_wanted = 0;        // in the box's namespace; 0: any
};
pid_t forkIntoBox(int init_pidfd, int own_pid_ns, const Fork& how, int* pidfd);

// Every process of the box is shown: criu needs it, and so does the choice of a pid. Undone by
// hideProcesses().
int showProcesses();
int hideProcesses();

// Becomes root of the box's user namespace, which the process has joined.
int becomeBoxRoot();
// All of that for a MakeClone, in a process that was forked into its box: the cgroups, the box once
// it stands, its root.
Step enterAsBoxRoot(const int* fds, int tasks_count);

// The same descriptors as `from`, as to, to + 1, ...; every other from `to` on is closed. They stay
// open at an exec.
int placeDescriptors(const int* from, int count, int to);

}  // namespace mayfly::zygote
