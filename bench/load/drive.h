// Runs a Run for real: sends its requests to a target when they are due and hands the answers
// back, on the calling thread.
//
// Layer: bench/load. Blocks until the run is over. Answers may come on any thread.
#pragma once

#include <cstdint>
#include <functional>

#include "base/result.h"
#include "load/run.h"

namespace mayfly::load {

// What is put under load.
class Target {
 public:
  using Done = std::function<void(Outcome)>;
  virtual ~Target() = default;
  // Begins one request. `done` is called once, on any thread, also before this returns.
  // Must not block for the answer.
  virtual void begin(const Ticket& ticket, Done done) = 0;
};

struct DriveBounds {
  uint64_t stall_ns_max = 120'000'000'000;  // without any answer while one is awaited
  // The end of a sleep is waited for awake: a timer's delay would count as the target's.
  uint64_t spin_ns_max = 60'000;
};

// deadlineExceeded where the target stops answering; requests are under way then.
base::Result<Report> drive(Plan plan, Target& target, DriveBounds bounds = {});

}  // namespace mayfly::load
