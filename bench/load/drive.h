// Executes a Run: sends its requests to a target when they are due and passes the answers back, on
// the calling thread.
//
// Layer: bench/load. Blocks until the run is over. Answers may come on any thread.
#pragma once

#include <cstdint>
#include <functional>

#include "base/result.h"
#include "load/run.h"

namespace mayfly::load {

// The system under load.
class Target {
 public:
  using Done = std::function<void(Outcome)>;
  virtual ~Target() = default;
  // Starts one request. `done` is called once, on any thread, perhaps before this returns. Must not
  // block for the answer.
  virtual void begin(const Ticket& ticket, Done done) = 0;
};

struct DriveBounds {
  uint64_t stall_ns_max = 120'000'000'000;  // without any answer while one is awaited
  // The last part of a sleep is spent spinning: a timer's delay would count as the target's.
  uint64_t spin_ns_max = 60'000;
};

// deadlineExceeded if the target stops answering; requests are still in flight then.
base::Result<Report> drive(Plan plan, Target& target, DriveBounds bounds = {});

}  // namespace mayfly::load
