// The messages of a zygote, a maker and a clone: fixed size over SEQPACKET
// sockets, descriptors beside them. All ends are Mayfly's own code: a clone's
// channel closes before its task starts.
//
//   spawner <-> maker   channel on fd 3 of the maker
//   spawner <-> zygote  channel on fd 3 of the zygote
//   spawner <-> init    status socket: one InitReady, then silence; its end ends the box
//   mayflyd <-> clone   control socket: CloneReady, Claim (fds: the task, its blobs), Started
//
// Layer: zygote, spawner and clone include it. Plain data, no dependencies.
#pragma once

#include <stdint.h>

namespace mayfly::zygote {

inline constexpr uint32_t kMagic = 0x4d465a59;  // "MFZY"
inline constexpr int kChannelFd = 3;            // maker's, zygote's and pid 1's channel
inline constexpr int kSeccompFd = 4;  // zygote: the template's program; read once, then closed

// Ids inside a box. The daemon gives each box two ids of the template's range.
inline constexpr uint32_t kBoxRoot = 0;     // the init
inline constexpr uint32_t kBoxUser = 1000;  // the task

// fds: [0] the init's end of its status socket, [1] its v2 cgroup, [2] the box's
// disk, mounted nowhere yet, [3] a pipe that takes one byte once the box stands.
struct MakeInit {
  uint32_t magic = kMagic;
  uint32_t kind = 1;
  uint64_t box = 0;
  uint32_t uid_user = 0, uid_root = 0;  // ids in the template's user namespace
  uint32_t loopback = 0;
  uint32_t ptys = 0;  // pseudo-terminals that the box may have open at once; 0: no devpts
};
// fds: [0] pidfd of the init.
struct InitMade {
  uint32_t magic = kMagic;
  int32_t error = 0;  // errno, 0 = made
  uint64_t box = 0;
  uint32_t pid_template = 0;
  char step[28] = {};
};
// Init -> spawner: the box stands, or the step that failed.
struct InitReady {
  uint32_t magic = kMagic;
  int32_t error = 0;
  char step[32] = {};
};

// fds: [0] pidfd of the init, [1] control, [2] stdin, [3] stdout, [4] stderr,
// [5] v2 cgroup, [6] a pipe that gives one byte once the box stands and one when the
// task may start (its caps are in force), [7..] v1 `tasks` files. The clone is forked
// while the init still sets its box up.
struct MakeClone {
  uint32_t magic = kMagic;
  uint32_t kind = 2;
  uint64_t box = 0;
  uint32_t tasks_fds = 0;
  uint32_t rehearse = 0;
};
// Zygote -> spawner. fds: [0] pidfd of the clone. box 0: the zygote is ready to serve,
// or `step` says why it cannot.
inline constexpr int kRefused = 131;  // ENOTRECOVERABLE: `step` is a whole sentence
struct CloneMade {
  uint32_t magic = kMagic;
  int32_t error = 0;
  uint64_t box = 0;
  char step[128] = {};
};

// Clone -> mayflyd: all walls are up, or the step that failed.
struct CloneReady {
  uint32_t magic = kMagic;
  uint32_t kind = 3;
  int32_t error = 0;
  char step[28] = {};
  uint64_t at_ns = 0;
  uint64_t reserved = 0;
};
// mayflyd -> clone. fds: [0] a sealed memfd that holds a TaskBlob, [1..blob_fds] sealed memfds
// that other boxes may be given as well: contents of input files. The clone copies what it needs
// and closes all before the task's first instruction.
struct Claim {
  uint32_t magic = kMagic;
  uint32_t kind = 4;
  uint32_t blob_fds = 0;
  uint32_t caps_stand = 0;   // 1: the box was made with the task's own caps; no byte says so
  uint64_t block_bytes = 0;  // of the TaskBlob
  uint64_t open_files = 0, file_size_bytes = 0, cpu_time_s = 0;  // rlimits, both soft and hard
};
// Clone -> mayflyd: the last word before the task's first instruction.
struct Started {
  uint32_t magic = kMagic;
  uint32_t kind = 5;
  int32_t error = 0;
  char step[28] = {};
  uint64_t at_ns = 0;
  uint32_t fresh = 0;  // 1: the runtime starts anew for this task, without what was preloaded
  uint32_t reserved = 0;
};

// The task, as one block: this header, then `argc` + `envc` NUL-terminated
// strings, then `files` FileEntry headers each followed by its path (NUL-
// terminated, relative to /task), all packed; `code` and the files' contents
// lie at the offsets given. The clone checks every offset against the size.
struct TaskBlob {
  uint32_t magic = kMagic;
  uint32_t kind = 0;  // mayfly_task_kind
  uint32_t argc = 0, envc = 0, files = 0;
  uint32_t has_seed = 0;
  uint64_t seed = 0;
  uint64_t code_offset = 0, code_bytes = 0;
  uint64_t strings_offset = 0;  // argv then env
  uint64_t files_offset = 0;    // packed FileEntry records
};
struct FileEntry {
  uint64_t offset = 0, bytes = 0;  // content
  uint32_t fd = 0;                 // of the Claim's, that it lies in; 0 is this block
  uint32_t mode = 0644;
  uint32_t path_bytes = 0;  // with its NUL; the next entry follows, unaligned
  uint32_t reserved = 0;
};
inline constexpr uint32_t kBlobFdsMax = 64;

}  // namespace mayfly::zygote
