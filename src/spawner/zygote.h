// One zygote and its surroundings: an image, namespaces with their pid 1, the maker of inits, the
// source of clones. All processes are children of the spawner, and root of the zygote's user
// namespace only.
//
// Every step of its start and end returns at once; slow work is done by a process whose descriptor
// the loop watches (zygotes.h).
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

// The pairs of ids for a zygote's boxes. No two living boxes share a pair, and a freed pair goes to
// the end of the queue.
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
  startingZygote,  // each: a child is about to exec
  loading,         // the source's first message is awaited, for as long as mayflyd waits
  serving,
  dying,     // a process closed its channel; its end is awaited
  draining,  // makes no more boxes; some still live
  ending,    // no box lives; its processes are killed, their ends awaited
  unmounting,
  removing,  // its cgroups are being removed
};
inline bool isStarting(ZygoteStage stage) { return stage <= ZygoteStage::startingZygote; }

struct Zygote {
  base::ZygoteId id = 0;  // mayflyd's number
  uint32_t key = 0;       // the spawner's number; never reused
  uint32_t slot = 0;      // of its uid range
  uint32_t uid_base = 0;
  bool loopback = true;
  bool doors = false;
  uint32_t ptys = 0;  // of each box
  // Behind the source of clones: the template's program, or mayfly-restorer in one of its roles.
  enum class Made : uint8_t { byFork, byRestore, forDump } made = Made::byFork;
  ZygoteStage stage = ZygoteStage::mounting;
  ImageMount image_mount = ImageMount::file;
  CgroupSet cgroup, maker_cgroup, zygote_cgroup;
  base::Fd pid1, maker, zygote;  // pidfds; empty once reaped
  // Keys of these and of the boxes' inits and clones, so that no process is passed twice.
  std::unordered_set<uint64_t> processes;
  base::Fd pid1_channel, maker_channel;
  // The snapshot's folder as mayflyd passed it, whose flock is the lease: it stays here until no
  // process of the zygote and its boxes is left, and whoever restores gets a descriptor without it.
  base::Fd lease;
  std::unique_ptr<CloneSource> source;
  uint64_t memory_bytes = 0;  // the zygote's own part of its cap
  uint32_t cap_boxes = 0;     // the number of boxes that the cap is made for
  UidPairs uids;
  uint32_t boxes = 0;  // that still hold a part of it

  // While it starts: mayflyd's request, and the one child before its exec.
  struct Start {
    wire::Request request;
    base::Fd seccomp, log, snapshot;
    base::Fd report;
  };
  std::unique_ptr<Start> start;
  base::Fd helper, helper_said;

  // The first cause why it does not serve. mayflyd hears it once nothing is left of the zygote.
  struct Failure {
    std::string step;
    base::Error error;
  };
  std::optional<Failure> failure;
  bool told = false;         // mayflyd knows that it does not serve, or no longer serves
  uint64_t deadline_ns = 0;  // of the stage; 0: none
  uint64_t next_try_ns = 0;

  // Of its cgroups; the audit knows its image by it.
  std::string name() const { return "t" + std::to_string(key); }
  std::string imagePath() const { return "/img/" + name(); }
};

base::Status makeCgroups(const CgroupTree& tree, Zygote& z);

// Starts pid 1, the maker or the zygote, depending on the stage. The child is stored in `z` as soon
// as it exists, whatever fails after that. start->report ends with the child's exec.
base::Status startProcess(const Room& room, Zygote& z, std::string* step);
// The child's last message before its exec; the exec ends the report without a message. Never
// blocks.
enum class StartWord : uint8_t { none, executed, failed };
StartWord readReport(const Zygote& z, Zygote::Failure* failure);
const char* nameOfStarted(ZygoteStage stage);

// Kills maker and zygote; `all` kills pid 1, too, with everything in its namespaces, and so every
// box.
enum class Kill : uint8_t { helpers, all };
void killProcesses(Zygote& z, Kill what);
// The kernel charges a fork's memory (page tables, the process itself) to the process that forks,
// so the zygote's cap grows with the number of living boxes.
base::Status fitZygoteCap(Zygote& z);
// Whether it can make boxes: it serves, and none of its processes has ended.
bool isServing(const Zygote& z);
// A cgroup stays busy for a moment after its last process was reaped. After EBUSY, call it again.
base::Status removeCgroups(Zygote& z);

}  // namespace mayfly::spawner
