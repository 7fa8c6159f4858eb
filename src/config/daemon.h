// The daemon's settings, with every default in one place. The daemon runs without a file.
//
// Layer: config. Pure but for loadDaemon(), which reads one file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

namespace mayfly::config {

inline constexpr size_t kDaemonFileBytesMax = 256u << 10;

// The promises of docs/SPECIFICATION.md that a setting may give up (P6).
inline constexpr std::string_view kPromises[] = {"isolation", "caps",       "secrets",
                                                 "ephemeral", "same-start", "landlock"};

// The broker's lines, in Daemon::brokerDir().
inline constexpr const char* kBrokerAuditFile = "audit.log";

// A user or group: its number, or a name that the daemon looks up at its start.
using Id = std::variant<uint32_t, std::string>;

// The HTTP server for metrics and pages.
struct Http {
  std::string listen;      // "127.0.0.1:9464"; empty: no server
  std::string token_file;  // empty: no token, which is allowed on loopback only
  uint32_t connections_max = 256;
  uint32_t tenants_max = 20;  // with figures of their own
};

struct Daemon {
  std::string instance = "default";           // its name in cgroups and in the run directory
  std::string socket_path;                    // empty: <run_dir>/<instance>.sock, see socketPath()
  std::string state_dir = "/var/lib/mayfly";  // images, shared; instances/<instance>
  std::string run_dir = "/run/mayfly";        // locks and sockets
  std::vector<std::string> template_dirs;     // empty: defaultTemplateDirs()
  std::vector<std::string> base_dirs;         // further folders for bases; not a setting
  std::vector<std::string> templates;         // to serve; empty: every one whose image is built
  uint32_t boxes_max = 0;                     // alive at once; 0: derived from the host's limits
  uint32_t ptys_max = 0;       // pseudo-terminals of all tasks; 0: derived the same way
  uint32_t queue_max = 1'024;  // waiting tasks
  uint32_t parked_max = 64;    // clones parked ahead, of all templates; 0: none
  uint32_t stocked_max = 16;   // boxes ahead of their clones, of all templates; 0: none
  uint64_t parked_memory_bytes = 512ull << 20;  // memory of both together
  std::vector<Id> uids_allowed;  // users that may connect, besides root and the daemon's own
  std::vector<Id> gids_allowed;  // groups, any member of which may connect
  uint32_t connections_max = 256;
  // Bounds on what clients make the daemon hold, named as in ServerInfo.bounds.
  uint32_t tasks_max = 4'096;            // unclosed tasks of all connections
  uint32_t detached_per_user_max = 256;  // tasks
  uint64_t detach_lease_ms_max = 86'400'000;
  uint64_t result_lease_ms = 600'000;              // of an ended task that no client closes
  uint64_t connection_idle_ms = 600'000;           // without a message and without a task
  uint64_t message_ms_max = 30'000;                // from a message's first byte to its last
  uint64_t in_flight_bytes_max = 512ull << 20;     // of requests, over all connections
  uint64_t output_held_bytes_max = 2ull << 30;     // of unclosed tasks
  uint64_t out_files_held_bytes_max = 2ull << 30;  // output files of unclosed tasks; at most an
                                                   // eighth of the host's memory
  uint64_t receipt_ms_max = 2'000;                 // before a receipt counts as incomplete
  uint64_t collect_ms_max = 5'000;                 // for collecting one task's output files
  uint64_t blob_user_bytes_max = 512ull << 20;     // blobs and uploads of one user; also one blob
  uint64_t blob_store_bytes_max = 1ull
                                  << 30;  // of all users; at most an eighth of the host's memory
  uint64_t blob_ttl_ms = 600'000;         // since a blob's last use
  uint64_t upload_idle_ms = 60'000;       // since an upload's last write
  uint64_t audit_ms = 30'000;             // between two walks over cgroups, processes and mounts
  std::string broker_policy;              // the broker's policy, a file; empty: no broker
  // At the start, as root: snapshots that are missing or damaged. false: their templates are
  // refused.
  bool make_snapshots = true;
  uint64_t slow_task_ms = 0;  // a task that takes longer gets a line; 0: none
  Http http;
  std::vector<std::string> accept_lost_promises;
  std::string log_level = "info";  // trace, debug, info, warn, error

  std::string socketPath() const;  // socket_path, or the default in run_dir
  std::string brokerDir() const;   // what its broker keeps
};

// The default folders: beside a build tree, then where packages install templates.
std::vector<std::string> defaultTemplateDirs(std::string_view executable_dir);

bool isInstanceName(std::string_view name);  // [a-z0-9][a-z0-9-]{0,31}

base::Result<Daemon> parseDaemon(std::string_view text, std::string_view file);
base::Result<Daemon> loadDaemon(const std::string& path);

}  // namespace mayfly::config
