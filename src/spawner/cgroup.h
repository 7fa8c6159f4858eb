// The cgroups of one Mayfly instance: one subtree per hierarchy, found where the
// host mounts it, v2 first and v1 where a controller is only there.
//
// Every box has a v2 cgroup (kill, populated, cpu usage), even where v2 has no
// controllers, plus a v1 cgroup per controller that is only there. Cgroups are
// made before the box and removed after it, and never reused.
//
// Layer: spawner. Short blocking calls. Never logs. One thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "base/task.h"
#include "wire/spawner.h"

namespace mayfly::spawner {

// One mounted hierarchy and our subtree in it.
struct Hierarchy {
  base::Fd mount, top, dir;  // <mount>, <mount>/mayfly, <mount>/mayfly/<instance>
  std::string path;          // of the same, for messages
  bool v2 = false;
  bool cpu = false, memory = false, pids = false;  // the controllers we use here
};

class CgroupTree {
 public:
  // Finds the hierarchies, sweeps what a dead daemon of the same instance left,
  // makes the instance's folders. Needs the instance's lock to be held.
  static base::Result<CgroupTree> open(const std::string& instance);
  // The same with the mounts that `mountinfo` names (proc(5)).
  static base::Result<CgroupTree> openIn(const std::string& mountinfo, const std::string& instance);

  const std::vector<Hierarchy>& hierarchies() const { return all_; }
  const Hierarchy& v2() const { return all_.front(); }  // always there
  std::string describe() const;                         // "v2: kill; v1: cpu memory pids"
  // Removes the instance's folders; what is busy stays for the next start's sweep.
  void remove();

 private:
  std::vector<Hierarchy> all_;
  std::string instance_;
};

// A set of folders of the same name, one per hierarchy.
//
// Holds no descriptor: thousands of boxes are alive at once. The tree must outlive
// it; the destructor removes nothing.
class CgroupSet {
 public:
  CgroupSet() = default;

  // The v2 folder alone; addV1() makes the others. EEXIST is an error: we never
  // adopt a folder that we did not make.
  static base::Result<CgroupSet> createV2(const CgroupTree& tree, const std::string& name);
  base::Status addV1();
  static base::Result<CgroupSet> create(const CgroupTree& tree, const std::string& name);
  // Lets `uid` place processes into the v2 folder by CLONE_INTO_CGROUP.
  base::Status delegate(uint32_t uid);
  // Gives the v2 folder's controllers to its children.
  base::Status enableChildren();
  base::Status setMemory(uint64_t bytes);
  base::Status setProcesses(uint32_t count);
  base::Status setCpu(uint32_t milli);
  // Opens the v1 `tasks` files; whoever holds them may join by writing "0".
  base::Result<std::vector<base::Fd>> openTasks() const;
  base::Result<base::Fd> openV2() const;  // the v2 folder
  uint64_t oomKills() const;              // processes that the kernel ended for the memory cap

  // A controller's file, wherever the controller is; V2 files are those of the core.
  enum class Of : uint8_t { v2, cpu, memory, pids };
  bool isV2(Of which) const { return find(which).v2; }
  base::Result<std::string> read(Of which, const char* file) const;
  base::Status write(Of which, const char* file, std::string_view text);
  base::Result<base::Fd> open(Of which, const char* file, int flags) const;

  // Removes the folders; EBUSY leaves the rest for the next call.
  base::Status remove();
  bool removed() const { return made_ == 0; }

 private:
  base::Status add(const Hierarchy& hierarchy);
  const Hierarchy& find(Of which) const;
  const CgroupTree* tree_ = nullptr;
  std::string name_;
  size_t made_ = 0;  // folders that stand: those of the tree's first hierarchies
};

// The cgroups of one box. With v2 controllers a box is a folder with two leaves,
// `init` outside the caps and `task` under them; without, one v2 folder serves.
class BoxCgroups {
 public:
  // The v2 folders, which is all that the init needs. setCaps() makes the rest: to
  // be called before the clone is asked for. On an error remove() takes all back.
  static base::Result<BoxCgroups> create(const CgroupTree& tree, const std::string& name,
                                         uint32_t template_uid);
  base::Status setCaps(const base::Limits& limits);
  // From one set of caps to another, with processes inside.
  base::Status changeCaps(const base::Limits& from, const base::Limits& to);
  // The memory's peak begins anew at what is held now. Other peaks and counts of a
  // parked clone are 0 or 1: it forks nothing, and one that hit a cap gets no task.
  void restartPeak();
  // The cpu time of read() begins at 0 now; undo: as it began before; before: at some moment
  // since which at most so much was used.
  void restartCpu();
  void undoRestartCpu();
  void restartCpuBefore(uint64_t used_ns_max);
  base::Result<base::Fd> openInitDir() const { return (split_ ? init_ : box_).openV2(); }
  base::Result<base::Fd> openTaskDir() const { return (split_ ? task_ : box_).openV2(); }
  base::Result<std::vector<base::Fd>> openTasks() const { return box_.openTasks(); }
  base::Status kill();     // idempotent; returns before they are dead
  base::Status liftCpu();  // to all cores: for who is to die at once
  base::Result<bool> populated() const;
  void read(wire::Counters* counters) const;  // what the kernel counted so far
  uint64_t memoryBytes() const;               // charged now
  // An fd that polls when the memory cap killed something, and one for the
  // process cap; either may be absent on hosts that offer no event.
  base::Result<base::Fd> watchMemory() const;
  base::Result<base::Fd> watchProcesses() const;
  bool memoryWatchIsEventfd() const { return !capped().isV2(CgroupSet::Of::memory); }
  base::Status remove();
  bool removed() const { return box_.removed(); }

 private:
  CgroupSet& capped() { return split_ ? task_ : box_; }
  const CgroupSet& capped() const { return split_ ? task_ : box_; }
  void readCpu(uint64_t* user_ns, uint64_t* system_ns) const;
  CgroupSet box_, init_, task_;
  bool split_ = false;
  struct Cpu {
    uint64_t user_ns = 0, system_ns = 0;
  };
  Cpu base_, before_;
  // v2 resets a peak for the descriptor that asked; kernels before 6.12 not at all.
  base::Fd peak_;
};

}  // namespace mayfly::spawner
