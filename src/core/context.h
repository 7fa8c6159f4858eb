// The state that the core's parts share, and the interfaces through which they talk.
//
//   Engine    wires the parts, starts and stops them, reports templates
//   Intake    checks submissions; queue and shares -> Lanes
//   Claims    bring a task into its clone          -> Lanes, Boxes
//   Tasks     from submission to result            -> all above
//   Trials    the tasks that test a new zygote     -> Boxes
//   Lanes     each lane's pool of clones and boxes -> Boxes
//   Zygotes   started, renewed, retired
//   Boxes     each from its request to the proof that it is gone
//
// A part calls the parts right of its arrow; it reports to the others through an interface below.
//
// Layer: core. Core thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "base/observer.h"
#include "core/options.h"
#include "core/spawner_link.h"
#include "pool/clone_pool.h"
#include "pool/template_registry.h"
#include "reap/ledger.h"
#include "sched/accounts.h"
#include "sched/core.h"
#include "sched/task_ids.h"
#include "sched/task_machine.h"
#include "wire/zygote.h"

namespace mayfly::core {

// steady_clock is the monotonic clock that phases and deadlines use.
inline std::chrono::steady_clock::time_point timePoint(uint64_t monotonic_ns) {
  return std::chrono::steady_clock::time_point(
      std::chrono::nanoseconds(static_cast<int64_t>(monotonic_ns)));
}

inline constexpr sched::OwnerId kOwn = 0;  // owner of the trials: not a client
// Trials count from here on: no client's task has such an id.
inline constexpr base::TaskId kTrialIds = base::TaskId{1} << sched::kTaskIdBits;

// A zygote, its template and its lane.
struct ZygoteRef {
  base::ZygoteId id = 0;
  base::TemplateId tmpl = 0;
  base::LaneId lane = 0;
};

struct Box;
using BoxPtr = std::shared_ptr<Box>;
struct Task;
using TaskPtr = std::shared_ptr<Task>;

// Owns a box until a task claims it: its lane's pool, or a trial.
class BoxKeeper {
 public:
  virtual ~BoxKeeper() = default;
  virtual void onReady(const BoxPtr&) = 0;  // its clone waits for a task
  virtual void onStocked(const BoxPtr&) {}  // it is complete, without a clone
  // The box failed: its end is requested, or it was never made.
  virtual void onLost(const BoxPtr&, std::string why, sched::Again) = 0;
  virtual void onMeasured(const BoxPtr&, uint64_t /*memory_bytes*/) {}
  virtual void onGone(const BoxPtr&) {}  // proven gone; for a claimed box: after its task's result
};

// Owns a box from the claim on. The task may end before its box.
class BoxClaimant {
 public:
  virtual ~BoxClaimant() = default;
  // --- the clone and its streams ---
  virtual void onCloneStarted(base::TaskId task, const wire::Started&) = 0;
  virtual void onControlBroken(base::TaskId task, std::string why) = 0;
  virtual void onTaskOutput(base::TaskId task, sched::Stream, std::string_view bytes) = 0;
  virtual void onOutputOver(base::TaskId task, sched::Stream) = 0;
  virtual void onStdinTaken(base::TaskId task, uint64_t bytes) = 0;
  // --- the spawner ---
  virtual void onBoxEvent(base::TaskId task, const spawner::Event&) = 0;
  // The receipt, complete or not. False: the task already has its result.
  virtual bool onBoxGone(base::TaskId task, const spawner::Event&, const reap::Closed&) = 0;
  // A slot is free whose task ended before its receipt was complete; 0: of a box without a task.
  virtual void onSlotFree(base::TaskId task) = 0;
};

// The tasks that wait for a lane's clones.
class LaneTasks {
 public:
  virtual ~LaneTasks() = default;
  virtual const base::Limits* limitsOf(base::TaskId task) const = 0;            // null: it ended
  virtual bool giveBox(base::TaskId task, const BoxPtr&, base::ClaimKind) = 0;  // false: it ended
  virtual void boxFailed(base::TaskId task, std::string why, sched::Again) = 0;
};

// Makes the box for a trial task; the box belongs to no pool.
class TrialBoxes {
 public:
  virtual ~TrialBoxes() = default;
  // False: the zygote is gone.
  virtual bool askTrialBox(base::ZygoteId, base::TaskId, pool::ClonePool::Rehearsed) = 0;
};

// Reports of the parts to the engine.
class CoreEvents {
 public:
  virtual ~CoreEvents() = default;
  virtual void onTaskEnded() = 0;     // it has its result, or a slot is free
  virtual void onLanesChanged() = 0;  // the registry may have opened or closed lanes
  virtual void onPoolChanged(base::TemplateId) = 0;
  virtual void onTemplateChanged(base::TemplateId) = 0;
  virtual void onCloneAsked(base::LaneId) = 0;    // of the lane's zygote
  virtual void onBoxDropped(base::ZygoteId) = 0;  // one of its boxes is proven gone
  virtual void onZygoteReady(const ZygoteRef&) = 0;
  virtual void onTrialsEnded(const ZygoteRef&, std::string fault) = 0;  // empty: it may serve
  struct ZygoteEnd {
    ZygoteRef zygote;
    // `serving`: it served, or was about to serve; its lane's tasks wait for another. `draining`:
    // it was replaced, or its lane is closed.
    enum class Was : uint8_t { serving, successor, draining } was = Was::draining;
    std::string why;
  };
  virtual void onZygoteGone(const ZygoteEnd&) = 0;
};

struct Context {
  boost::asio::io_context& io;
  const EngineOptions& options;
  sched::TaskIds& ids;
  base::Observer& observer;
  SpawnerLink& link;
  pool::TemplateRegistry& registry;
  reap::Ledger& ledger;
  sched::Accounts& accounts;
  CoreEvents& events;
  // Parts that get calls from the others; the engine sets them once all parts are made.
  BoxClaimant* claimant = nullptr;
  LaneTasks* lane_tasks = nullptr;
  TrialBoxes* trial_boxes = nullptr;

  bool spawner_ready = false;
  enum class Stopping : uint8_t { no, tasks, templates, done } stopping = Stopping::no;

  bool serving() const { return spawner_ready && stopping == Stopping::no; }
};

}  // namespace mayfly::core
