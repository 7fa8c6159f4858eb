// What the steps of one build share: the cache folders, the log, scratch folders.
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

class Workshop {
 public:
  // `progress` gets a line per step; `log_path` (may be empty) all that commands say.
  Workshop(std::string cache_dir, std::string log_path,
           std::function<void(std::string_view)> progress);
  Workshop(const Workshop&) = delete;
  ~Workshop();  // the scratch folders go

  const std::string& cacheDir() const { return cache_dir_; }
  const std::string& logPath() const { return log_path_; }
  bool logged() const { return static_cast<bool>(log_); }  // a command has run

  void say(std::string_view text);
  // runCommand, with its lines in the log; `output` gets at most 4 MiB of them.
  base::Status run(Command command, std::string* output = nullptr);
  // A new folder of root's alone, gone with this object.
  base::Result<std::string> scratch();

  std::string artifact(std::string_view sha256) const;
  bool hasArtifact(std::string_view sha256) const;  // and counts as its use
  // Takes a copy of the file; an error where its hash is another. Gives the hash.
  base::Result<std::string> keepArtifact(const std::string& file, std::string_view sha256 = {});

 private:
  void log(std::string_view line);

  std::string cache_dir_, log_path_;
  std::function<void(std::string_view)> progress_;
  base::Fd log_;
  uint64_t log_bytes_ = 0;
  std::vector<std::string> scratch_;
};

// What was downloaded and not used for long goes.
void sweepArtifacts(const std::string& cache_dir);

// "it's" as one word of a shell's.
std::string shellWord(std::string_view text);
base::Status writeText(const std::string& path, std::string_view text, unsigned mode = 0644);
// rm -rf that stays on one file system.
base::Status removeTree(const std::string& path);

}  // namespace mayfly::image
