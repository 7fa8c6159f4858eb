// The walls that a clone puts up around itself, one call each.
//
// Layer: zygote. Safe after a raw clone3; libc only; 0 or -errno.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct sock_fprog;

namespace mayfly::zygote {

// The ABI version of the kernel's Landlock; 0: no Landlock.
int landlockAbi();

// Read and execute everywhere; write only in the box's own folders and its device nodes; device
// commands only on its terminals; no abstract sockets and no signals out of the box.
int confineFiles(int abi);
// The same for the process that runs criu in the box, and so for every thread that it restores. It
// also writes below /proc, whose mount it loses before the clone goes on, and reads the folder
// `readable_fd`, to which no path of the box leads.
int confineRestorer(int abi, int readable_fd);

// Takes the task's identity: no groups, kBoxUser, its own session and keyring. A restored clone
// stays in the box's user namespace: criu, which restores it, has its rights there alone.
enum class UserNamespace : uint8_t { own, ofBox };
int becomeTask(UserNamespace place);

// A session keyring of its own; processes that it starts inherit it.
int joinOwnKeyring();

// Limits that no task can change: no core files, no locked memory beyond 8 MiB...
int setFixedLimits();

struct LimitsAtClaim {
  uint64_t open_files, file_size_bytes, cpu_time_s;
};
int setTaskLimits(const LimitsAtClaim& limits);

}  // namespace mayfly::zygote
