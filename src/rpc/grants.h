// Grants and tools of tasks: reads what a submission asks for, opens its session at the broker, and
// serves the Grant objects. A client's tool box is called within the bounds of sched/broker.h.
//
// Layer: rpc. Core thread.
#pragma once

#include <kj/async.h>
#include <mayfly/mayfly.capnp.h>

#include <memory>
#include <vector>

#include "rpc/owner.h"
#include "rpc/task.h"
#include "sched/broker.h"

namespace mayfly::rpc {

// The client's functions, until the task ends.
class TaskTools final : public sched::ToolBox {
 public:
  TaskTools(kj::Timer& timer, schema::ToolBox::Client box);
  ~TaskTools() override;
  void call(std::string name, std::string json, Done done) override;
  // Releases the client's object; calls under way are dropped. Idempotent.
  void end();

 private:
  struct State;
  std::unique_ptr<State> state_;  // null: ended
};

// What the submission asks for; both lists are empty if it has neither grants nor tools.
struct SessionWish {
  sched::SessionSpec spec;
  std::shared_ptr<TaskTools> tools;  // null: none
};
base::Result<SessionWish> sessionFrom(Hub& hub, const sched::AccountRef& account,
                                      schema::Mayfly::SubmitParams::Reader params);

using SessionPtr = std::shared_ptr<sched::Session>;
kj::Promise<base::Result<SessionPtr>> openSession(Hub& hub, sched::SessionSpec spec);

void putGrants(schema::Mayfly::SubmitResults::Builder out, ConnectionState& connection,
               TaskState& task);

}  // namespace mayfly::rpc
