// The images of a state directory: which exist, which belongs to a template, and whether it is in
// use.
//
//   images/<sha256>.erofs   an image, never changed; its flock is its lease
//   index/<template>.json   the template's image, and its inputs
//   build.lock              held while an image is built or removed
//
// Layer: image. Short blocking calls; safe between processes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::image {

// A library that a file of an image needs and the image lacks.
struct Missing {
  std::string library;  // "libstdc++.so.6"
  std::string version;  // that the image's library lacks, "GLIBC_2.42"; empty: there is no library
  std::string file;     // the first that needs it, in the image
  uint32_t files = 1;   // that need it
  std::string package;  // Debian's package of it; empty: not known
  bool operator==(const Missing&) const = default;
};
// "'/x.so' and 3 more need libstdc++.so.6, ...", with the remedy.
std::string missingText(const Missing& missing);

struct ImageInfo {
  std::string template_name;  // empty: no template has it any more
  std::string digest;         // 64 hex digits
  std::string inputs_key;     // hash of all its inputs
  uint64_t bytes = 0;
  uint64_t built_unix_s = 0;
  bool in_use = false;                // leased
  std::string runtime_key;            // hash of Mayfly's own programs in it
  std::vector<Missing> missing = {};  // as its build found
};

bool isDigest(std::string_view text);
std::string imagePath(const std::string& state_dir, std::string_view digest);

// The image of a template; Code::notFound, with advice, if none is built.
base::Result<ImageInfo> findImage(const std::string& state_dir, std::string_view template_name);
// All images, by template name; images without a template come last.
base::Result<std::vector<ImageInfo>> listImages(const std::string& state_dir);
// Makes `info` the template's image. The caller holds the build lock.
base::Status publishImage(const std::string& state_dir, const ImageInfo& info);
// Removes a template's image, or one by its digest. Refused while it is leased.
base::Status removeImage(const std::string& state_dir, std::string_view template_name_or_digest);
// Removes, or only lists, the images of templates that are not among `kept_names` and of no
// template at all, unless a daemon uses them, and the indexes of such templates. Waits for a
// running build.
enum class PruneMode : uint8_t { remove, dryRun };
struct Pruned {
  std::vector<ImageInfo> images;
  std::vector<ImageInfo> in_use;  // that only a daemon keeps
  uint64_t bytes = 0;             // of `images`
};
base::Result<Pruned> pruneImages(const std::string& state_dir,
                                 const std::vector<std::string>& kept_names, PruneMode mode);
// Removes every image that has neither a template nor a lease, and the leftovers of killed builds.
// The caller holds the build lock.
base::Status sweepImages(const std::string& state_dir);

// An image in use: no process can remove it while this lives.
class Lease {
 public:
  static base::Result<Lease> take(const std::string& state_dir, std::string_view digest);
  base::FdView fd() const { return fd_.view(); }  // the image file, read-only
  const std::string& digest() const { return digest_; }

 private:
  Lease(base::Fd fd, std::string_view digest) : fd_(std::move(fd)), digest_(digest) {}
  // Invariant: fd_ holds a shared flock on a file that is still in the directory.
  base::Fd fd_;
  std::string digest_;
};

// Reads the whole image into the page cache, charged to the caller's cgroup, so that no task pays
// for it. Blocks until done; `bytes_max` is a bound.
base::Status readAhead(base::FdView image, uint64_t bytes_max = 4ull << 30);

// Makes the file if needed and takes an exclusive flock. Waits at most `seconds_max`.
base::Result<base::Fd> lockFile(const std::string& path, uint32_t seconds_max);
// mkdir -p with mode 0755.
base::Status makeFolders(const std::string& path);

}  // namespace mayfly::image
