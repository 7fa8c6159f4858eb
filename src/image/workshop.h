// The things that the steps of one build share: the cache folders, the log, scratch folders.
//
//   artifacts/<sha256>   a downloaded package, whatever its kind; its time is its last use
//
// Layer: image, internal to it. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "image/command.h"

namespace mayfly::image {

inline constexpr uint32_t kShortSecondsMax = 300;   // a command that neither downloads nor installs
inline constexpr uint32_t kLockSecondsMax = 1'800;  // waiting for another build

class Workshop {
 public:
  // `progress` gets a line per step; `log_path` (may be empty) gets all output of commands.
  Workshop(std::string cache_dir, std::string log_path,
           std::function<void(std::string_view)> progress);
  Workshop(const Workshop&) = delete;
  ~Workshop();  // removes the scratch folders

  const std::string& cacheDir() const { return cache_dir_; }
  const std::string& logPath() const { return log_path_; }
  bool logged() const { return static_cast<bool>(log_); }  // a command has run

  void say(std::string_view text);
  // Like runCommand, with its lines in the log; `output` gets at most 4 MiB of them.
  base::Status run(Command command, std::string* output = nullptr);
  // A new folder that only root may enter; removed with this object.
  base::Result<std::string> scratch();

  std::string artifact(std::string_view sha256) const;
  bool hasArtifact(std::string_view sha256) const;  // also counts as a use
  // Copies the file into the store and returns its hash; an error if the hash is not `sha256`.
  base::Result<std::string> keepArtifact(const std::string& file, std::string_view sha256 = {});

 private:
  void log(std::string_view line);

  std::string cache_dir_, log_path_;
  std::function<void(std::string_view)> progress_;
  base::Fd log_;
  uint64_t log_bytes_ = 0;
  std::vector<std::string> scratch_;
};

// Removes downloads that were unused for long.
void sweepArtifacts(const std::string& cache_dir);

// Quotes a text as one word of a shell: "it's".
std::string shellWord(std::string_view text);
base::Status writeText(const std::string& path, std::string_view text, unsigned mode = 0644);
// Like rm -rf, but stays on one file system.
base::Status removeTree(const std::string& path);

}  // namespace mayfly::image
