// Whether another thread of this process ran meanwhile.
//
// Layer: zygote. Allocates nothing.
#pragma once

#include <stdint.h>

namespace mayfly::zygote {

// Of all threads but the caller's. Two looks that are equal, with all asleep: none ran between
// them.
struct OtherThreads {
  bool asleep = true;     // each waits in the kernel
  uint64_t switches = 0;  // how often they gave up a processor, in all
  uint64_t count = 0;

  bool operator==(const OtherThreads&) const = default;
};

// 0 or -errno.
int lookAtOtherThreads(OtherThreads* to);

}  // namespace mayfly::zygote
