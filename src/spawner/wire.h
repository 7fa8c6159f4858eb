// The messages between mayflyd and the spawner: fixed size, one per datagram of
// a SEQPACKET socket, with descriptors passed beside them.
//
// mayflyd sends Request, the spawner sends Event. Neither side ever blocks on
// the other. A message of another size, magic or version ends the connection,
// and the end of the connection ends every box.
//
// Layer: spawner and clone (both sides include it). Plain data.
#pragma once

#include <cstdint>

#include "base/task.h"

namespace mayfly::spawner {

inline constexpr uint32_t kMagic = 0x4d46'5350;  // "MFSP"
inline constexpr uint16_t kVersion = 7;
inline constexpr uint32_t kTemplatesMax = 64;  // published at a time, one uid range each
inline constexpr uint32_t kUidsPerTemplate = 65'536;
inline constexpr uint32_t kZygoteArgsMax = 8;

enum class Op : uint16_t {
  // Makes a template's namespaces from image `digest` and starts maker and
  // zygote. fds: [0] seccomp program (sealed memfd), [1] where the zygote's
  // stdout and stderr go. Answer: templateReady or templateFailed.
  publish = 1,
  // Ends a template: its boxes, maker and zygote. Answer: templateGone.
  retire = 2,
  // Makes a box with `limits` and a clone parked in it. Answer: boxMade (fds:
  // [0] control socket to the clone, [1] stdin, [2] stdout, [3] stderr, our
  // ends) or boxFailed (nothing of it is left then, boxGone does not follow).
  // With flag `stock` the box waits without a clone; answer: boxStocked or boxFailed.
  make = 3,
  // Parks a clone in a box that was made with `stock`, whose caps become `limits`.
  // Answer as make's.
  clone = 7,
  // Gives a box, made before, to a task: its caps become `limits`, its counters begin
  // anew, and its clone, which has the task from mayflyd by now or soon, may start. No
  // answer; boxDied where that can't be done. Overtakes every other request.
  claim = 6,
  // Ends a box, whatever state it is in: kill, reap, read usage, collect
  // /task/out into fds[0] if flag `collect` is set, remove.
  // Answer: boxReaped, then boxGone.
  end = 4,
  // Asks for a box's usage so far. Answer: sampled (or nothing: it ended).
  sample = 5,
};

enum RequestFlags : uint32_t {
  kLoopback = 1,  // publish: boxes get a network namespace with loopback up
  kCollect = 2,   // end: collect /task/out
  kCapsStand =
      8,        // claim: the box has the task's caps since it was made, and nothing awaits our byte
  kStock = 16,  // make: no clone yet
  kRehearse = 4,  // make, clone: the clone rehearses before it says that it is ready
};

struct Request {
  uint32_t magic = kMagic;
  uint16_t version = kVersion;
  Op op{};
  base::BoxId box = 0;
  base::ZygoteId zygote_id = 0;  // publish: a new one; of one template several may live
  uint32_t flags = 0;
  uint32_t ptys = 0;      // publish: pseudo-terminals that each box may have open at once
  base::Limits limits{};  // make, clone, claim: the box's; publish: memory_bytes caps the zygote;
                          // end: what may be collected
  uint32_t collect_ms_max = 0;           // end: how long the collection may take
  uint64_t claimed_ns = 0;               // claim: when; the clone may run its task from then on
  char digest[65] = {};                  // publish: the image, 64 hex digits
  char zygote[kZygoteArgsMax][64] = {};  // publish: argv of the zygote, [0] a path in the image
};

enum class Kind : uint16_t {
  hello = 1,  // after start: the spawner is ready; text says what is in force
  templateReady = 2,
  templateFailed = 3,  // step, sys, text; nothing of it is left
  templateGone = 4,    // retired, or died by itself (text says how); its boxes' events came first
  boxMade = 5,
  boxFailed = 6,    // step, sys, text
  cloneExited = 7,  // the clone's main process ended; status as of waitid
  boxDied = 8,      // the init ended unasked (or was killed): end it
  capHit = 9,       // `cap` was reached: an event of the kernel's
  sampled = 10,
  boxReaped = 11,   // usage, counters and exit status are final
  boxGone = 12,     // receipt
  boxStocked = 13,  // its walls stand
};

enum class Cap : uint16_t { none = 0, memory = 1, processes = 2 };

// What the kernel counted; read once, after the last process was reaped.
struct Counters {
  uint64_t user_cpu_ns = 0, system_cpu_ns = 0;
  uint64_t memory_peak_bytes = 0;
  uint64_t oom_kills = 0;      // processes the kernel killed for the memory cap
  uint64_t forks_refused = 0;  // forks refused by the process cap
  uint32_t processes_peak = 0;
  uint32_t padding = 0;
  uint64_t disk_bytes = 0, disk_inodes = 0;          // held now
  uint64_t disk_bytes_max = 0, disk_inodes_max = 0;  // what the file system grants
};

enum class CollectState : uint16_t { none = 0, done = 1, timedOut = 2, failed = 3 };

struct Event {
  uint32_t magic = kMagic;
  uint16_t version = kVersion;
  Kind kind{};
  base::BoxId box = 0;
  base::ZygoteId zygote_id = 0;
  Cap cap{};
  CollectState collect{};
  int32_t exit_code = 0;    // cloneExited, boxReaped: si_code (CLD_EXITED, CLD_KILLED, CLD_DUMPED);
                            // 0: not reaped by itself
  int32_t exit_status = 0;  // si_status: exit code or signal
  int32_t sys = 0;          // *Failed: errno
  uint32_t pid_host = 0;    // boxMade: the init as the host sees it (for ps; never signalled by it)
  Counters counters{};      // sampled, boxReaped
  uint64_t at_ns = 0;       // when it happened, monotonic
  uint64_t box_ready_ns = 0;                                                           // boxMade
  uint64_t clone_exited_ns = 0;                                                        // boxReaped
  uint64_t unpopulated_ns = 0, fds_closed_ns = 0, cgroups_gone_ns = 0, reaped_ns = 0;  // boxGone
  uint32_t complete = 0;  // boxGone: 1 if every point is proven
  uint32_t again =
      0;  // boxFailed: 1 if its init or clone or the template was ended: another try may do better
  char step[32] = {};   // *Failed: the step of the box or template that failed
  char text[200] = {};  // for people
};

}  // namespace mayfly::spawner
