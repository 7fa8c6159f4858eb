// What the engine keeps of one task.
//
// Layer: clone, private to the engine.
#pragma once

#include <utility>

#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "clone/engine.h"

namespace mayfly::clone {

// steady_clock is the monotonic clock that phases and deadlines use.
inline std::chrono::steady_clock::time_point timePoint(uint64_t monotonic_ns) {
  return std::chrono::steady_clock::time_point(
      std::chrono::nanoseconds(static_cast<int64_t>(monotonic_ns)));
}

inline constexpr sched::OwnerId kOwn = 0;  // of the engine's own tasks: no client's

struct Engine::Task {
  Task(boost::asio::io_context& context, base::TaskId task, const base::Limits& limits,
       const sched::Bounds& bounds, uint64_t now_ns)
      : id(task), machine(limits, bounds, now_ns), timer(context) {}

  base::TaskId id;
  base::TemplateId tmpl = 0;
  base::LaneId lane = 0;
  base::ZygoteId trial_of = 0;  // not 0: a trial of that zygote, with a box made for it alone
  pool::ClonePool::Rehearsed rehearsed = pool::ClonePool::Rehearsed::no;  // a trial: how
  base::BoxId box = 0;        // the one that it claimed; 0: none yet
  sched::AccountRef account;  // empty: the engine's own task
  sched::TaskSpec spec;       // its contents are dropped once the clone has them
  std::shared_ptr<sched::TaskListener> listener;
  sched::TaskMachine machine;
  boost::asio::steady_timer timer;
  uint64_t armed_ns = 0;  // what the timer waits for; 0: nothing

  std::optional<BlobWriter> blob;
  uint64_t blob_bytes = 0;  // of `input`, what the blob holds
  bool blob_written = false, claim_wanted = false;
  bool under_way = false;         // claimed, not started
  bool fresh_runtime = false;     // the clone's word
  std::shared_ptr<TaskIo> io;     // the box's
  uint64_t input_left_bytes = 0;  // what writeStdin may still bring
  sched::Share input;             // the bytes of it that are held
  bool stdin_closed = false;

  std::string captured[2];
  bool truncated[2] = {};
  SpawnerLink::SharedFd spool;
  spawner::CollectState collect = spawner::CollectState::none;
  std::string collect_text;
  base::Receipt receipt;
  bool slot_free = true;
};

// A box from its asking to its receipt.
struct Engine::Box {
  Box(base::BoxId box, pool::BoxMachine::First first) : id(box), machine(first) {}

  base::BoxId id = 0;
  base::TemplateId tmpl = 0;
  base::LaneId lane = 0;
  base::ZygoteId zygote = 0;
  base::TaskId task = 0;   // that claimed it; 0: making or parked, or ending without
  base::TaskId trial = 0;  // not 0: made for this task, in no pool
  base::Limits caps;       // that it was made with
  std::shared_ptr<TaskIo> io;
  pool::BoxMachine machine;
  uint64_t asked_ns = 0;   // its clone was asked for
  uint64_t stands_ns = 0;  // the init's word
  uint64_t ready_ns = 0;   // the clone's
  uint32_t pid_host = 0;
};

}  // namespace mayfly::clone
