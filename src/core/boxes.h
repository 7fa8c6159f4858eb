// All boxes, each from its request to the proof that it is gone: turns the messages of the spawner,
// the clone and its streams into events of the box's BoxMachine, and passes them to the box's
// keeper or task.
//
// Layer: core. Core thread.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/core_report.h"
#include "base/fd.h"
#include "core/context.h"
#include "core/task_io.h"
#include "pool/box_machine.h"

namespace mayfly::core {

struct Box {
  Box(base::BoxId box, BoxKeeper& has_it, pool::BoxMachine::First first)
      : id(box), keeper(has_it), machine(first) {}

  base::BoxId id = 0;
  BoxKeeper& keeper;      // until the claim
  ZygoteRef zygote;       // that the box belongs to
  base::TaskId task = 0;  // that claimed it; 0: making or parked, or it ends without a task
  base::Limits caps;      // the box's initial caps
  std::shared_ptr<TaskIo> io;
  std::optional<sched::Doors> doors;  // until the claim
  // From the claim of a task with a session on: whether the broker may have a socket of the box.
  enum class AtBroker : uint8_t { none, open, closed } at_broker = AtBroker::none;
  sched::SessionEnd session_end;       // once closed
  std::optional<spawner::Event> gone;  // boxGone, while the broker has not closed
  pool::BoxMachine machine;
  uint64_t asked_ns = 0;   // when its clone was requested
  uint64_t stands_ns = 0;  // when it was complete, by the init
  uint64_t made_ns = 0;    // when the spawner had the clone
  uint64_t ready_ns = 0;   // when the clone was ready
  bool for_task = false;   // its clone was made because a task waited
  uint32_t pid_host = 0;
};

class Boxes final : private TaskIo::Sink {
 public:
  explicit Boxes(Context& context) : x_(context), ready_timer_(context.io) {}
  ~Boxes() override;

  // --- calls of keepers ---
  BoxPtr make(const ZygoteRef& zygote, BoxKeeper& keeper, pool::BoxMachine::First first,
              const base::Limits& caps, pool::ClonePool::Rehearsed rehearsed);
  // The clone of a stocked box.
  void makeClone(const BoxPtr& box, const base::Limits& caps, pool::ClonePool::Rehearsed rehearsed);
  void end(const BoxPtr& box);  // no effect if its end is already requested
  void end(const std::vector<base::BoxId>& boxes);
  void sample(base::BoxId box);     // the answer: BoxKeeper::onMeasured, or the task's
  void terminate(base::BoxId box);  // SIGTERM to its task

  // --- calls of tasks ---
  // From here on the box belongs to the task, and never to another. False: the box has no clone to
  // give.
  bool claim(const BoxPtr& box, base::TaskId task, const sched::AccountRef& account);
  // The broker has no socket of the box any more.
  void brokerClosed(base::BoxId box, sched::SessionEnd end);
  // Whether only the broker still has something of the box.
  bool awaitsBroker(base::BoxId box) const;
  // The request says which files are collected.
  void endClaimed(base::BoxId box, spawner::Request request,
                  std::vector<SpawnerLink::SharedFd> fds);

  BoxPtr find(base::BoxId id) const;
  uint32_t countOf(base::TemplateId id) const;
  uint32_t ofZygote(base::ZygoteId id) const;
  // Adds each box's state to the report of its template; `reports` is by TemplateId, from 1 on.
  void addTo(std::vector<base::TemplateReport>* reports) const;

  // --- events of the spawner ---
  void onSpawnerEvent(const spawner::Event& event, std::span<base::Fd> fds);
  void onSpawnerLost(const std::string& why);

 private:
  // TaskIo::Sink
  void onCloneReady(base::BoxId, const zygote::CloneReady&) override;
  void onCloneStarted(base::BoxId, const zygote::Started&) override;
  void onControlBroken(base::BoxId, std::string why) override;
  void onTaskOutput(base::BoxId, sched::Stream, std::string_view bytes) override;
  void onOutputOver(base::BoxId, sched::Stream) override;
  void onStdinTaken(base::BoxId, uint64_t bytes) override;

  base::TaskId taskOf(base::BoxId id) const;
  void sendMake(const Box& box, spawner::Op op, pool::ClonePool::Rehearsed rehearsed);
  void sendEnd(Box& box);
  bool step(const BoxPtr& box, pool::BoxEvent event, std::string why, sched::Again again);
  void made(const BoxPtr& box, const spawner::Event& event, std::span<base::Fd> fds);
  void awaitReady(base::BoxId id);
  void armReadyTimer();
  void unclaimedEvent(const BoxPtr& box, const spawner::Event& event, std::span<base::Fd> fds);
  void gone(const spawner::Event& event);
  void close(Box& box);
  bool openDoors(const BoxPtr& box, std::span<base::Fd> fds);
  void drop(const BoxPtr& box);
  void tellReceipt(const Box& box, const base::Receipt& receipt);

  Context& x_;
  std::unordered_map<base::BoxId, BoxPtr> boxes_;
  std::unordered_map<base::ZygoteId, uint32_t> of_zygote_;  // not yet proven gone
  base::BoxId next_box_ = 1;
  // Boxes whose clone has to become ready, in the order of their deadlines; some already did.
  struct Unready {
    uint64_t due_ns;
    base::BoxId box;
  };
  std::deque<Unready> unready_;
  boost::asio::steady_timer ready_timer_;
};

// "<what> at step '<step>': <error>: <text>", with words from another process.
std::string stepFailed(std::string_view what, std::string_view step, int error,
                       std::string_view text);

}  // namespace mayfly::core
