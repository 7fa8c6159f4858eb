#include "core/task_table.h"

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "base/text.h"

namespace mayfly::core {

using base::Code;
using base::fail;
using base::Phase;
using sched::Stream;
using sched::TaskStage;

// A posted handler may keep a task alive for longer than the book of accounts.
TaskTable::~TaskTable() {
  for (const auto& [id, t] : tasks_) {
    t->input.reset();
    t->spec.account.reset();
  }
}

TaskPtr TaskTable::find(base::TaskId id) const {
  auto at = tasks_.find(id);
  return at != tasks_.end() ? at->second : nullptr;
}

base::Error TaskTable::noTask(base::TaskId id) const {
  base::Error error{Code::notFound, "there is no task " + std::to_string(id), {}, 0};
  if (x_.ids.isOfEarlierRun(id))
    error.message +=
        ": the id is of an earlier run of the daemon, which was restarted at " + x_.ids.since();
  return error;
}

uint64_t TaskTable::addTo(std::vector<base::AccountReport>* accounts) const {
  uint64_t oldest_ns = 0;
  std::unordered_map<sched::AccountId, size_t> places;
  for (const auto& [id, t] : tasks_) {
    const bool queued = t->machine.stage() == sched::TaskStage::queued;
    const uint64_t at_ns = t->phase(base::Phase::queued);
    if (queued && (oldest_ns == 0 || at_ns < oldest_ns)) oldest_ns = at_ns;
    const sched::AccountRef& account = t->spec.account;
    if (!account) continue;
    const auto [place, first] = places.emplace(account.id(), accounts->size());
    if (first)
      accounts->push_back({std::string(account.userName()), std::string(account.tenantName())});
    base::AccountReport& r = (*accounts)[place->second];
    ++(queued ? r.queued : r.running);
  }
  return oldest_ns;
}

std::vector<TaskPtr> TaskTable::all() const {
  std::vector<TaskPtr> list;
  list.reserve(tasks_.size());
  for (const auto& [id, t] : tasks_) list.push_back(t);
  return list;
}

base::Status TaskTable::writeStdin(base::TaskId id, std::string data) {
  TaskPtr t = find(id);
  if (!t) return fail(noTask(id));
  if (t->stdin_closed) return fail(Code::failedPrecondition, "the task's stdin is closed");
  if (data.size() > t->input_left_bytes)
    return fail(Code::invalidArgument,
                "standard input exceeds the task's input cap of " +
                    base::humanBytes(t->machine.limits().input_bytes),
                "Give the task a larger cap `input`.");
  MAYFLY_CHECK(t->input.grow(data.size()));
  t->input_left_bytes -= data.size();
  if (t->machine.stage() == TaskStage::running) {
    t->io->pushStdin(std::move(data));
  } else if (t->machine.stage() < TaskStage::running) {
    t->spec.stdin_data += data;
  } else {
    t->input.shrink(data.size());  // it ends: the task reads no more
  }
  return base::Unit{};
}

base::Status TaskTable::closeStdin(base::TaskId id) {
  TaskPtr t = find(id);
  if (!t) return fail(noTask(id));
  if (t->stdin_closed) return base::Unit{};
  t->stdin_closed = true;
  if (t->machine.stage() == TaskStage::running) t->io->endStdin();
  return base::Unit{};
}

void TaskTable::acknowledgeOutput(base::TaskId id, Stream stream, uint64_t bytes) {
  if (TaskPtr t = find(id); t && t->io) t->io->acknowledge(stream, bytes);
}

sched::TaskInfo TaskTable::infoOf(const Task& t) const {
  const TaskStage s = t.machine.stage();
  const BoxPtr box = boxes_.find(t.box);
  return {t.id,
          t.spec.template_name,
          std::string(t.machine.inGrace()        ? sched::name(TaskStage::ending)
                      : s == TaskStage::claiming ? "making"
                                                 : sched::name(s)),
          t.phase(Phase::queued),
          t.phase(Phase::started),
          box ? box->pid_host : 0,
          t.spec.owner};
}

std::optional<sched::TaskInfo> TaskTable::info(base::TaskId id) const {
  TaskPtr t = find(id);
  return t && t->spec.owner != kOwn ? std::optional(infoOf(*t)) : std::nullopt;
}

std::vector<sched::TaskInfo> TaskTable::list(const sched::AccountRef& asks) const {
  std::vector<sched::TaskInfo> list;
  for (const auto& [id, t] : tasks_)
    if (asks.sees(t->spec.account.id())) list.push_back(infoOf(*t));
  std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) {
    return std::tie(a.queued_ns, a.task) < std::tie(b.queued_ns, b.task);
  });
  return list;
}

}  // namespace mayfly::core
