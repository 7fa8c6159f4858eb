// One task, with all data that the core keeps of it: its input and its output.
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
  // Starts the block that its clone reads; BlobWriter::step writes it.
  base::Status beginBlob(const pool::TemplateSpec& tmpl);
  zygote::Claim claim() const;
  // The clone has the contents; `spec` needs them no more.
  void dropContents();

  // --- its output, if it is captured ---
  void keep(sched::Stream stream, std::string_view bytes);

  // --- its end ---
  bool ran() const { return phase(base::Phase::started) != 0; }
  // Adds the collection of output files to the request that ends its box.
  void collectWith(spawner::Request* end, std::vector<SpawnerLink::SharedFd>* fds,
                   uint32_t collect_ms_max);
  void collected(const spawner::Event& box_gone);
  sched::TaskResult result(sched::Accounts& accounts, uint32_t collect_ms_max);
  // Its box died before the task started: resets all data of that box.
  void forgetBox();

  uint64_t phase(base::Phase p) const { return machine.phases()[static_cast<size_t>(p)]; }

  base::TaskId id;
  base::TemplateId tmpl = 0;
  base::LaneId lane = 0;
  base::ZygoteId trial_of = 0;  // not 0: a trial of that zygote, in a box made for it alone
  pool::ClonePool::Rehearsed rehearsed =
      pool::ClonePool::Rehearsed::no;        // for a trial: rehearsed or not
  base::BoxId box = 0;                       // the box that it claimed; 0: none yet
  base::Launch launch = base::Launch::none;  // how it got its last box
  sched::TaskSpec spec;                      // its account is empty in a trial
  std::shared_ptr<sched::TaskListener> listener;
  sched::TaskMachine machine;
  boost::asio::steady_timer timer;
  uint64_t armed_ns = 0;  // when the timer fires; 0: it is not set

  std::optional<BlobWriter> blob;
  uint64_t blob_bytes = 0;  // the part of `input` that is in the blob
  bool blob_written = false, claim_wanted = false;
  bool under_way = false;         // claimed, not started
  bool fresh_runtime = false;     // reported by the clone
  std::shared_ptr<TaskIo> io;     // the box's
  uint64_t input_left_bytes = 0;  // the bytes that writeStdin may still bring
  sched::Share input;             // the held bytes of input
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
// Reports the phase to the observer, if the task has reached it and is not a trial.
void tell(const Context& x, const Task& t, base::Phase phase);

}  // namespace mayfly::core
