// The audit: does the host show what the ledger knows, and nothing else of this daemon?
//
// Walks, in small steps, the instance's cgroups of every hierarchy, all processes, and the mounts
// of the host's namespace. Whatever is the daemon's and belongs to no box of the ledger is a stray;
// a box in quarantine without a cgroup is lost. Each finding is told once. Everybody may read what
// it reads: it needs no privilege, and trusts nothing that the spawner says.
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

#include "base/observer.h"
#include "base/result.h"
#include "base/task.h"
#include "reap/ledger.h"

namespace mayfly::app {

inline constexpr size_t kAuditEntriesPerStep = 16;
inline constexpr uint64_t kAuditStepPause_ms = 1;

struct AuditPlaces {
  std::vector<std::string> cgroups;  // the instance's folder in each hierarchy, v2 first
  std::string subtree;               // of that folder, as /proc/<pid>/cgroup writes it
  std::string images;                // folder
  std::string proc = "/proc";
  std::string blocks = "/sys/block";
  uint32_t uid_first = 0, uids = 0;  // of boxes, templates and the daemon
  uint32_t self = 0;                 // the daemon's pid
  uint32_t spawner = 0;              // its children outside any cgroup of ours are its helpers
};

// Where they are on this host, of a daemon that is this process.
base::Result<AuditPlaces> auditPlaces(const std::string& instance, const std::string& state_dir,
                                      uint32_t uid_slot, uint32_t spawner_pid);

class Audit {
 public:
  // `ledger` may be asked at any time; it and `observer` outlive this.
  Audit(boost::asio::io_context& io, AuditPlaces places, const reap::Ledger& ledger,
        base::Observer& observer, uint64_t period_ms);

  void start();  // the first walk at once, the next ones a period after the end of the last
  // Looks at a few entries more. False: this was a walk's last step; the next begins anew.
  bool step();

 private:
  enum class Part : uint8_t { cgroups, processes, mounts, lost };
  using Folder = std::optional<std::filesystem::directory_iterator>;

  void run();
  bool nextOf(Folder& folder, std::filesystem::directory_entry* entry);
  bool cgroupStep();
  void cgroup(const std::filesystem::directory_entry& entry);
  bool processStep();
  void process(std::string_view pid);
  bool isStray(const std::string& folder, std::string* what) const;
  void mounts();
  std::string backingFile(const std::string& source) const;
  void lost();
  void found(base::AuditFinding::Kind kind, base::BoxId box, std::string what);

  AuditPlaces places_;
  const reap::Ledger& ledger_;
  base::Observer& observer_;
  boost::asio::steady_timer timer_;
  uint64_t period_ms_;
  Part part_ = Part::cgroups;
  size_t hierarchy_ = 0;
  Folder zygotes_, boxes_, processes_;  // what is being listed
  base::AuditWalk walk_;                // what this walk looked at so far
  std::set<base::BoxId> seen_;          // boxes of the first hierarchy
  std::set<std::string> told_;          // bounded: see kToldMax
};

}  // namespace mayfly::app
