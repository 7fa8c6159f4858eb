// The front's own walls: the system calls that serving takes, and no file, process or core.
//
// Layer: front. Called once, by the only thread.
#pragma once

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::front {

// To the hard limit: descriptors are what doors and connections cost.
base::Status raiseOpenFiles();
// When the loop has its descriptors, and before the first byte of a box is read. Lines about refused
// calls go to `log`.
base::Status putUpWalls(base::FdView log);

}  // namespace mayfly::front
