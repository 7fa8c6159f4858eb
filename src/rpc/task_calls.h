// The calls of a Task.
//
// Layer: rpc. RPC thread.
#pragma once

#include "rpc/calls.h"

namespace mayfly::rpc {

// The object that a client gets for its task; letting go of it closes the task.
schema::Task::Client makeTaskCalls(Hub& hub, kj::Own<ConnectionState> connection,
                                   kj::Own<TaskState> state);

}  // namespace mayfly::rpc
