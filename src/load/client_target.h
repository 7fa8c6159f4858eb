// Load on a daemon through the C++ client: every request is one task.
//
// Layer: load. Answers come on the client's thread.
#pragma once

#include <string>

#include "load/drive.h"
#include "mayfly/client.h"

namespace mayfly::load {

struct TaskLoad {
  TaskSpec spec;
  std::string expected;  // on stdout; anything else is the error "wrongOutput"
  bool live = true;      // live output, so that the first byte is seen; else with the result
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

// The outcome of a task that should succeed and print `expected`.
Outcome judge(const base::Result<TaskResult>& result, const std::string& said,
              const std::string& expected);

}  // namespace mayfly::load
