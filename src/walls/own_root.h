// A process's view of the host's files: an empty root with a few folders.
//
// Layer: walls. Called once, at start, as root and before there is a second thread.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/result.h"

namespace mayfly::walls {

// Moves this process into a mount namespace of its own, whose root holds nothing but the folders of
// `kept`, at their paths, read-only and without what is mounted below them. A folder that does not
// exist is left out. Open descriptors stay as they are.
base::Status enterOwnRoot(const std::set<std::string>& kept);

// A folder of the host's at another place of the new root.
struct Placed {
  std::string folder, place;  // absolute
  bool writable = false;
};
base::Status enterOwnRoot(const std::set<std::string>& kept, const std::vector<Placed>& placed);

}  // namespace mayfly::walls
