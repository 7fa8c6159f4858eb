// The messages of a zygote, a maker and a clone: fixed size over SEQPACKET sockets, with
// descriptors beside them. A clone's channel closes before its task starts; the template's own code
// may write to a zygote's channel.
//
//   spawner <-> maker   channel on fd 3 of the maker
//   spawner <-> zygote  channel on fd 3 of the zygote
//   spawner <-> init    status socket: one InitReady, then silence; its end ends the box
//   mayflyd <-> clone   control socket: CloneReady, Claim (fds: the task, its blobs), Started
//
// faultOf() returns the fault of a received message, or nullptr. `bytes` and `fds`: the received
// size and number of descriptors.
//
// Layer: wire (zygote, spawner and mayflyd include it). Plain data; needs libc only.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace mayfly::wire {

inline constexpr uint32_t kZygoteMagic = 0x4d465a59;  // "MFZY"
inline constexpr int kChannelFd = 3;                  // of maker, zygote and pid 1
inline constexpr int kSeccompFd = 4;   // zygote: the template's program; read once, then closed
inline constexpr int kSnapshotFd = 5;  // mayfly-restorer: the folder of the snapshot

// Ids inside a box. The daemon gives each box two ids of the template's range.
inline constexpr uint32_t kBoxRoot = 0;     // the init
inline constexpr uint32_t kBoxUser = 1000;  // the task

// fds: [0] the init's end of its status socket, [1] its v2 cgroup, [2] the box's disk, not yet
// mounted, [3] a pipe into which the init writes one byte once the box is complete.
struct MakeInit {
  uint32_t magic = kZygoteMagic;
  uint32_t kind = 1;
  uint64_t box = 0;
  uint32_t uid_user = 0, uid_root = 0;  // ids in the template's user namespace
  uint32_t loopback = 0;
  uint32_t ptys = 0;   // pseudo-terminals that the box may have open at once; 0: no devpts
  uint32_t doors = 0;  // 1: bind the box's doors, which needs the loopback
  uint32_t reserved = 0;
};
// fds: [0] pidfd of the init.
struct InitMade {
  uint32_t magic = kZygoteMagic;
  int32_t error = 0;  // errno, 0 = made
  uint64_t box = 0;
  uint32_t pid_template = 0;
  char step[28] = {};
};
// Init -> spawner: the box is complete, or the step that failed. fds, of a complete box with doors:
// [0] its unix, [1] its TCP socket, bound to the places that front.h names.
struct InitReady {
  uint32_t magic = kZygoteMagic;
  int32_t error = 0;
  char step[32] = {};
};

// fds: [0] pidfd of the init, [1] control, [2] stdin, [3] stdout, [4] stderr, [5] v2 cgroup, [6] a
// pipe that delivers one byte once the box is complete and one when the task may start (its caps
// are in force), [7..] v1 `tasks` files. The clone is forked while the init still sets up its box.
struct MakeClone {
  uint32_t magic = kZygoteMagic;
  uint32_t kind = 2;
  uint64_t box = 0;
  uint32_t tasks_fds = 0;
  uint32_t rehearse = 0;
  // 1: the clone will be asked for later, by another MakeClone of this box, if at all. It has no
  // answer. Only mayfly-restorer is told so, of a complete box.
  uint32_t ahead = 0;
  uint32_t reserved = 0;
};
// Zygote -> spawner. fds: [0] pidfd of the clone. box 0: the zygote is ready to serve, or `step`
// says why it cannot.
inline constexpr int kRefused = 131;      // ENOTRECOVERABLE: `step` is a whole sentence
inline constexpr size_t kWhyBytes = 400;  // an exception's type, first and last line
struct CloneMade {
  uint32_t magic = kZygoteMagic;
  int32_t error = 0;
  uint64_t box = 0;
  char step[kWhyBytes] = {};
};
// mayfly-restorer, serving -> spawner: a CloneMade, too, with other fds: [0] pidfd of the process
// that restored, which has ended, [1] pidfd of the clone, if there is one. kAheadEnded: no clone
// was asked for yet, and none can be made in this box.
inline constexpr int kAheadEnded = 130;  // EOWNERDEAD

// Clone -> mayflyd: all walls are up, or the step that failed.
struct CloneReady {
  uint32_t magic = kZygoteMagic;
  uint32_t kind = 3;
  int32_t error = 0;
  char step[28] = {};
  uint64_t at_ns = 0;
  uint64_t reserved = 0;
};
// mayflyd -> clone. fds: [0] a sealed memfd with a TaskBlob, [1..blob_fds] sealed memfds with
// contents of input files, which other boxes may share. The clone copies what it needs and closes
// all before the task's first instruction.
struct Claim {
  uint32_t magic = kZygoteMagic;
  uint32_t kind = 4;
  uint32_t blob_fds = 0;
  uint32_t caps_stand =
      0;  // 1: the box was made with the task's own caps; the clone awaits no byte
  uint64_t block_bytes = 0;                                      // of the TaskBlob
  uint64_t open_files = 0, file_size_bytes = 0, cpu_time_s = 0;  // rlimits, both soft and hard
};
// Clone -> mayflyd: the last message before the task's first instruction.
struct Started {
  uint32_t magic = kZygoteMagic;
  uint32_t kind = 5;
  int32_t error = 0;
  char step[28] = {};
  uint64_t at_ns = 0;
  uint32_t fresh = 0;  // 1: the task gets a new runtime, without the template's preloads
  uint32_t reserved = 0;
};

// The task as one block: this header, then `argc` + `envc` NUL-terminated strings, then `files`
// FileEntry headers, each followed by its path (NUL-terminated, relative to /task), all packed;
// `code` and the files' contents are at the given offsets. The clone checks every offset against
// the size.
struct TaskBlob {
  uint32_t magic = kZygoteMagic;
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
  uint32_t fd = 0;                 // the Claim's descriptor with the content; 0 is this block
  uint32_t mode = 0644;
  uint32_t path_bytes = 0;  // with its NUL; the next entry follows, unaligned
  uint32_t reserved = 0;
};
inline constexpr uint32_t kBlobFdsMax = 64;

// --- checks ------------------------------------------------------------------------

inline constexpr int32_t kErrnoMax = 4'095;
inline constexpr size_t kInitDoorFds = 2;
inline constexpr uint32_t kTasksFdsMax = 3;  // v1 hierarchies that a box may use
inline constexpr int kCloneFds = 7;          // of a MakeClone, before its `tasks` files

template <size_t N>
bool isText(const char (&text)[N]) {
  for (char c : text)
    if (c == 0) return true;
  return false;
}
template <class T>
const char* faultOfFrame(const T& message, size_t bytes) {
  return bytes != sizeof message ? "size" : message.magic != kZygoteMagic ? "magic" : nullptr;
}
template <class T>
const char* faultOfAnswer(const T& message, size_t bytes) {
  if (const char* fault = faultOfFrame(message, bytes)) return fault;
  if (message.error < 0 || message.error > kErrnoMax) return "error";
  return isText(message.step) ? nullptr : "text";
}

inline const char* faultOf(const MakeInit& m, size_t bytes, size_t fds) {
  if (const char* fault = faultOfFrame(m, bytes)) return fault;
  return m.kind != MakeInit{}.kind ? "kind" : fds != 4 ? "descriptors" : nullptr;
}
inline const char* faultOf(const InitMade& m, size_t bytes, size_t fds) {
  if (const char* fault = faultOfAnswer(m, bytes)) return fault;
  // An init that was made and then failed is passed as well, to be reaped.
  return fds > 1 || (m.error == 0 && fds != 1) ? "descriptors" : nullptr;
}
inline const char* faultOf(const InitReady& m, size_t bytes, size_t fds) {
  if (const char* fault = faultOfAnswer(m, bytes)) return fault;
  return fds != 0 && (fds != kInitDoorFds || m.error != 0) ? "descriptors" : nullptr;
}
inline const char* faultOf(const MakeClone& m, size_t bytes, size_t fds) {
  if (const char* fault = faultOfFrame(m, bytes)) return fault;
  if (m.kind != MakeClone{}.kind) return "kind";
  return m.tasks_fds > kTasksFdsMax || fds != kCloneFds + m.tasks_fds ? "descriptors" : nullptr;
}
inline const char* faultOf(const CloneMade& m, size_t bytes, size_t fds) {
  if (const char* fault = faultOfAnswer(m, bytes)) return fault;
  const size_t wanted = m.box != 0 && m.error == 0 ? 1 : 0;
  return fds != wanted ? "descriptors" : nullptr;
}
inline const char* faultOfRestored(const CloneMade& m, size_t bytes, size_t fds) {
  if (const char* fault = faultOfAnswer(m, bytes)) return fault;
  if (m.box == 0) return fds != 0 ? "descriptors" : nullptr;
  return fds > 2 || (m.error == 0 && fds != 2) ? "descriptors" : nullptr;
}
inline const char* faultOf(const CloneReady& m, size_t bytes, size_t fds) {
  if (const char* fault = faultOfAnswer(m, bytes)) return fault;
  return m.kind != CloneReady{}.kind ? "kind" : fds != 0 ? "descriptors" : nullptr;
}
inline const char* faultOf(const Claim& m, size_t bytes, size_t fds) {
  if (const char* fault = faultOfFrame(m, bytes)) return fault;
  if (m.kind != Claim{}.kind) return "kind";
  return m.blob_fds > kBlobFdsMax || fds != 1 + m.blob_fds ? "descriptors" : nullptr;
}
inline const char* faultOf(const Started& m, size_t bytes, size_t fds) {
  if (const char* fault = faultOfAnswer(m, bytes)) return fault;
  return m.kind != Started{}.kind ? "kind" : fds != 0 ? "descriptors" : nullptr;
}

}  // namespace mayfly::wire
