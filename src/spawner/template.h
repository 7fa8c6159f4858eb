// A template's processes: pid 1, which holds its namespaces, the maker and the
// zygote. All are children of the spawner's and root of the template's user
// namespace only.
//
// Layer: spawner. Publishing blocks for some milliseconds (bounded); the
// zygote's preloading is waited for by the event loop.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "spawner/cgroup.h"
#include "spawner/room.h"
#include "wire/spawner.h"

namespace mayfly::spawner {

using namespace wire;

// The pairs of ids of a template's boxes: no living box shares one, and a freed
// pair is the last to be used again.
class UidPairs {
 public:
  UidPairs();
  bool take(uint32_t* first);  // ids first (the task) and first + 1 (its root), within the
                               // template's range
  void give(uint32_t first);

 private:
  std::deque<uint32_t> free_;
};

struct Template {
  base::ZygoteId id = 0;  // mayflyd's
  uint32_t key = 0;       // ours; never used twice
  uint32_t slot = 0;      // of its uid range and its image's mount point
  uint32_t uid_base = 0;
  bool loopback = true;
  uint32_t ptys = 0;  // of each box
  ImageMount image_mount = ImageMount::file;
  CgroupSet cgroup, maker_cgroup, zygote_cgroup;
  base::Fd pid1, maker, zygote;  // pidfds; empty once reaped
  base::Fd pid1_channel, maker_channel, zygote_channel;
  bool ready = false;     // the zygote said hello
  bool retiring = false;  // no new boxes; mayflyd knows, or is told at the end
  bool told_gone = false;
  uint64_t zygote_memory_bytes = 0;
  uint32_t cap_boxes = 0;  // so many boxes its zygote's memory cap is made for
  UidPairs uids;
  uint32_t boxes = 0;            // that still hold something of it
  uint64_t end_deadline_ns = 0;  // not 0: no box is left, and its own end is awaited

  std::string imagePath() const { return "/img/" + std::to_string(slot); }
};

// Mounts the image, makes the namespaces, starts pid 1, maker and zygote. On
// failure nothing is left. `step` names what failed.
base::Result<std::unique_ptr<Template>> publishTemplate(const Room& room, const CgroupTree& tree,
                                                        const Request& request, uint32_t key,
                                                        uint32_t slot, uint32_t uid_base,
                                                        base::FdView seccomp, base::FdView log,
                                                        std::string* step);

// Kills and reaps maker and zygote (bounded); with `pid1` also sends pid 1 its
// end, and so every box. Its own reaping waits for theirs.
void killTemplate(Template& t, bool pid1);
// A fork's part of the kernel's memory (page tables, the process itself) is charged to who
// forks: the cap of the zygote's own grows with the boxes that live.
base::Status fitZygoteCap(Template& t);
// Whether it can make boxes: none of its processes has ended.
bool isServing(const Template& t);
// Once pid 1 is reaped: unmounts the image, removes the cgroups. A cgroup stays busy
// for a moment after its last process was reaped: EBUSY then, and to be tried again.
base::Status removeTemplate(Template& t);

}  // namespace mayfly::spawner
