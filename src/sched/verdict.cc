#include "sched/verdict.h"

#include <signal.h>
#include <string.h>

#include "base/text.h"

namespace mayfly::sched {
namespace {

using base::Verdict;

Judgement cap(Verdict verdict, uint64_t value, std::string reason) {
  Judgement j;
  j.verdict = verdict;
  j.cap_value = value;
  j.reason = std::move(reason);
  return j;
}

std::string ms(uint64_t n) { return std::to_string(n) + " ms"; }

Judgement internal(std::string why) {
  Judgement j;
  j.verdict = Verdict::internal;
  j.reason = why.empty() ? "Mayfly failed to run the task" : std::move(why);
  return j;
}

Judgement byCause(Cause cause, const End& e, const base::Limits& l) {
  switch (cause) {
    case Cause::memory:
      return cap(Verdict::memory, l.memory_bytes,
                 "killed at its memory cap of " + base::humanBytes(l.memory_bytes));
    case Cause::processes:
      return cap(Verdict::processes, l.processes,
                 "killed at its cap of " + std::to_string(l.processes) + " processes");
    case Cause::wallTime:
      return cap(Verdict::wallTime, l.wall_time_ms,
                 "killed at its wall time cap of " + ms(l.wall_time_ms));
    case Cause::cpuTime:
      return cap(Verdict::cpuTime, l.cpu_time_ms,
                 "killed at its cpu time cap of " + ms(l.cpu_time_ms));
    case Cause::output:
      return cap(Verdict::output, l.output_bytes,
                 "killed at its output cap of " + base::humanBytes(l.output_bytes) +
                     (e.detail.empty() ? "" : " (" + e.detail + ")"));
    case Cause::disk: {
      bool inodes =
          e.counters.disk_inodes_max != 0 && e.counters.disk_inodes >= e.counters.disk_inodes_max;
      return inodes ? cap(Verdict::disk, l.disk_inodes,
                          "killed at its disk cap of " + std::to_string(l.disk_inodes) + " inodes")
                    : cap(Verdict::disk, l.disk_bytes,
                          "killed at its disk cap of " + base::humanBytes(l.disk_bytes));
    }
    case Cause::cancelled:
      return cap(Verdict::cancelled, 0, "cancelled");
    case Cause::clientGone:
      return cap(Verdict::clientGone, 0, "its client went away");
    case Cause::daemonStopping:
      return cap(Verdict::daemonStopping, 0, "the daemon is stopping");
    case Cause::queueTime:
      return cap(Verdict::queueTime, l.queue_time_ms,
                 "no box was free within its queue time cap of " + ms(l.queue_time_ms) +
                     ": it never ran, submit it again");
    case Cause::none:
    case Cause::exited:
    case Cause::boxDied:
    case Cause::internal:
      break;
  }
  return internal(e.detail);
}

// The cap that the counters reveal when no event did.
Cause hidden(const End& e, const base::Limits& l) {
  if (e.counters_final) {
    if (e.counters.oom_kills > 0) return Cause::memory;
    if (e.counters.forks_refused > 0) return Cause::processes;
    if (cpuTimeUsedUp(e.counters, l)) return Cause::cpuTime;
  }
  if (e.output_over) return Cause::output;
  if (e.counters_final && diskFull(e.counters)) return Cause::disk;
  return Cause::none;
}

std::string signalName(int signal) {
  const char* abbreviation = ::sigabbrev_np(signal);
  return abbreviation != nullptr ? "SIG" + std::string(abbreviation)
                                 : "signal " + std::to_string(signal);
}

// The exit code or signal of the main process, in numbers and words; false: it has no status.
bool readExit(const ExitStatus& exit, Judgement* j) {
  switch (exit.code) {
    case CLD_EXITED:
      j->exit_code = exit.status;
      j->reason = "exited with code " + std::to_string(exit.status);
      return true;
    case CLD_KILLED:
    case CLD_DUMPED:
      j->signal = exit.status;
      j->reason = "killed by " + signalName(exit.status);
      return true;
  }
  return false;
}

// The task was asked to end: the first cause is the verdict, whatever ended its grace.
Judgement afterAsking(const End& e, const base::Limits& l) {
  Judgement j = byCause(e.first, e, l);
  const Cause revealed = e.then == Cause::exited ? hidden(e, l) : Cause::none;
  const Cause then = revealed != Cause::none ? revealed : e.then;
  std::string how;
  if (then == Cause::none) {
    how = "did not end within its grace of " + ms(e.grace_ns / 1'000'000) + ", killed";
  } else if (Judgement exit; then == Cause::exited && readExit(e.exit, &exit)) {
    j.exit_code = exit.exit_code;
    j.signal = exit.signal;
    j.in_grace = true;
    how = exit.reason + " within its grace";
  } else if (then == Cause::boxDied) {
    how = "its box ended within its grace";
  } else {
    how = byCause(then, e, l).reason + " within its grace";
  }
  const std::string why = e.first == Cause::wallTime
                              ? "reached its wall time cap of " + ms(l.wall_time_ms)
                          : e.first == Cause::cancelled ? "cancelled"
                                                        : "the daemon is stopping";
  j.reason = why + "; sent SIGTERM; " + how;
  return j;
}

}  // namespace

bool diskFull(const Counters& c) {
  return (c.disk_bytes_max != 0 && c.disk_bytes >= c.disk_bytes_max) ||
         (c.disk_inodes_max != 0 && c.disk_inodes >= c.disk_inodes_max);
}

bool cpuTimeUsedUp(const Counters& c, const base::Limits& l) {
  return c.user_cpu_ns + c.system_cpu_ns >= l.cpu_time_ms * 1'000'000;
}

Judgement judge(const End& e, const base::Limits& l) {
  if (e.asked) return afterAsking(e, l);
  if (e.first == Cause::boxDied) {
    // The kernel kills the largest process first; if the whole box died with it, the memory cap is
    // still the cause.
    if (e.counters_final && e.counters.oom_kills > 0) return byCause(Cause::memory, e, l);
    return internal("the box's init ended unasked" + (e.detail.empty() ? "" : ": " + e.detail));
  }
  if (e.first != Cause::exited) return byCause(e.first, e, l);
  if (Cause cause = hidden(e, l); cause != Cause::none) return byCause(cause, e, l);

  Judgement j;
  if (!readExit(e.exit, &j)) return internal("its main process ended without a status");
  j.verdict = j.signal != 0      ? Verdict::signaled
              : j.exit_code == 0 ? Verdict::succeeded
                                 : Verdict::failed;
  return j;
}

}  // namespace mayfly::sched
