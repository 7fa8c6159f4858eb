// How a task gets into its clone: its input becomes one block (BlobWriter), written in bounded
// steps while a clone is found; then one message gives both to the clone, and another the task's
// caps to the spawner.
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
  // `act`: what the task's machine answers is done.
  using Act = std::function<void(const TaskPtr&, const sched::Acts&)>;
  Claims(Context& context, Boxes& boxes, Lanes& lanes, Act act);

  void write(const TaskPtr& t);   // the task has a slot; of an earlier box's, nothing is done again
  void wanted(const TaskPtr& t);  // its clone is ready; the claim follows once all is written
  void started(Task& t);          // the clone has it all
  void over(Task& t);             // it started, or never will

 private:
  void step(const TaskPtr& t);
  void claim(const TaskPtr& t);

  Context& x_;
  Boxes& boxes_;
  Lanes& lanes_;
  Act act_;
};

}  // namespace mayfly::core
