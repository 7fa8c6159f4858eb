// Brings a task into its clone: BlobWriter writes its input into one block, in bounded steps, while
// a clone is found; then one message brings the block to the clone, and another the task's caps to
// the spawner.
//
// Layer: core. Core thread.
#pragma once

#include <functional>

#include "core/boxes.h"
#include "core/context.h"
#include "core/lanes.h"
#include "core/task.h"

namespace mayfly::core {

class Claims {
 public:
  // Executes the actions of the task's machine.
  using Act = std::function<void(const TaskPtr&, const sched::Acts&)>;
  Claims(Context& context, Boxes& boxes, Lanes& lanes, Act act);

  void write(const TaskPtr& t);   // the task has a slot; a block of an earlier box is reused
  void wanted(const TaskPtr& t);  // its clone is ready; the claim follows once the block is written
  void started(Task& t);          // the clone has all of the input
  void over(Task& t);             // it started, or never will

 private:
  void step(const TaskPtr& t);
  void claim(const TaskPtr& t);
  base::Status beginSession(const Task& t, const BoxPtr& box);

  Context& x_;
  Boxes& boxes_;
  Lanes& lanes_;
  Act act_;
};

}  // namespace mayfly::core
