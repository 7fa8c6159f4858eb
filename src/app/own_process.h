// What this process itself uses, from descriptors that are opened while it is root: afterwards it
// may not look at itself.
//
// Layer: app. Core thread; each look is a few short reads of /proc.
#pragma once

#include <cstdint>

#include "base/fd.h"
#include "base/result.h"
#include "metrics/snapshot.h"

namespace mayfly::app {

class OwnProcess {
 public:
  static base::Result<OwnProcess> open();
  metrics::Process read() const;

 private:
  uint32_t openFds() const;

  base::Fd statm_, fds_;
  uint64_t page_bytes_ = 4'096;
  uint32_t fds_max_ = 0;
};

}  // namespace mayfly::app
