// The messages between mayflyd and the spawner: fixed size, one per datagram of a SEQPACKET socket,
// with descriptors beside them.
//
// mayflyd sends Request, the spawner sends Event. Neither side ever blocks on the other.
// wire/check.h checks each message; one of a wrong size, magic, version or kind ends the
// connection, and the end of the connection ends every box. The table in spawner/box_machine.cc
// says which request is allowed in which state of a box.
//
// Layer: wire (both sides include it). Plain data.
#pragma once

#include <cstdint>

#include "base/task.h"

namespace mayfly::wire {

inline constexpr uint32_t kSpawnerMagic = 0x4d46'5350;  // "MFSP"
inline constexpr uint16_t kSpawnerVersion = 11;
inline constexpr uint32_t kZygoteArgsMax = 8;
inline constexpr uint64_t kBoxIdMax = (uint64_t{1} << 56) - 1;

// The host's ids that a daemon uses: kUidBase is above every range that Debian or systemd assign;
// each slot has one range per zygote, and the last range is the daemon's own.
inline constexpr uint32_t kUidBase = 1'879'048'192;
inline constexpr uint32_t kUidRanges = 64;
inline constexpr uint32_t kUidsPerRange = 65'536;
inline constexpr uint32_t kUidsPerSlot = kUidRanges * kUidsPerRange;

enum class Op : uint16_t {
  // Makes namespaces from image `digest` and starts maker and zygote in them. fds: [0] seccomp
  // program (sealed memfd), [1] the zygote's stdout and stderr; with kRestore or kDump: [2] the
  // folder of the snapshot. Answer: zygoteReady or zygoteFailed.
  publish = 1,
  // Ends a zygote, its maker and its boxes. Answer: zygoteGone.
  retire = 2,
  // Makes a box with `limits` and a clone parked in it. Answer: boxMade (fds: [0] control socket to
  // the clone, [1] stdin, [2] stdout, [3] stderr, our ends; with kDoors: [4], [5], see there) or
  // boxFailed (then nothing of it is
  // left, and no boxGone follows). With flag `stock` the box waits without a clone; answer:
  // boxStocked or boxFailed.
  make = 3,
  // Parks a clone in a box that was made with `stock`; the box's caps become `limits`. Answer as
  // for make.
  clone = 7,
  // Gives an existing box to a task: its caps become `limits`, its counters restart, and its clone,
  // which gets the task from mayflyd, may start it. No answer; boxDied if that cannot be done.
  // Overtakes every other request.
  claim = 6,
  // Ends a box in any state: kill, reap, read usage, collect /task/out into fds[0] if flag
  // `collect` is set, remove. Ignored if the box is gone or already ending. Answer: boxReaped, then
  // boxGone.
  end = 4,
  // Asks for a box's usage so far. Answer: sampled (or nothing, if it ended).
  sample = 5,
  // Asks whether the spawner's loop runs. Answer: pong. Overtakes every other request.
  ping = 8,
  // Asks a task to end: SIGTERM, then SIGCONT, to the process group of its main process. No answer;
  // cloneExited says whether the signal came before the end. Overtakes every other request.
  terminate = 9,
};

enum RequestFlags : uint32_t {
  kLoopback = 1,   // publish: boxes get a network namespace with loopback up
  kCollect = 2,    // end: collect /task/out
  kRehearse = 4,   // make, clone: the clone rehearses before it reports ready
  kCapsStand = 8,  // claim: the box was made with the task's caps; the clone awaits no byte
  kStock = 16,     // make: no clone yet
  kDoors = 32,     // publish, with kLoopback: the init of each box binds its doors to the broker
                   // (front.h) and passes them on: the unix and the TCP socket, not listening
  // publish, the role of mayfly-restorer in the zygote's place; at most one of the two:
  kRestore = 64,  // clones are restored from the snapshot in fds[2]
  kDump = 128,    // its one clone is the template's zygote, which is dumped into fds[2]
};

struct Request {
  uint32_t magic = kSpawnerMagic;
  uint16_t version = kSpawnerVersion;
  Op op{};
  base::BoxId box = 0;
  base::ZygoteId zygote_id = 0;  // publish: a new id; a template may have several zygotes
  uint32_t flags = 0;
  uint32_t ptys = 0;      // publish: pseudo-terminals that each box may have open at once
  base::Limits limits{};  // make, clone, claim: the box's; publish: memory_bytes caps the zygote;
                          // end: the caps on collected files
  uint32_t collect_ms_max = 0;           // end: the time limit of the collection
  uint64_t claimed_ns = 0;               // claim: its time; the clone may run its task from then on
  char digest[65] = {};                  // publish: the image, 64 hex digits
  char zygote[kZygoteArgsMax][64] = {};  // publish: argv of the zygote, [0] a path in the image
};

enum class Kind : uint16_t {
  hello = 1,  // after start: the spawner is ready; text lists what is in force. fds: [0] a file
              // into which "1" kills the spawner and every process that it made
  zygoteReady = 2,
  zygoteFailed = 3,  // step, sys, text; nothing of it is left, or text names the stuck part
  zygoteGone = 4,    // retired, or died by itself (text says how); its boxes' events come first
  boxMade = 5,
  boxFailed = 6,    // step, sys, text
  cloneExited = 7,  // the clone's main process ended; status as of waitid
  boxDied = 8,      // the init ended unasked: end the box
  capHit = 9,       // the kernel reported that `cap` was reached
  sampled = 10,
  boxReaped = 11,   // usage, counters and exit status are final
  boxGone = 12,     // receipt
  boxStocked = 13,  // the box is complete, without a clone
  pong = 14,
};
inline constexpr Op kOpMax = Op::terminate;
inline constexpr Kind kKindMax = Kind::pong;

enum class Cap : uint16_t { none = 0, memory = 1, processes = 2 };

// The kernel's counters; read once, after the last process was reaped.
struct Counters {
  uint64_t user_cpu_ns = 0, system_cpu_ns = 0;
  uint64_t memory_peak_bytes = 0;
  uint64_t oom_kills = 0;      // processes the kernel killed for the memory cap
  uint64_t forks_refused = 0;  // forks refused by the process cap
  uint32_t processes_peak = 0;
  uint32_t padding = 0;
  uint64_t disk_bytes = 0, disk_inodes = 0;          // held now
  uint64_t disk_bytes_max = 0, disk_inodes_max = 0;  // the file system's limits
};

enum class CollectState : uint16_t { none = 0, done = 1, timedOut = 2, failed = 3 };

struct Event {
  uint32_t magic = kSpawnerMagic;
  uint16_t version = kSpawnerVersion;
  Kind kind{};
  base::BoxId box = 0;
  base::ZygoteId zygote_id = 0;
  Cap cap{};
  CollectState collect{};
  int32_t exit_code = 0;    // cloneExited, boxReaped: si_code (CLD_EXITED, CLD_KILLED, CLD_DUMPED);
                            // 0: no status of its own
  int32_t exit_status = 0;  // si_status: exit code or signal
  int32_t sys = 0;          // *Failed: errno
  uint32_t pid_host = 0;    // boxMade: the init's pid on the host (for ps; never used for signals)
  Counters counters{};      // sampled, boxReaped
  uint64_t at_ns = 0;       // time of the event, monotonic
  uint64_t box_ready_ns = 0;                                                           // boxMade
  uint64_t clone_exited_ns = 0;                                                        // boxReaped
  uint64_t unpopulated_ns = 0, fds_closed_ns = 0, cgroups_gone_ns = 0, reaped_ns = 0;  // boxGone
  uint32_t complete = 0;  // boxGone: 1 if every point is proven
  uint32_t again = 0;     // boxFailed: 1 if its init, clone or zygote was killed: another try may
                          // succeed
  uint32_t terminated =
      0;  // cloneExited, boxReaped: 1 if a `terminate` came before the clone's end
  uint32_t padding = 0;
  char step[32] = {};   // *Failed: the step of the box or zygote that failed
  char text[440] = {};  // for people; holds a zygote's whole refusal
};

}  // namespace mayfly::wire
