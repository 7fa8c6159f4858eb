// One zygote with all that stands around it: an image, namespaces with their pid 1, the maker
// of inits, the source of clones. All processes are children of the spawner's and root of the
// zygote's user namespace only.
//
// Every step of its start and end returns at once; what takes its time is a process whose
// descriptor the loop watches (zygotes.h).
//
// Layer: spawner. Short calls that never block.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>

#include "base/fd.h"
#include "base/result.h"
#include "spawner/cgroup.h"
#include "spawner/clone_source.h"
#include "spawner/room.h"
#include "wire/spawner.h"

namespace mayfly::spawner {

// The pairs of ids of a zygote's boxes: no living box shares one, and a freed pair is the last
// to be used again.
class UidPairs {
 public:
  UidPairs();
  bool take(uint32_t* first);  // ids first (the task) and first + 1 (its root), within the range
  void give(uint32_t first);

 private:
  std::deque<uint32_t> free_;
};

enum class ZygoteStage : uint8_t {
  mounting,  // a helper mounts the image
  startingPid1,
  startingMaker,
  startingZygote,  // each: a child is on its way to its exec
  loading,         // the source's first word is awaited, as long as mayflyd does
  serving,
  dying,     // a process closed its channel; its end is awaited
  draining,  // makes no box any more; some still live
  ending,    // no box lives; its processes are killed, their ends awaited
  unmounting,
  removing,  // its cgroups go
};
inline bool isStarting(ZygoteStage stage) { return stage <= ZygoteStage::startingZygote; }

struct Zygote {
  base::ZygoteId id = 0;  // mayflyd's
  uint32_t key = 0;       // ours; never used twice
  uint32_t slot = 0;      // of its uid range and its image's mount point
  uint32_t uid_base = 0;
  bool loopback = true;
  uint32_t ptys = 0;  // of each box
  ZygoteStage stage = ZygoteStage::mounting;
  ImageMount image_mount = ImageMount::file;
  CgroupSet cgroup, maker_cgroup, zygote_cgroup;
  base::Fd pid1, maker, zygote;  // pidfds; empty once reaped
  // Keys of these and of the boxes' inits and clones: nobody passes a process twice.
  std::unordered_set<uint64_t> processes;
  base::Fd pid1_channel, maker_channel;
  std::unique_ptr<CloneSource> source;
  uint64_t memory_bytes = 0;  // cap of the zygote's own
  uint32_t cap_boxes = 0;     // so many boxes that cap is made for
  UidPairs uids;
  uint32_t boxes = 0;  // that still hold something of it

  // While it starts: what mayflyd asked for, and the one child before its exec.
  struct Start {
    wire::Request request;
    base::Fd seccomp, log;
    base::Fd report;
  };
  std::unique_ptr<Start> start;
  base::Fd helper, helper_said;

  // Why it is not served: the first cause. mayflyd hears it once nothing is left of the zygote.
  struct Failure {
    std::string step;
    base::Error error;
  };
  std::optional<Failure> failure;
  bool told = false;         // mayflyd knows that it does not serve (any more)
  uint64_t deadline_ns = 0;  // of the stage; 0: none
  uint64_t next_try_ns = 0;

  std::string imagePath() const { return "/img/" + std::to_string(slot); }
};

base::Status makeCgroups(const CgroupTree& tree, Zygote& z);

// Starts pid 1, the maker or the zygote, as the stage says. The child is in its place in `z` as
// soon as it exists, whatever fails after that. start->report ends with its exec.
base::Status startProcess(const Room& room, Zygote& z, std::string* step);
// The last word of the child before its exec, which ends the report without one. Never blocks.
enum class StartWord : uint8_t { none, executed, failed };
StartWord readReport(const Zygote& z, Zygote::Failure* failure);
const char* nameOfStarted(ZygoteStage stage);

// Kills maker and zygote; with pid 1 everything in its namespaces, and so every box.
enum class Kill : uint8_t { helpers, all };
void killProcesses(Zygote& z, Kill what);
// A fork's part of the kernel's memory (page tables, the process itself) is charged to who
// forks: the cap of the zygote's own grows with the boxes that live.
base::Status fitZygoteCap(Zygote& z);
// Whether it can make boxes: it serves, and none of its processes has ended.
bool isServing(const Zygote& z);
// A cgroup stays busy for a moment after its last process was reaped: EBUSY, to be tried again.
base::Status removeCgroups(Zygote& z);

}  // namespace mayfly::spawner
