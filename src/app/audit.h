// The audit: compares the host with the ledger, and reports whatever of this daemon one side lacks.
//
// Walks, in small steps, the instance's cgroups of every hierarchy, all processes, and the mounts
// of two namespaces: the host's, which has none of the daemon's, and the spawner's, which has a
// fixed set and an image for each zygote's cgroup. A thing of the daemon's that belongs to no box
// of the ledger is a stray; a box in quarantine without a cgroup is lost. Each finding is reported
// once. The audit needs no privilege once its places are open, and it trusts no message of the
// spawner. Once the spawner has ended, its remains are being removed, and nothing is found any
// more.
//
// Layer: app. Core thread; each step is a short read of virtual file systems.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/observer.h"
#include "base/result.h"
#include "base/task.h"
#include "reap/ledger.h"

namespace mayfly::app {

inline constexpr size_t kAuditEntriesPerStep = 16;
inline constexpr uint64_t kAuditStepPause_ms = 1;

struct AuditPlaces {
  std::vector<std::string> hierarchies;  // the cgroup file systems, v2 first
  std::vector<std::string> cgroups;      // the instance's folder in each hierarchy, v2 first
  std::string subtree;                   // the path of that folder in /proc/<pid>/cgroup
  std::string images;                    // folder
  std::string proc = "/proc";
  std::string blocks = "/sys/block";
  base::Fd host_mounts, spawner_mounts;  // each namespace's mountinfo
  uint32_t uid_first = 0, uids = 0;      // the daemon's range: boxes, templates and itself
  uint32_t self = 0;                     // the daemon's pid
  uint32_t spawner = 0;                  // its children outside our cgroups are its helpers
  uint32_t broker = 0;        // its supervisor; 0: there is none. Its children are its own
  uint32_t commands_uid = 0;  // of programs that print secrets, and of their children

  std::set<std::string> folders() const;  // that the audit reads
};

// The places on this host, for a daemon that is this process, is still root, and has not left the
// host's mount namespace; the spawner has entered its own.
base::Result<AuditPlaces> auditPlaces(const std::string& instance, const std::string& state_dir,
                                      uint32_t uid_slot, uint32_t spawner_pid);

class Audit {
 public:
  // `ledger` and `observer` outlive the audit, which may read the ledger at any time.
  Audit(boost::asio::io_context& io, AuditPlaces places, const reap::Ledger& ledger,
        base::Observer& observer, uint64_t period_ms);

  // Once the spawner has removed what an earlier daemon left. The first walk starts at once, each
  // next one a period after the last one's end.
  void start();
  void stop();  // for good
  // Looks at a few more entries. False: that was the walk's last step; the next step starts a new
  // walk.
  bool step();

 private:
  enum class Part : uint8_t { cgroups, processes, hostMounts, spawnerMounts, lost };
  struct Mount;
  using Folder = std::optional<std::filesystem::directory_iterator>;

  void run();
  bool nextOf(Folder& folder, std::filesystem::directory_entry* entry);
  bool cgroupStep();
  void cgroup(const std::filesystem::directory_entry& entry);
  bool processStep();
  void process(std::string_view pid);
  bool isStray(const std::string& folder, std::string* what) const;
  bool mountStep(base::FdView mountinfo);
  bool nextMount(base::FdView mountinfo, std::string* line);
  void hostMount(const Mount& mount);
  void spawnerMount(const Mount& mount);
  bool belongsToRoom(const Mount& mount);
  std::string backingFile(const std::string& source) const;
  void lost();
  bool spawnerLives() const;
  void found(base::AuditFinding::Kind kind, base::BoxId box, std::string what);

  AuditPlaces places_;
  const reap::Ledger& ledger_;
  base::Observer& observer_;
  boost::asio::steady_timer timer_;
  uint64_t period_ms_;
  bool stopped_ = false;
  Part part_ = Part::cgroups;
  size_t hierarchy_ = 0;
  Folder zygotes_, boxes_, processes_;      // being listed
  std::optional<std::string> mounts_;       // read of the list, but not yet looked at
  std::set<std::string> points_;            // the spawner's mount points of this walk
  std::set<std::string> odd_, odd_before_;  // its mounts that belong to nothing; of the last walk
  base::AuditWalk walk_;                    // this walk's counts so far
  std::set<base::BoxId> seen_;              // boxes of the first hierarchy
  std::set<std::string> told_;              // reported findings; at most kToldMax
};

}  // namespace mayfly::app
