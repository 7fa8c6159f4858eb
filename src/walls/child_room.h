// The walls of a process that root has started to serve as a user of its own.
//
// Layer: walls. Called once, at start, as root and before there is a second thread.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "walls/own_root.h"

namespace mayfly::walls {

struct ChildRoom {
  uint32_t uid = 0;
  int namespaces = 0;          // CLONE_NEWNET, CLONE_NEWIPC...: new ones
  std::vector<Placed> placed;  // what is in its root; nothing: the root is empty
};

// New namespaces, own root, own uid, no capability, not dumpable, no core file, as many open files
// as the host allows; dead with its parent.
base::Status enterChildRoom(const ChildRoom& room);

}  // namespace mayfly::walls
