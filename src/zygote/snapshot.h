// What mayfly-restorer and libmayfly-zygote agree on: the zygote that is dumped, and what replaces
// its descriptors in a clone.
//
//   restorer, dumping -> zygote   exec'd in a box, with the descriptors below and kRoleName in its
//                                 environment
//   zygote -> restorer            CloneMade on descriptor 3: it is ready, or why it cannot be;
//                                 then it closes 3 and waits for a byte of kRelease
//   restorer, serving -> clone    that byte, once the process that restored has ended
//
// Layer: zygote. Plain data; needs libc only.
#pragma once

#include <sys/types.h>

#include "wire/zygote.h"

namespace mayfly::zygote {

// The role is told to the zygote in words: nothing else of its surroundings may decide it.
inline constexpr char kRoleName[] = "MAYFLY_ZYGOTE_ROLE", kRoleSnapshot[] = "snapshot";

// In its box. Large enough that whatever restores it, and that has to live in the box first, never
// has its pid, or that of one of its threads.
inline constexpr pid_t kSnapshotPid = 1'000;

// Of the zygote while it starts, beside 0 to 2 (nothing, the log), kChannelFd and kSeccompFd.
inline constexpr int kStandInFd = 5;
// In this order from kStandInFd on; from 0 on once it is ready, and in the clone. Stand-ins: a
// clone gets others in their place.
enum StandIn : int { kStdin, kStdout, kStderr, kControlOf, kGoOf, kRelease, kStandIns };
// The pipes have numbers (their inodes), which the snapshot keeps; the stand-in of the control
// socket is a file, because criu opens pipes again and could not open a socket.
inline constexpr char kControlPath[] = "/run/control";

// The memory that the zygote shares with its clones (share_memory.cc), in its box. criu dumps the
// mappings of a file, and not the file; a clone gets another in its place.
inline constexpr char kMemoryPath[] = "/run/memory";

// The snapshot's own files, beside criu's images.
inline constexpr char kStreamsFile[] = "streams";       // struct Streams
inline constexpr char kKernelFile[] = "criu.kdat";      // what criu found out about the kernel
inline constexpr char kPagesFile[] = "pages-1.img";     // criu's, of the one process
inline constexpr char kMemoryFile[] = "memory";         // of kMemoryPath
inline constexpr char kVersionFile[] = "criu.version";  // as `criu --version` prints it
inline constexpr char kCriuPath[] = "/usr/sbin/criu";

struct Streams {
  uint32_t magic = wire::kZygoteMagic;
  uint32_t version = 2;
  uint64_t pipe[kStandIns] = {};  // inodes; 0 for the control socket
  uint64_t memory_bytes = 0;      // of kMemoryFile; 0: there is none
};

// In libmayfly-zygote: this process is dumped, not forked.
bool isDumped();
// Maps all of the memory that clones share: they read it without a fault.
void mapSharedMemory();

// Release bytes.
inline constexpr char kGoOn = 'g', kGoOnRehearsing = 'r';

}  // namespace mayfly::zygote
