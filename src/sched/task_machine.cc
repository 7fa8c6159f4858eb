#include "sched/task_machine.h"

#include <signal.h>

#include <algorithm>

namespace mayfly::sched {

using base::Phase;

std::string_view name(TaskStage stage) {
  constexpr std::string_view names[] = {"queued",  "making", "claiming",
                                        "running", "ending", "done"};
  return names[static_cast<size_t>(stage)];
}

uint64_t nextCpuSample_ns(uint64_t now_ns, const Counters& used, const base::Limits& limits,
                          const Bounds& bounds) {
  uint64_t cap_ns = limits.cpu_time_ms * 1'000'000;
  uint64_t used_ns = used.user_cpu_ns + used.system_cpu_ns;
  uint64_t left_ns = cap_ns > used_ns ? cap_ns - used_ns : 0;
  // Two bounds on the rate: the number of cores, and the quota, of which one whole period may be
  // used at once.
  uint64_t by_cores = left_ns / std::max(1u, bounds.host_cores);
  uint64_t by_quota = left_ns / std::max(1u, limits.cpu_milli) * 1000;
  by_quota = by_quota > bounds.quota_period_ns ? by_quota - bounds.quota_period_ns : 0;
  return now_ns + std::max({by_cores, by_quota, bounds.sample_min_ns});
}

TaskMachine::TaskMachine(const base::Limits& limits, const Bounds& bounds, uint64_t now_ns)
    : limits_(limits), bounds_(bounds) {
  queue_deadline_ns_ = now_ns + limits_.queue_time_ms * 1'000'000;
  mark(Phase::queued, now_ns, now_ns);
}

void TaskMachine::mark(Phase phase, uint64_t at_ns, uint64_t now_ns) {
  uint64_t& slot = phases_[static_cast<size_t>(phase)];
  if (slot != 0) return;
  uint64_t earliest = 0;  // a phase is never earlier than those before it
  for (size_t i = 0; i < static_cast<size_t>(phase); ++i)
    if (i != static_cast<size_t>(Phase::firstByte)) earliest = std::max(earliest, phases_[i]);
  slot = std::clamp(at_ns, std::min(earliest, now_ns), now_ns);
}

uint64_t TaskMachine::deadline_ns() const {
  switch (stage_) {
    case TaskStage::making:
    case TaskStage::claiming:
      return at(Phase::box) + bounds_.make_ns;
    case TaskStage::running:
      return std::min(end_.asked ? grace_deadline_ns_ : wall_deadline_ns_, next_sample_ns_);
    case TaskStage::ending:
      return end_bound_ns_;
    case TaskStage::queued:
      return queue_deadline_ns_;
    case TaskStage::done:
      break;
  }
  return 0;
}

Acts TaskMachine::admitted(uint64_t now_ns) {
  if (stage_ != TaskStage::queued) return {};
  stage_ = TaskStage::making;
  ++boxes_;
  mark(Phase::box, now_ns, now_ns);
  return Act::make;
}

Acts TaskMachine::templateGone(uint64_t now_ns) {
  if (stage_ != TaskStage::making) return {};
  --boxes_;
  return startOver(now_ns);
}

Acts TaskMachine::boxMade(uint64_t box_ready_ns, uint64_t now_ns) {
  mark(Phase::boxReady, box_ready_ns, now_ns);
  if (stage_ == TaskStage::making) stage_ = TaskStage::claiming;
  return {};
}

Acts TaskMachine::boxFailed(std::string why, Again again, uint64_t now_ns) {
  if (stage_ == TaskStage::done) return {};
  if (stage_ != TaskStage::ending) {
    end_.first = Cause::internal, end_.detail = std::move(why);
    again_ = again;
  }
  if (worthAnother()) return startOver(now_ns);
  stage_ = TaskStage::done;
  mark(Phase::exited, now_ns, now_ns);
  mark(Phase::reaped, now_ns, now_ns);
  mark(Phase::receipt, now_ns, now_ns);
  return Act::finish;
}

Acts TaskMachine::cloneReady(uint64_t at_ns, uint64_t now_ns) {
  if (stage_ != TaskStage::claiming || at(Phase::clone) != 0) return {};
  mark(Phase::clone, at_ns, now_ns);
  return Act::claim;
}

void TaskMachine::claimed(uint64_t now_ns) { mark(Phase::claimed, now_ns, now_ns); }

Acts TaskMachine::started(uint64_t at_ns, uint64_t now_ns) {
  if (stage_ != TaskStage::claiming || at(Phase::claimed) == 0) return {};
  stage_ = TaskStage::running;
  mark(Phase::started, at_ns, now_ns);
  wall_deadline_ns_ = at(Phase::started) + limits_.wall_time_ms * 1'000'000;
  next_sample_ns_ = std::min(nextCpuSample_ns(at(Phase::started), {}, limits_, bounds_),
                             at(Phase::started) + bounds_.disk_sample_ns);
  return Act::begin;
}

Acts TaskMachine::controlBroken(std::string why, Again again, uint64_t now_ns) {
  if (stage_ != TaskStage::claiming) return {};
  return again == Again::yes ? lose(std::move(why), now_ns)
                             : endFor(Cause::internal, std::move(why), now_ns);
}

void TaskMachine::firstByte(uint64_t now_ns) { mark(Phase::firstByte, now_ns, now_ns); }

Acts TaskMachine::outputOver(std::string_view stream, uint64_t now_ns) {
  if (stage_ == TaskStage::done) return {};
  end_.output_over = true;
  if (stage_ != TaskStage::running) {
    if (end_.detail.empty()) end_.detail = stream;
    return {};  // already ending: the verdict considers it
  }
  return endFor(Cause::output, std::string(stream), now_ns);
}

Acts TaskMachine::cloneExited(ExitStatus exit, uint64_t at_ns, uint64_t now_ns) {
  switch (stage_) {
    case TaskStage::claiming:
    case TaskStage::making:
      // Whatever the exit status: the clone never reached the task.
      return lose("the clone ended before the task started", now_ns);
    case TaskStage::running:
      end_.exit = exit;
      if (!exit.terminated) endedBefore();
      mark(Phase::exited, at_ns, now_ns);
      return endFor(Cause::exited, {}, now_ns);
    case TaskStage::queued:
    case TaskStage::ending:
    case TaskStage::done:
      break;
  }
  return {};
}

Acts TaskMachine::boxDied(std::string why, uint64_t now_ns) {
  Cause& last = end_.asked ? end_.then : end_.first;
  if (stage_ == TaskStage::ending && last == Cause::exited && end_.exit.code == CLD_KILLED &&
      end_.exit.status == SIGKILL && !reaped_) {
    // The init ended first and took the clone along: a task cannot cause that.
    last = Cause::boxDied;
    end_.detail = std::move(why);
    return {};
  }
  if (stage_ == TaskStage::making || stage_ == TaskStage::claiming)
    return lose(std::move(why), now_ns);
  return endFor(Cause::boxDied, std::move(why), now_ns);
}

Acts TaskMachine::capHit(Cause cause, uint64_t now_ns) {
  if (stage_ == TaskStage::making || stage_ == TaskStage::claiming)
    return endFor(Cause::internal,
                  cause == Cause::memory
                      ? "the box reached its memory cap before the task started"
                      : "the box reached its process cap before the task started",
                  now_ns);
  return endFor(cause, {}, now_ns);
}

Acts TaskMachine::sampled(const Counters& counters, uint64_t now_ns) {
  if (stage_ != TaskStage::running) return {};
  end_.counters = counters;
  // For a cap without a kernel event, its counter decides.
  if (counters.oom_kills > 0) return endFor(Cause::memory, {}, now_ns);
  if (counters.forks_refused > 0) return endFor(Cause::processes, {}, now_ns);
  if (cpuTimeUsedUp(counters, limits_)) return endFor(Cause::cpuTime, {}, now_ns);
  if (diskFull(counters)) return endFor(Cause::disk, {}, now_ns);
  next_sample_ns_ = std::min(nextCpuSample_ns(now_ns, counters, limits_, bounds_),
                             now_ns + bounds_.disk_sample_ns);
  return {};
}

// The main process had ended before the SIGTERM that its wall time sent.
void TaskMachine::endedBefore() {
  if (!end_.asked || end_.first != Cause::wallTime) return;
  end_.first = Cause::exited;
  end_.asked = false;
  end_.then = Cause::none;
  end_.detail.clear();
}

Acts TaskMachine::askToEnd(Cause cause, uint64_t grace_ns, uint64_t now_ns) {
  if (stage_ != TaskStage::running || grace_ns == 0) return endFor(cause, {}, now_ns);
  end_.first = cause;
  end_.asked = true;
  end_.grace_ns = grace_ns;
  grace_deadline_ns_ = now_ns + grace_ns;
  return Act::terminate;
}

Acts TaskMachine::cancel(Cancel how, uint64_t now_ns) {
  if (how == Cancel::soft && !inGrace() && stage_ == TaskStage::running)
    return askToEnd(Cause::cancelled, graceNs(), now_ns);
  return stop(Cause::cancelled, {}, now_ns);
}

Acts TaskMachine::stop(Cause cause, std::string why, uint64_t now_ns) {
  if (stage_ == TaskStage::running && cause == Cause::daemonStopping) {
    const uint64_t grace_ns = std::min(graceNs(), bounds_.stop_grace_ns);
    if (!end_.asked) return askToEnd(cause, grace_ns, now_ns);
    const uint64_t deadline_ns = std::min(grace_deadline_ns_, now_ns + grace_ns);
    end_.grace_ns -= grace_deadline_ns_ - deadline_ns;
    grace_deadline_ns_ = deadline_ns;
    return {};
  }
  if (stage_ == TaskStage::ending && worthAnother()) {  // the client wants no other box
    again_ = Again::no;
    end_.first = cause;
    end_.detail = std::move(why);
    return {};
  }
  return endFor(cause, std::move(why), now_ns);
}

Acts TaskMachine::tick(uint64_t now_ns) {
  if (uint64_t d = deadline_ns(); d == 0 || now_ns < d) return {};
  switch (stage_) {
    case TaskStage::making:
      return endFor(Cause::internal, "the box was not made in time", now_ns);
    case TaskStage::claiming:
      return endFor(Cause::internal, "the clone did not start the task in time", now_ns);
    case TaskStage::running:
      if (end_.asked && now_ns >= grace_deadline_ns_) return endFor(Cause::none, {}, now_ns);
      if (!end_.asked && now_ns >= wall_deadline_ns_)
        return askToEnd(Cause::wallTime, graceNs(), now_ns);
      next_sample_ns_ =
          now_ns + bounds_.disk_sample_ns;  // unless the answer asks for an earlier one
      return Act::sample;
    case TaskStage::ending:
      stage_ = TaskStage::done;
      receipt_overdue_ = true;
      return Act::finish;
    case TaskStage::queued:
      return endFor(Cause::queueTime, {}, now_ns);
    case TaskStage::done:
      break;
  }
  return {};
}

Acts TaskMachine::boxReaped(ExitStatus exit, const Counters& counters, uint64_t clone_exited_ns,
                            uint64_t now_ns) {
  if (stage_ == TaskStage::done || reaped_) return {};
  reaped_ = true;
  end_.counters = counters;
  end_.counters_final = true;
  Acts acts;
  if (stage_ != TaskStage::ending) acts = endFor(Cause::boxDied, {}, now_ns);
  // The task had ended by itself before the kill: the spawner's report of that came late.
  if (exit.code == CLD_EXITED) {
    if (!exit.terminated) endedBefore();
    if (end_.asked && end_.then == Cause::none) {
      end_.then = Cause::exited;
      end_.exit = exit;
    } else if (!end_.asked && end_.first == Cause::wallTime) {
      end_.first = Cause::exited;
    }
  }
  if (end_.first == Cause::exited && end_.exit.code == 0) end_.exit = exit;
  if (end_.first == Cause::exited && clone_exited_ns != 0)
    mark(Phase::exited, clone_exited_ns, now_ns);
  mark(Phase::reaped, now_ns, now_ns);
  return acts.then(Act::drain);
}

void TaskMachine::unproven(std::string why) {
  if (stage_ != TaskStage::ending || reaped_ || end_.first != Cause::wallTime) return;
  end_.first = Cause::internal;
  end_.asked = false;
  end_.detail = std::move(why);
}

Acts TaskMachine::boxGone(bool complete, uint64_t now_ns) {
  if (stage_ == TaskStage::done) return {};
  if (complete && worthAnother()) return startOver(now_ns);
  if (stage_ != TaskStage::ending) {
    (end_.asked ? end_.then : end_.first) = Cause::boxDied;
    mark(Phase::exited, now_ns, now_ns);
  }
  if (complete) {  // without a proof, neither has come
    mark(Phase::reaped, now_ns, now_ns);
    mark(Phase::receipt, now_ns, now_ns);
  }
  stage_ = TaskStage::done;
  return Act::finish;
}

Acts TaskMachine::endFor(Cause cause, std::string detail, uint64_t now_ns) {
  if (stage_ == TaskStage::ending || stage_ == TaskStage::done) return {};  // the first cause wins
  if (end_.asked)
    end_.then = cause;
  else if (cause != Cause::none)
    end_.first = cause;
  end_.detail = std::move(detail);
  mark(Phase::exited, now_ns, now_ns);
  if (stage_ == TaskStage::queued) {
    stage_ = TaskStage::done;
    mark(Phase::receipt, now_ns, now_ns);
    return Act::finish;
  }
  stage_ = TaskStage::ending;
  end_bound_ns_ = now_ns + bounds_.receipt_ns;
  return Act::end;
}

Acts TaskMachine::lose(std::string why, uint64_t now_ns) {
  if (stage_ != TaskStage::making && stage_ != TaskStage::claiming) return {};
  again_ = Again::yes;
  return endFor(Cause::internal, std::move(why), now_ns);
}

// A box that the memory cap killed would be killed again.
bool TaskMachine::worthAnother() const {
  return again_ == Again::yes && boxes_ < bounds_.boxes_max && end_.counters.oom_kills == 0;
}

Acts TaskMachine::startOver(uint64_t now_ns) {
  stage_ = TaskStage::queued;
  queue_deadline_ns_ = now_ns + limits_.queue_time_ms * 1'000'000;
  for (size_t i = static_cast<size_t>(Phase::box); i < base::kPhases; ++i) phases_[i] = 0;
  end_ = {};
  again_ = Again::no;
  reaped_ = false;
  return Act::queue;
}

base::Usage TaskMachine::usage(uint64_t stdout_bytes, uint64_t stderr_bytes) const {
  base::Usage u;
  if (at(Phase::started) != 0) u.wall_ns = at(Phase::exited) - at(Phase::started);
  u.user_cpu_ns = end_.counters.user_cpu_ns;
  u.system_cpu_ns = end_.counters.system_cpu_ns;
  u.memory_peak_bytes = end_.counters.memory_peak_bytes;
  u.processes_peak = end_.counters.processes_peak;
  u.stdout_bytes = stdout_bytes;
  u.stderr_bytes = stderr_bytes;
  u.disk_bytes = end_.counters.disk_bytes;
  u.disk_inodes = end_.counters.disk_inodes;
  return u;
}

}  // namespace mayfly::sched
