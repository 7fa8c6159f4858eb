// The init of a box: pid 1 of its namespaces. It sets up the walls that only root of the box can
// set up, reports, drops all rights and waits for its end.
// Runs in the maker's child, after a raw clone3: no allocation, libc only.
//
// Layer: zygote. Single-threaded.
#pragma once

#include "wire/zygote.h"

namespace mayfly::zygote {

// Never returns. `maps_fd` delivers one byte once the id maps are written; `disk_fd` is the box's
// disk, not yet mounted; the init writes one byte for the clone into `stands_fd`.
[[noreturn]] void runInit(const wire::MakeInit& make, int status_fd, int maps_fd, int disk_fd,
                          int stands_fd);

}  // namespace mayfly::zygote
