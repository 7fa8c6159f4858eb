// Load on a daemon through the C++ client: every request is one task.
//
// Layer: load. Answers come on the client's thread.
#pragma once

#include <mayfly/client.h>

#include <functional>
#include <optional>
#include <string>

#include "load/drive.h"

namespace mayfly::load {

struct TaskLoad {
  TaskSpec spec;
  // On stdout; anything else is the error "wrongOutput". Absent: any output will do.
  std::optional<std::string> expected;
  std::function<void(TaskSpec&, const Ticket&)> change;  // of one request's own copy; may be empty
  bool live = true;  // live output, so that the first byte is seen; else with the result
};

class ClientTarget final : public Target {
 public:
  // `client` outlives every request.
  ClientTarget(Client& client, TaskLoad load) : client_(client), load_(std::move(load)) {}
  void begin(const Ticket& ticket, Done done) override;

 private:
  Client& client_;
  TaskLoad load_;
};

// The outcome of a task that should succeed and print `expected`, if there is such.
Outcome judge(const base::Result<TaskResult>& result, const std::string& said,
              const std::optional<std::string>& expected);

}  // namespace mayfly::load
