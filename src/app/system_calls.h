// The allow-list of the daemon's system calls, in force from the moment at which it serves.
//
// Layer: app. Called once, by the only thread.
#pragma once

#include <span>

#include "base/fd.h"
#include "base/result.h"
#include "walls/call_list.h"

namespace mayfly::app {

// The daemon's own part of its list; walls::endingCalls() is the other.
std::span<const walls::KnownCall> knownCalls();

// See walls::allowOnly.
base::Status allowOnlyServing(base::FdView log);

}  // namespace mayfly::app
