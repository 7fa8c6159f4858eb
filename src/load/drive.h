// Executes a Run: sends its requests to a target when they are due and passes the answers back, on
// the calling thread.
//
// Layer: load. Blocks until the run is over. Answers may come on any thread.
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
  // Asked now and then: true ends the run early. What is in flight is awaited for a while.
  std::function<bool()> stopped = {};
  uint64_t last_answers_ns_max = 2'000'000'000;
  // Gets each end on the driving thread. `recorded`: not of the warm-up.
  std::function<void(const Ticket&, const Outcome&, bool recorded)> heard = {};
};

// deadlineExceeded if the target stops answering; requests are still in flight then. A run that was
// stopped returns its report; its `unfinished` requests may be in flight.
base::Result<Report> drive(Plan plan, Target& target, DriveBounds bounds = {});

}  // namespace mayfly::load
