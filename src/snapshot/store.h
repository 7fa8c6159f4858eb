// The snapshots of a state directory: dumped zygotes, each named by all that it depends on.
//
//   snapshots/<key>/snapshot.json   what it was made of, and the checksum of each file
//   snapshots/<key>/*               criu's images and our own (src/zygote/snapshot.h)
//   snapshots/.new-<pid>/           one that is being made
//   snapshots/.old-<key>-<pid>/     one that was replaced while a daemon served it
//   snapshots/build.lock            held while one is made or removed
//
// Only root enters `snapshots`, so a descriptor of one snapshot leads nowhere else: not to its
// parent either.
//
// A key that differs names another snapshot, so an old one is never used by mistake. One is
// published by a rename, with everything in it, and never changed. Its lease is a flock on its
// folder.
//
// Layer: snapshot. Short blocking calls but for checksums. Safe between processes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "config/manifest.h"
#include "image/store.h"

namespace mayfly::snapshot {

inline constexpr uint64_t kBytesMax = 16ull << 30;     // of one snapshot
inline constexpr size_t kFilesMax = 4'096;             // the same
inline constexpr char kCriuPath[] = "/usr/sbin/criu";  // in an image, as zygote/snapshot.h has it

struct File {
  std::string name;
  uint64_t bytes = 0;
  std::string sha256;
  bool operator==(const File&) const = default;
};

struct Info {
  std::string key;  // 64 hex digits
  std::string template_name;
  std::string image_digest;
  std::string kernel;  // for people
  uint64_t built_unix_s = 0;
  uint64_t built_ms = 0;    // how long it took, trial included
  std::vector<File> files;  // sorted by name
  bool in_use = false;      // leased

  uint64_t bytes() const;
  uint32_t threads() const;  // of the dumped process: criu writes a file for each
  // What a clone takes before its task runs: a task with a lower cap is refused. The kernel's own
  // count of a clone's memory is no measure, because it holds pages of files, too.
  uint64_t memoryLeast() const;
  uint32_t processesLeast() const;
};

// What of this host a snapshot depends on: kernel, boot (its clocks), processor.
struct Host {
  std::string kernel, boot_id, processor;
};
base::Result<Host> thisHost();

// The key of the template's snapshot on that host. `seccomp`: the bytes of its program.
std::string keyOf(const config::Manifest& manifest, const image::ImageInfo& image,
                  std::string_view seccomp, const Host& host);

std::string folderOf(const std::string& state_dir, std::string_view key);

// notFound, with advice, if there is none.
base::Result<Info> find(const std::string& state_dir, std::string_view template_name,
                        std::string_view key);
// By template, the newest first. A folder without a readable snapshot.json has only its key.
base::Result<std::vector<Info>> list(const std::string& state_dir);

// Whether every file is there, with its size and checksum, and no other.
base::Status verify(base::FdView folder, const Info& info);

// A snapshot in use: no process can remove it while the descriptor, or a copy of it, is open.
base::Result<base::Fd> open(const std::string& state_dir, const Info& info);
// One more lease of it, for another process: neither can end the other's.
base::Result<base::Fd> leaseAgain(base::FdView folder);

// Gives all files of a candidate to root, readable for everybody: a box's root reads them, by a
// descriptor of the folder. From then on nobody else can change them.
base::Status close(base::FdView folder);
// Reads the files of a closed candidate, writes snapshot.json, and gives the folder its name. The
// caller holds the build lock. Replaces a snapshot of the same key; whoever serves that keeps it.
base::Status publish(const std::string& state_dir, const std::string& folder, Info info);

// By key, or all of a template. Refused while it is leased. Returns how many were removed.
base::Result<size_t> remove(const std::string& state_dir, std::string_view template_name_or_key);
// Removes what sweep() does, again and again until no process uses an older snapshot of the
// template, or the time is over, also if others hold the lock. Returns how many are still in use.
base::Result<size_t> sweepUnused(const std::string& state_dir, const Info& kept, uint64_t ms_max);
// Removes the leftovers of killed builds, replaced snapshots, and the template's snapshots but
// `kept_key`, all of them only if nobody uses them. The caller holds the build lock.
void sweep(const std::string& state_dir, std::string_view template_name, std::string_view kept_key);

// criu's version, as the dump left it in the folder: "4.1.1"; empty if it is not there.
std::string criuVersion(base::FdView folder);

base::Result<base::Fd> lock(const std::string& state_dir);
// A new empty folder beside the snapshots, in which anybody who has a descriptor of it may make
// files: the dump's user is known to the spawner alone.
base::Result<std::string> makeCandidate(const std::string& state_dir);
base::Status removeFolder(const std::string& path);

}  // namespace mayfly::snapshot
