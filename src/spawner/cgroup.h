// The cgroups of one Mayfly instance: one subtree per hierarchy, at the host's mount points; v2
// where it has the controller, else v1.
//
// Every box has a v2 cgroup (kill, populated, cpu usage), even if v2 has no controllers, and a v1
// cgroup for each controller that only v1 has. Cgroups are made before the box and removed after
// it, and never reused.
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
  // Finds the hierarchies, removes what a dead daemon of the same instance left, and makes the
  // instance's folders. The caller holds the instance's lock.
  static base::Result<CgroupTree> open(const std::string& instance);
  // The same with the mounts that `mountinfo` names (proc(5)).
  static base::Result<CgroupTree> openIn(const std::string& mountinfo, const std::string& instance);

  const std::vector<Hierarchy>& hierarchies() const { return all_; }
  const Hierarchy& v2() const { return all_.front(); }  // always there
  std::string describe() const;                         // "v2: kill; v1: cpu memory pids"
  // Moves this process into a v2 folder of the instance's. Returns the instance's `cgroup.kill`:
  // who has it can kill this process with all that it made, even if this one is stopped.
  base::Result<base::Fd> enter();
  // Leaves it and removes the instance's folders; a busy one stays for the next start to remove.
  void remove();

 private:
  std::vector<Hierarchy> all_;
  std::string instance_;
  bool entered_ = false;
};

// A set of folders of the same name, one per hierarchy.
//
// Holds no descriptor, because thousands of boxes live at once. The tree must outlive it; the
// destructor removes nothing.
class CgroupSet {
 public:
  CgroupSet() = default;

  // Makes the v2 folder alone; addV1() makes the others. EEXIST is an error: a folder that somebody
  // else made is never adopted.
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
  // Opens the v1 `tasks` files; their holder may join by writing "0".
  base::Result<std::vector<base::Fd>> openTasks() const;
  base::Result<base::Fd> openV2() const;  // the v2 folder
  uint64_t oomKills() const;              // processes that the kernel killed at the memory cap

  // A controller's file, in whichever hierarchy has the controller; `v2` is for the core files.
  enum class Of : uint8_t { v2, cpu, memory, pids };
  bool isV2(Of which) const { return find(which).v2; }
  base::Result<std::string> read(Of which, const char* file) const;
  base::Status write(Of which, const char* file, std::string_view text);
  base::Result<base::Fd> open(Of which, const char* file, int flags) const;

  // Removes the folders; after EBUSY, the next call removes the rest.
  base::Status remove();
  bool removed() const { return made_ == 0; }

 private:
  base::Status add(const Hierarchy& hierarchy);
  const Hierarchy& find(Of which) const;
  const CgroupTree* tree_ = nullptr;
  std::string name_;
  size_t made_ = 0;  // folders that exist: in the first hierarchies of the tree
};

// The cgroups of one box. With v2 controllers, a box is a folder with two leaves: `init` outside
// the caps, and `task` under them. Without them it is one v2 folder.
class BoxCgroups {
 public:
  // Makes the v2 folders, which suffice for the init. setCaps() makes the rest; call it before
  // asking for the clone. After an error, remove() undoes everything.
  static base::Result<BoxCgroups> create(const CgroupTree& tree, const std::string& name,
                                         uint32_t template_uid);
  base::Status setCaps(const base::Limits& limits);
  // Replaces one set of caps by another while processes are inside.
  base::Status changeCaps(const base::Limits& from, const base::Limits& to);
  // Restarts the memory's peak at the present usage. Other peaks and counts of a parked clone are 0
  // or 1: it does not fork, and a clone that hit a cap gets no task.
  void restartPeak();
  // restartCpu() restarts the cpu time of read() at 0; undoRestartCpu() takes that back;
  // restartCpuBefore() restarts it at an earlier moment, since which at most `used_ns_max` was
  // used.
  void restartCpu();
  void undoRestartCpu();
  void restartCpuBefore(uint64_t used_ns_max);
  base::Result<base::Fd> openInitDir() const { return (split_ ? init_ : box_).openV2(); }
  base::Result<base::Fd> openTaskDir() const { return (split_ ? task_ : box_).openV2(); }
  base::Result<std::vector<base::Fd>> openTasks() const { return box_.openTasks(); }
  base::Status kill();     // idempotent; returns before they are dead
  base::Status liftCpu();  // raised to all cores, for a box that has to die at once
  base::Result<bool> populated() const;
  void read(wire::Counters* counters) const;  // what the kernel counted so far
  uint64_t memoryBytes() const;               // charged now
  // A descriptor that polls when the memory cap killed a process, and one for the process cap.
  // Either is absent if the host offers no such event.
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
  // v2 resets a peak only for the descriptor that asked for it; kernels before 6.12 do not at all.
  base::Fd peak_;
};

}  // namespace mayfly::spawner
