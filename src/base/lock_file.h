// A file for flock().
//
// Layer: base. Short blocking calls.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::base {

// Made where there is none. Only its owner may open it: whoever can, can hold the lock.
Result<Fd> openLockFile(const std::string& path);

}  // namespace mayfly::base
