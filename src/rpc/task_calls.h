// The calls of a Task.
//
// Layer: rpc. Core thread.
#pragma once

#include "rpc/calls.h"

namespace mayfly::rpc {

enum class OnRelease : uint8_t { close, keep };  // what releasing a Task does to its task

// The object that a client gets for its task.
schema::Task::Client makeTaskCalls(kj::Own<ConnectionState> connection, kj::Own<TaskState> state,
                                   OnRelease on_release);

void put(schema::TaskInfo::Builder out, const sched::TaskInfo& info, bool yours);

}  // namespace mayfly::rpc
