// The daemon's view of the host's files: an empty root with a few read-only folders.
//
// Layer: app. Called once, at start, as root and before there is a second thread.
#pragma once

#include <set>
#include <string>

#include "base/result.h"

namespace mayfly::app {

// Moves this process into a mount namespace of its own, whose root holds nothing but the folders of
// `kept`, at their paths, read-only and without what is mounted below them. A folder that does not
// exist is left out. Open descriptors stay as they are.
base::Status enterOwnRoot(const std::set<std::string>& kept);

}  // namespace mayfly::app
