// The spawner's view of its children, and the wording of events.
//
// Layer: spawner. Short calls that never block.
#pragma once

#include <errno.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/fd.h"
#include "spawner/poller.h"
#include "wire/spawner.h"

namespace mayfly::spawner {

using base::Fd;

inline constexpr uint64_t kMsNs = 1'000'000;
inline constexpr uint64_t kFreeBytesMax =
    16 << 20;  // of a disk that the spawner frees itself: some milliseconds
inline constexpr uint64_t kFreeInodesMax = 512;  // the same: each takes some microseconds
inline constexpr uint64_t kFreeMsMax =
    10'000;  // that a child frees a larger one, before it is reported as stuck
inline constexpr uint64_t kReapMsMax = 5'000;  // kill to reaped, before it is reported as stuck
// Of a maker or zygote that is asked for a process, and of an init that makes its box: each takes
// some milliseconds. Who needs longer hangs, and is ended; who runs, or waits for a processor or a
// device, may only be held up, and gets more time.
inline constexpr uint64_t kAnswerMsMax = 4'000;
inline constexpr uint64_t kBusyMsMax = 10'000;
// Of a source that restores: it answers once the clone is there, and kills a slow restore itself.
inline constexpr uint64_t kRestoredMsMax = 12'000;
inline constexpr uint64_t kBusyLookMs = 250;
inline constexpr uint64_t kHeldUpMs = 1'000;    // a timer that is later tells nothing of others
inline constexpr uint64_t kNever = UINT64_MAX;  // a deadline that was already reported

inline uint64_t inMs(uint64_t ms) { return base::monotonicNs() + ms * kMsNs; }
// Before the next look, after so many: 1, 2, 4...
inline uint64_t pauseMs(uint32_t looks, uint64_t ms_max) {
  return std::min<uint64_t>(1ull << std::min(looks, 32u), ms_max);
}

inline void setText(wire::Event& event, const std::string& step, const std::string& text) {
  strncpy(event.step, step.c_str(), sizeof event.step - 1);
  strncpy(event.text, text.c_str(), sizeof event.text - 1);
}

struct Exit {
  int code = 0, status = 0;  // si_code, si_status; code 0: has not exited
};
inline constexpr Exit kEndUnknown{CLD_KILLED, SIGKILL};  // another descriptor took its exit status

// Takes the exit status of a child of the spawner and closes the pidfd. First it unwatches the
// pidfd: a child that hangs before its exec may hold a copy, which would go on polling.
inline Exit reap(Fd& pidfd, Poller& poller) {
  siginfo_t info{};
  const bool ours = ::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd.get()), &info,
                             WEXITED | WNOHANG | __WALL) == 0;
  if (ours ? info.si_pid == 0 : !pidfd || errno != ECHILD) return {};
  poller.unwatch(pidfd.view());
  pidfd.reset();
  return ours ? Exit{info.si_code, info.si_status} : kEndUnknown;
}

// Whether the pidfd is empty or of a child of the spawner. About a descriptor that came with a
// message, only the kernel can tell.
inline bool isOurChild(const Fd& pidfd) {
  siginfo_t info{};
  return !pidfd || ::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd.get()), &info,
                            WEXITED | WNOHANG | WNOWAIT | __WALL) == 0;
}

// The host's pid of the process behind a pidfd; 0 if it has ended. For messages only.
inline uint32_t pidOf(const Fd& process) {
  auto text = base::readSmallFile({}, fmt::format("/proc/self/fdinfo/{}", process.get()));
  size_t at = text ? text->find("Pid:\t") : std::string::npos;
  if (at == std::string::npos) return 0;
  long pid = ::strtol(text->c_str() + at + 5, nullptr, 10);
  return pid > 0 ? static_cast<uint32_t>(pid) : 0;
}

// Whether it runs, or waits for a processor or a device.
inline bool isBusy(const Fd& process) {
  auto text = base::readSmallFile({}, fmt::format("/proc/{}/stat", pidOf(process)));
  const size_t name_end = text ? text->rfind(") ") : std::string::npos;
  if (name_end == std::string::npos || name_end + 2 >= text->size()) return false;
  const char state = (*text)[name_end + 2];
  return state == 'R' || state == 'D';
}

// A key that no other process has while a descriptor of this one is open. Since 6.9 the kernel
// never reuses the number of a process; there a pidfd is a file of its own file system.
inline uint64_t processKey(const Fd& pidfd) {
  constexpr decltype(std::declval<struct statfs>().f_type) kPidfsMagic = 0x50494446;
  struct statfs fs;
  struct stat st;
  if (::fstatfs(pidfd.get(), &fs) == 0 && fs.f_type == kPidfsMagic &&
      ::fstat(pidfd.get(), &st) == 0)
    return st.st_ino;
  return pidOf(pidfd);
}

// Whether an unreaped child is dying or was sent a SIGKILL. Its pidfd polls only when its end is
// complete: for a pid 1, after the ends of all its processes.
inline bool isDying(uint32_t pid) {
  constexpr size_t kFlagsField = 9, kSignalField = 31;        // of /proc/PID/stat, from 1
  constexpr unsigned long kExiting = 0x4, kSignaled = 0x400;  // PF_EXITING, PF_SIGNALED
  auto text = base::readSmallFile({}, fmt::format("/proc/{}/stat", pid));
  size_t at = text ? text->rfind(')') : std::string::npos;
  if (at == std::string::npos) return true;
  unsigned long flags = 0, pending = 0;
  size_t field = 2;
  for (at = text->find(' ', at); at != std::string::npos && field < kSignalField;
       at = text->find(' ', at + 1)) {
    ++field;
    if (field == kFlagsField) flags = ::strtoul(text->c_str() + at, nullptr, 10);
    if (field == kSignalField) pending = ::strtoul(text->c_str() + at, nullptr, 10);
  }
  return (flags & (kExiting | kSignaled)) != 0 || (pending & (1ul << (SIGKILL - 1))) != 0;
}

inline std::string describe(const Exit& exit) {
  return exit.code == CLD_EXITED ? fmt::format("exited with {}", exit.status)
                                 : fmt::format("was killed by signal {}", exit.status);
}

// Whether the peer closed its end. A peer that dies with an unread request resets the channel.
inline bool isEnd(const base::Result<base::Received>& got) {
  return got ? got->bytes == 0 : got.error().sys == ECONNRESET;
}

inline bool isReadable(base::FdView fd) {
  pollfd one{fd.get(), POLLIN, 0};
  return fd && ::poll(&one, 1, 0) > 0;
}

// Asks a task to end, by its main process. False: that has ended already.
//
// Like timeout(1), it signals the process group, so that a shell that waits for a program of its
// own runs its trap, and wakes a stopped task. The main process leads its group (its session, too),
// and nobody but this process reaps it: its number is no other's.
inline bool signalTerm(const Fd& leader) {
  if (!leader || isReadable(leader.view())) return false;
  const auto group = static_cast<pid_t>(pidOf(leader));
  if (group <= 1) return false;
  ::kill(-group, SIGTERM);
  ::kill(-group, SIGCONT);
  return true;
}

inline void signalKill(const Fd& pidfd) {
  if (pidfd) ::syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
}

}  // namespace mayfly::spawner
