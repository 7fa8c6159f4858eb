// The core: implements sched::Core. Wires its parts (context.h), starts and stops them, and reports
// templates. It decides nothing itself.
//
// Layer: core. Core thread: owns all state, no locks, never blocks.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/core_report.h"
#include "core/boxes.h"
#include "core/context.h"
#include "core/lanes.h"
#include "core/options.h"
#include "core/spawner_link.h"
#include "core/tasks.h"
#include "core/trials.h"
#include "core/zygotes.h"
#include "sched/core.h"

namespace mayfly::core {

// The events on which the engine's owner must act. All others go to the observer.
class EngineOwner {
 public:
  virtual ~EngineOwner() = default;
  virtual void onSettled() {}  // every template is ready, or was given up
  // What an earlier daemon of this name left is removed. "1" in `kill` kills the spawner and every
  // process that it made.
  virtual void onSpawnerReady(base::Fd /*kill*/) {}
  virtual void onFatal(base::Error) {}  // the spawner is gone
};

class Engine final : public sched::Core, private SpawnerLink::Handler, private CoreEvents {
 public:
  // `ids` has its first block.
  Engine(boost::asio::io_context& io, EngineOptions options, sched::TaskIds& ids,
         base::Observer& observer, EngineOwner& owner);

  // Before start(). `seccomp`: the template's program, a sealed memfd. `snapshot`: the folder of
  // what its clones are restored from; empty for other mechanisms.
  base::Result<base::TemplateId> addTemplate(pool::TemplateSpec spec, base::Fd seccomp,
                                             base::Fd snapshot = {});
  base::Status start(base::Fd spawner_socket);
  // A served template's clones come from this snapshot as soon as a zygote serves from it. `done`
  // is called once, with the reason if the present one stays.
  void refresh(std::string_view name, NewSnapshot snapshot, Zygotes::Refreshed done);
  // Ends every task with daemonStopping, waits a bounded time for the receipts and the templates,
  // then calls `done`. New tasks are refused from here on.
  void stop(std::function<void()> done);

  // sched::Core
  base::Result<base::TaskId> submit(sched::TaskSpec spec,
                                    std::shared_ptr<sched::TaskListener> listener) override {
    return tasks_.submit(std::move(spec), std::move(listener));
  }
  base::Status writeStdin(base::TaskId task, std::string data) override {
    return tasks_.table().writeStdin(task, std::move(data));
  }
  sched::Broker* broker() override { return options_.broker; }
  base::Status closeStdin(base::TaskId task) override { return tasks_.table().closeStdin(task); }
  void acknowledgeOutput(base::TaskId task, sched::Stream stream, uint64_t bytes) override {
    tasks_.table().acknowledgeOutput(task, stream, bytes);
  }
  base::Status cancel(base::TaskId task, const sched::AccountRef& asks,
                      sched::Cancel how) override {
    return tasks_.cancel(task, asks, how);
  }
  void ownerGone(sched::OwnerId owner) override { tasks_.ownerGone(owner); }
  std::string restartedSince(base::TaskId task) const override {
    return context_.ids.isOfEarlierRun(task) ? context_.ids.since() : std::string();
  }
  std::vector<sched::TaskInfo> tasks(const sched::AccountRef& asks) const override {
    return tasks_.table().list(asks);
  }
  std::optional<sched::TaskInfo> info(base::TaskId task) const override {
    return tasks_.table().info(task);
  }
  std::vector<sched::TemplateInfo> templates() const override;
  sched::Accounts& accounts() override { return accounts_; }

  const reap::Ledger& ledger() const { return ledger_; }
  // Looks at every box and task once.
  base::CoreReport report() const;

 private:
  // SpawnerLink::Handler
  void onSpawnerEvent(const spawner::Event& event, std::span<base::Fd> fds) override;
  void onSpawnerLost(base::Error why) override;
  // CoreEvents
  void onTaskEnded() override { checkStopped(); }
  void onLanesChanged() override;
  void onPoolChanged(base::TemplateId id) override;
  void onTemplateChanged(base::TemplateId id) override;
  void onCloneAsked(base::LaneId id) override;
  void onBoxDropped(base::ZygoteId id) override { zygotes_.boxDropped(id); }
  void onZygoteReady(const ZygoteRef& zygote) override;
  void onTrialsEnded(const ZygoteRef& zygote, std::string fault) override;
  void onZygoteGone(const ZygoteEnd& end) override;

  void serve(const ZygoteRef& zygote);
  void runTemplates();
  void checkSettled();
  base::PoolState poolState(base::TemplateId id) const;
  void checkStopped();
  void stopTemplates();
  void stopped();

  EngineOptions options_;
  EngineOwner& owner_;
  SpawnerLink link_;
  pool::TemplateRegistry registry_;
  sched::Accounts accounts_;  // outlives the parts that hold shares
  reap::Ledger ledger_;
  Context context_;
  Boxes boxes_;
  Lanes lanes_;
  Tasks tasks_;
  Trials trials_;
  Zygotes zygotes_;
  std::set<base::TemplateId> pools_to_tell_;  // all changes of these pools are reported at once
  boost::asio::steady_timer stop_timer_;
  bool settled_ = false;
  std::function<void()> on_stopped_;
};

}  // namespace mayfly::core
