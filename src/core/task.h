// One task, with all that the core keeps of it: what it was given, and what it left.
//
// Layer: core. Core thread.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/blob.h"
#include "core/context.h"
#include "core/task_io.h"
#include "sched/accounts.h"
#include "sched/core.h"
#include "sched/task_machine.h"

namespace mayfly::core {

struct Task {
  Task(boost::asio::io_context& context, base::TaskId task, const base::Limits& limits,
       const sched::Bounds& bounds, uint64_t now_ns)
      : id(task), machine(limits, bounds, now_ns), timer(context) {}

  // --- its input ---
  // The block that its clone reads is written in steps (BlobWriter::step).
  base::Status beginBlob(const pool::TemplateSpec& tmpl);
  zygote::Claim claim() const;
  // Its contents are with the clone; `spec` needs them no more.
  void dropContents();

  // --- its output, where nobody listens ---
  void keep(sched::Stream stream, std::string_view bytes);

  // --- its end ---
  bool ran() const { return phase(base::Phase::started) != 0; }
  // Adds to the request that ends its box what is to be collected.
  void collectWith(spawner::Request* end, std::vector<SpawnerLink::SharedFd>* fds,
                   uint32_t collect_ms_max);
  void collected(const spawner::Event& box_gone);
  sched::TaskResult result(sched::Accounts& accounts, uint32_t collect_ms_max);
  // Its box was lost before it started: all that was of that box is forgotten.
  void forgetBox();

  uint64_t phase(base::Phase p) const { return machine.phases()[static_cast<size_t>(p)]; }

  base::TaskId id;
  base::TemplateId tmpl = 0;
  base::LaneId lane = 0;
  base::ZygoteId trial_of = 0;  // not 0: a trial of that zygote, with a box made for it alone
  pool::ClonePool::Rehearsed rehearsed = pool::ClonePool::Rehearsed::no;  // a trial: how
  base::BoxId box = 0;   // the one that it claimed; 0: none yet
  sched::TaskSpec spec;  // its account is empty in a trial
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
  base::Receipt receipt;
  bool slot_free = true;

 private:
  void readFiles(sched::Accounts& accounts, uint32_t collect_ms_max, sched::TaskResult* r);

  std::string captured_[2];
  bool truncated_[2] = {};
  SpawnerLink::SharedFd spool_;
  spawner::CollectState collect_ = spawner::CollectState::none;
  std::string collect_text_;
};

base::TaskLabels labelsOf(const Context& x, const Task& t);
// The observer hears of the phase, if the task has reached it and is no trial.
void tell(const Context& x, const Task& t, base::Phase phase);

}  // namespace mayfly::core
