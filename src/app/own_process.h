// What this process itself uses, from descriptors that are opened while it is root: afterwards it
// may not look at itself. And the processor time of the spawner, which has a clock for it.
//
// Layer: app. Core thread; each look is a few short reads of /proc.
#pragma once

#include <time.h>

#include <cstdint>

#include "base/fd.h"
#include "base/result.h"
#include "metrics/snapshot.h"

namespace mayfly::app {

class OwnProcess {
 public:
  // `spawner`: its pid, which is its own as long as nobody reaps it.
  static base::Result<OwnProcess> open(int spawner);
  metrics::Process read();

 private:
  uint32_t openFds() const;

  base::Fd statm_, fds_;
  uint64_t page_bytes_ = 4'096;
  uint32_t fds_max_ = 0;
  clockid_t spawner_clock_ = 0;
  double spawner_cpu_s_ = 0;  // the last that was read: a dead spawner has no clock
};

}  // namespace mayfly::app
