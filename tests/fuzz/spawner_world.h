// A world for the spawner without root: its own code above, from its channels down to the system
// calls that make boxes; below, cgroups, images and disks that exist in name only, and processes
// that do nothing.
//
// The code under test is linked from the spawner's room; spawner_world.cc defines whole object
// files of that room anew (cgroup, cgroup_tree, room, collect), so the linker takes none of theirs.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "base/task.h"

namespace mayfly::fuzz {

struct Process {
  size_t number = 0;  // of World::children
  base::Fd pidfd;
};
// A child of this process that waits for its kill, or ends at once.
enum class Does : uint8_t { wait, end };
Process startProcess(Does what);

// What the processes of one zygote hold.
struct ZygoteEnds {
  base::Fd maker, source, pid1;  // their ends of the channels
  size_t maker_process = 0, source_process = 0, pid1_process = 0;
};

struct World {
  std::map<uint32_t, ZygoteEnds> zygotes;             // by the spawner's key
  std::map<base::BoxId, std::vector<size_t>> of_box;  // a kill of its cgroup kills these
  std::map<base::BoxId, base::Fd> cap_events;  // a write: the kernel killed at the memory cap
  std::vector<base::Fd> children;              // a pidfd of each process made
  std::vector<std::unique_ptr<char[]>> stacks;
  uint32_t busy = 0;  // so many removals of cgroups fail first
};
World& world();
void killProcess(size_t number);

}  // namespace mayfly::fuzz
