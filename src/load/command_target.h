// Load by commands: every request is a fresh process whose output is read to its end, on one of
// `workers` threads. It measures a peer without a daemon.
//
// Layer: load. Owns its threads.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "load/drive.h"

namespace mayfly::load {

class CommandTarget final : public Target {
 public:
  CommandTarget(std::vector<std::string> argv, std::string expected, uint32_t workers);
  ~CommandTarget() override;  // waits for the running commands
  void begin(const Ticket& ticket, Done done) override;

 private:
  void work();
  Outcome runOnce() const;

  std::vector<std::string> argv_;
  std::string expected_;
  std::mutex mutex_;
  std::condition_variable wanted_;
  std::deque<Done> waiting_;  // at most the plan's outstanding_max
  bool over_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace mayfly::load
