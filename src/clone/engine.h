// The engine: sched::Core made real. It feeds each task's state machine with what
// the spawner, the clone, the streams, the clock and the client say, and does what
// the machine answers. It decides nothing itself.
//
// Layer: clone. Core thread: owns all state, no locks, never blocks.
#pragma once

#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/observer.h"
#include "clone/blob.h"
#include "clone/log_pump.h"
#include "clone/spawner_link.h"
#include "clone/spool_budget.h"
#include "clone/task_io.h"
#include "pool/box_machine.h"
#include "pool/plan.h"
#include "pool/refill.h"
#include "pool/template_registry.h"
#include "reap/ledger.h"
#include "sched/accounts.h"
#include "sched/admission.h"
#include "sched/core.h"
#include "sched/task_machine.h"

namespace mayfly::clone {

inline constexpr uint32_t kFdsPerBox =
    5;  // control, stdin, stdout, stderr; the task's memfd or spool
inline constexpr uint32_t kPidsPerBox = 2;  // the init and the collector, beside the task's own

struct EngineOptions {
  sched::Budget budget;
  sched::Bounds bounds;
  // Of accounts; the bounds of tasks, input and output files are made of the totals here.
  sched::AccountBounds accounts;
  uint32_t collect_ms_max = 5'000;
  uint32_t making_max = 4;                          // boxes of one template that are made at a time
  uint64_t parked_memory_bytes_max = 512ull << 20;  // of all parked clones
  uint64_t input_held_bytes_max = 1ull << 30;       // code, files and stdin of all tasks, in memory
  uint64_t out_files_held_bytes_max = 2ull << 30;   // collected, of tasks that are not forgotten
  uint64_t stop_tasks_ns_max = 5'000'000'000;       // tasks to end and be proven gone
  uint64_t stop_templates_ns_max = 3'000'000'000;
};

// What the engine's owner has to act upon. All else is told to the observer.
class EngineOwner {
 public:
  virtual ~EngineOwner() = default;
  virtual void onSettled() {}           // every template is ready, or was given up
  virtual void onFatal(base::Error) {}  // the spawner is gone
};

class Engine final : public sched::Core, private SpawnerLink::Handler, private TaskIo::Sink {
 public:
  Engine(boost::asio::io_context& io, EngineOptions options, base::Observer& observer,
         EngineOwner& owner);
  ~Engine() override;

  // Before start(). `seccomp`: the template's program, a sealed memfd.
  base::Result<base::TemplateId> addTemplate(pool::TemplateSpec spec, base::Fd seccomp);
  base::Status start(base::Fd spawner_socket);
  // Ends every task with daemonStopping, waits for the receipts and the templates
  // within bounds, then calls `done`. New tasks are refused from here on.
  void stop(std::function<void()> done);

  // sched::Core
  base::Result<base::TaskId> submit(sched::TaskSpec spec,
                                    std::shared_ptr<sched::TaskListener> listener) override;
  base::Status writeStdin(base::TaskId task, std::string data) override;
  base::Status closeStdin(base::TaskId task) override;
  void acknowledgeOutput(base::TaskId task, sched::Stream stream, uint64_t bytes) override;
  base::Status cancel(base::TaskId task) override;
  void ownerGone(sched::OwnerId owner) override;
  std::vector<sched::TaskInfo> tasks() const override;
  std::optional<sched::TaskInfo> info(base::TaskId task) const override;
  std::vector<sched::TemplateInfo> templates() const override;

  const reap::Ledger& ledger() const { return ledger_; }

 private:
  struct Task;
  using TaskPtr = std::shared_ptr<Task>;
  struct Box;
  using BoxPtr = std::shared_ptr<Box>;
  struct Template {
    SpawnerLink::SharedFd seccomp;
    uint64_t hits = 0, misses = 0;  // tasks that found a clone parked, and that did not
    bool told = true;               // nothing of its pools changed since the observer was told
  };
  struct Lane {
    Lane(base::TemplateId t, uint32_t making_max) : tmpl(t), refill(making_max) {}
    base::TemplateId tmpl;
    pool::Refill refill;
    base::ZygoteId zygote = 0;     // that serves, or is being started; 0: none is
    base::ZygoteId successor = 0;  // being started beside it
  };
  // From `publish` until its end is told.
  struct Zygote {
    base::TemplateId tmpl = 0;
    base::LaneId lane = 0;
    bool draining = false;  // it has been replaced, or its lane is closed: ends with its last box
    std::shared_ptr<LogPump> log;
    uint32_t boxes = 0;               // not proven gone
    bool checking = false;            // it serves, but is not trusted with tasks yet
    bool retiring = false;            // asked to end
    std::vector<std::string> trials;  // what the trial clones printed so far
    std::string fault;                // why it was refused
  };
  class Trial;

  // SpawnerLink::Handler
  void onSpawnerEvent(const spawner::Event& event, std::span<base::Fd> fds) override;
  void onSpawnerLost(base::Error why) override;
  // TaskIo::Sink
  void onCloneReady(base::BoxId, const zygote::CloneReady&) override;
  void onCloneStarted(base::BoxId, const zygote::Started&) override;
  void onControlBroken(base::BoxId, std::string why) override;
  void onTaskOutput(base::BoxId, sched::Stream, std::string_view bytes) override;
  void onOutputOver(base::BoxId, sched::Stream) override;
  void onStdinTaken(base::BoxId, uint64_t bytes) override;

  // Tasks (engine.cc)
  sched::TaskInfo infoOf(const Task& t) const;
  TaskPtr find(base::TaskId id) const;
  void dispatch();
  void act(const TaskPtr& t, const sched::Acts& acts);
  void make(const TaskPtr& t);
  void writeBlob(const TaskPtr& t);
  void claim(const TaskPtr& t);
  void claimOver(Task& t);
  void queueAgain(const TaskPtr& t);
  void end(const TaskPtr& t);
  void finish(const TaskPtr& t);
  void armTimer(const TaskPtr& t);
  sched::TaskResult result(Task& t);
  void collectFiles(Task& t, sched::TaskResult* r);
  base::TaskLabels labelsOf(const Task& t) const;
  void phase(const Task& t, base::Phase p);

  // Boxes (engine_boxes.cc)
  BoxPtr findBox(base::BoxId id) const;
  TaskPtr taskOf(base::BoxId id) const;
  uint32_t pidOf(base::BoxId id) const;
  Lane* findLane(base::LaneId id);
  void askBox(base::LaneId id, Lane& lane, const pool::Refill::Make& make);
  void askTrialBox(base::ZygoteId zygote, base::TaskId task, pool::ClonePool::Rehearsed rehearsed);
  void sendMake(const Box& box, spawner::Op op, pool::ClonePool::Rehearsed rehearsed);
  void refill(base::LaneId lane);
  void armRefill();
  BoxPtr newBox(base::LaneId lane, base::ZygoteId zygote, pool::BoxMachine::First first);
  void dropBox(const BoxPtr& box);
  void resizePools();
  void obtain(const TaskPtr& t);
  void bind(const TaskPtr& t, const BoxPtr& box);
  void measure(const Box& box);
  bool step(const BoxPtr& box, pool::BoxEvent event, std::string why, sched::Again again);
  void endBox(Box& box);
  void endBoxes(const std::vector<base::BoxId>& boxes);
  void sendEnd(const Box& box);
  void boxLost(const BoxPtr& box, std::string why, sched::Again again);
  void boxEvent(const BoxPtr& box, const spawner::Event& event, std::span<base::Fd> fds);
  void taskEvent(const TaskPtr& t, const spawner::Event& event);
  void boxGone(const spawner::Event& event);

  // Templates, lanes and zygotes, and the end (engine_templates.cc)
  void syncLanes();
  void closeLane(base::LaneId id);
  void runTemplates();
  void armTemplateTimer();
  void publish(base::LaneId id, Lane& lane);
  void retire(base::ZygoteId id);
  void drain(base::ZygoteId id);
  void zygoteEvent(const spawner::Event& event);
  void startTrials(base::ZygoteId id);
  void onTrial(base::ZygoteId id, const sched::TaskResult& result);
  void zygoteReady(base::ZygoteId id);
  void zygoteGone(base::ZygoteId id, std::string why);
  void templateChanged(base::TemplateId id);
  void poolChanged(base::TemplateId id);
  base::PoolState poolState(base::TemplateId id) const;
  void failQueue(base::LaneId id);
  void stopTasksDone();
  void checkStopped();
  void stopped();

  boost::asio::io_context& io_;
  EngineOptions options_;
  base::Observer& observer_;
  EngineOwner& owner_;
  SpawnerLink link_;
  pool::TemplateRegistry registry_;
  pool::Plan plan_;
  std::vector<Template> templates_;     // index = id - 1
  std::map<base::LaneId, Lane> lanes_;  // the registry's
  std::map<base::ZygoteId, Zygote> zygotes_;
  base::ZygoteId next_zygote_ = 1;
  sched::Accounts accounts_;  // outlives what holds shares
  sched::Admission admission_;
  reap::Ledger ledger_;
  SpoolBudget spools_;
  std::unordered_map<base::TaskId, TaskPtr> tasks_;
  std::unordered_map<base::BoxId, BoxPtr> boxes_;
  base::TaskId next_task_ = 1;
  base::BoxId next_box_ = 1;
  boost::asio::steady_timer template_timer_, stop_timer_, refill_timer_;
  uint64_t refill_due_ns_ = 0;  // what refill_timer_ waits for; 0: nothing
  bool spawner_ready_ = false, settled_ = false, dispatching_ = false;
  enum class Stopping : uint8_t { no, tasks, templates, done } stopping_ = Stopping::no;
  std::function<void()> on_stopped_;
};

}  // namespace mayfly::clone
