// The tasks that have no result yet, by their ids, and the calls of the edges that change no stage
// of a task: its stdin, its acknowledged output, what it is doing.
//
// Layer: core. Core thread.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/core_report.h"
#include "core/boxes.h"
#include "core/context.h"
#include "core/task.h"
#include "sched/core.h"

namespace mayfly::core {

class TaskTable {
 public:
  TaskTable(Context& context, Boxes& boxes) : x_(context), boxes_(boxes) {}
  ~TaskTable();

  void add(const TaskPtr& t) { tasks_[t->id] = t; }
  void remove(base::TaskId id) { tasks_.erase(id); }
  TaskPtr find(base::TaskId id) const;        // null: unknown or ended
  base::Error noTask(base::TaskId id) const;  // why find() has none
  std::vector<TaskPtr> all() const;           // a copy: the caller may end tasks
  bool empty() const { return tasks_.empty(); }
  // Each account's tasks, without trials; returns when the task that waits longest was accepted, or
  // 0 if none waits.
  uint64_t addTo(std::vector<base::AccountReport>* accounts) const;

  // See sched::Core.
  base::Status writeStdin(base::TaskId id, std::string data);
  base::Status closeStdin(base::TaskId id);
  void acknowledgeOutput(base::TaskId id, sched::Stream stream, uint64_t bytes);
  std::vector<sched::TaskInfo> list(const sched::AccountRef& asks) const;
  std::optional<sched::TaskInfo> info(base::TaskId id) const;

 private:
  sched::TaskInfo infoOf(const Task& t) const;

  Context& x_;
  Boxes& boxes_;
  std::unordered_map<base::TaskId, TaskPtr> tasks_;
};

}  // namespace mayfly::core
