// One task's life as a state machine: events in, actions out.
//
//   queued -> making -> claiming -> running [-> its grace] -> ending -> done
//      ^                                          |
//      +--- the box died before it started the task ---+
//
// Every end takes one path: the first cause wins, `end` is requested once per box, and the result
// is given once. The driver acts and feeds the answers back.
//
// A task with a grace is first asked to end (SIGTERM), at its wall time, at a cancel and at the
// daemon's stop. Within its grace it is still `running`, with all its caps; whatever ends the
// grace, its own exit included, the first cause stays the verdict.
//
// Layer: sched. Pure: time is an argument. Core thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/task.h"
#include "sched/cancel.h"
#include "sched/verdict.h"

namespace mayfly::sched {

enum class TaskStage : uint8_t { queued, making, claiming, running, ending, done };
std::string_view name(TaskStage stage);

// Whether a failure may be a passing trouble of the host or the template. The task, which has not
// run yet, then gets another box.
enum class Again : uint8_t { no, yes };

struct Bounds {
  uint64_t make_ns = 10'000'000'000;      // request of a box -> started
  uint64_t receipt_ns = 15'000'000'000;   // request of the end -> receipt
  uint64_t sample_min_ns = 10'000'000;    // lower bound between two samples
  uint64_t disk_sample_ns = 100'000'000;  // upper bound between two samples of a running task
  uint64_t quota_period_ns =
      100'000'000;  // of the cpu controller: one period's quota may be used at once
  uint32_t host_cores = 1;
  uint32_t boxes_max = 3;                  // boxes that a task may get before it fails
  uint64_t stop_grace_ns = 3'000'000'000;  // the longest grace once the daemon stops
};

// The earliest time at which the remaining cpu time can be used up.
uint64_t nextCpuSample_ns(uint64_t now_ns, const Counters& used, const base::Limits& limits,
                          const Bounds& bounds);

enum class Act : uint8_t {
  make,       // request a box
  claim,      // give the task to the clone
  begin,      // the task runs: pump its streams, tell the listener
  sample,     // request the counters
  terminate,  // send SIGTERM
  end,        // request the box's end
  drain,      // all writers are dead: read the streams to their end
  queue,      // the box is proven gone: requeue the task, first in its queue
  finish,     // make the result; nothing follows
};

// The actions, in order.
class Acts {
 public:
  Acts() = default;
  Acts(Act a) : act_{a}, n_(1) {}  // NOLINT: one act is the common case
  Acts& then(Act a) {
    act_[n_++] = a;
    return *this;
  }
  const Act* begin() const { return act_.data(); }
  const Act* end() const { return act_.data() + n_; }
  bool has(Act a) const {
    for (Act x : *this)
      if (x == a) return true;
    return false;
  }

 private:
  std::array<Act, 4> act_{};
  size_t n_ = 0;
};

class TaskMachine {
 public:
  TaskMachine(const base::Limits& limits, const Bounds& bounds, uint64_t now_ns);

  TaskStage stage() const { return stage_; }
  const base::Limits& limits() const { return limits_; }
  const base::Phases& phases() const { return phases_; }
  const End& ending() const { return end_; }
  // When to call tick(); 0: never.
  uint64_t deadline_ns() const;

  Acts admitted(uint64_t now_ns);      // the task has a slot
  Acts templateGone(uint64_t now_ns);  // before it had a clone: requeued; not counted as a try
  // Times from other processes are clamped to the possible range.
  Acts boxMade(uint64_t box_ready_ns, uint64_t now_ns);
  Acts boxFailed(std::string why, Again again, uint64_t now_ns);  // nothing of the box is left
  Acts cloneReady(uint64_t at_ns, uint64_t now_ns);
  void claimed(uint64_t now_ns);  // the claim was sent
  Acts started(uint64_t at_ns, uint64_t now_ns);
  // Error or EOF of the control socket.
  Acts controlBroken(std::string why, Again again, uint64_t now_ns);
  void firstByte(uint64_t now_ns);
  Acts outputOver(std::string_view stream, uint64_t now_ns);
  Acts cloneExited(ExitStatus exit, uint64_t at_ns, uint64_t now_ns);
  Acts boxDied(std::string why, uint64_t now_ns);
  Acts capHit(Cause memory_or_processes, uint64_t now_ns);
  Acts sampled(const Counters& counters, uint64_t now_ns);
  Acts cancel(Cancel how, uint64_t now_ns);
  Acts stop(Cause cause, std::string why, uint64_t now_ns);  // clientGone, daemonStopping, ...
  Acts tick(uint64_t now_ns);
  Acts boxReaped(ExitStatus exit, const Counters& counters, uint64_t clone_exited_ns,
                 uint64_t now_ns);
  // Nobody tells any more how the task ends. If only the timer ended it, it may have ended before.
  void unproven(std::string why);
  // The receipt is there. An incomplete one proves nothing: the task has no time of a receipt.
  Acts boxGone(bool complete, uint64_t now_ns);

  // The result's verdict; final once the stage is `done`.
  Judgement judgement() const { return judge(end_, limits_); }
  base::Usage usage(uint64_t stdout_bytes, uint64_t stderr_bytes) const;
  bool receiptOverdue() const { return receipt_overdue_; }
  bool inGrace() const { return stage_ == TaskStage::running && end_.asked; }

 private:
  uint64_t graceNs() const { return limits_.grace_ms * 1'000'000; }
  Acts askToEnd(Cause cause, uint64_t grace_ns, uint64_t now_ns);
  void endedBefore();
  Acts endFor(Cause cause, std::string detail, uint64_t now_ns);
  Acts lose(std::string why, uint64_t now_ns);  // the box failed before it started the task
  bool worthAnother() const;
  Acts startOver(uint64_t now_ns);
  void mark(base::Phase phase, uint64_t at_ns, uint64_t now_ns);
  uint64_t at(base::Phase phase) const { return phases_[static_cast<size_t>(phase)]; }

  base::Limits limits_;
  Bounds bounds_;
  TaskStage stage_ = TaskStage::queued;
  base::Phases phases_{};
  End end_;
  uint64_t queue_deadline_ns_ = 0;
  uint64_t wall_deadline_ns_ = 0;
  uint64_t grace_deadline_ns_ = 0;
  uint64_t next_sample_ns_ = 0;
  uint64_t end_bound_ns_ = 0;
  uint32_t boxes_ = 0;  // requested so far
  Again again_ = Again::no;
  bool reaped_ = false;
  bool receipt_overdue_ = false;
};

}  // namespace mayfly::sched
