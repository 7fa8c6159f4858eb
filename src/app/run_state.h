// What an instance of the daemon keeps across its runs: the folder
// <state_dir>/instances/<instance>, root's alone, with
//
//   ids    the key of the task ids, and the first block of ids that nobody has had
//   keys   the keys of detached tasks: rpc/kept_keys.h
//
// Layer: app. Opened as root at the start; the daemon that dropped root holds the files open.
// Short blocking calls.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/fd.h"
#include "base/result.h"
#include "sched/task_ids.h"

namespace mayfly::app {

struct RunState {
  base::Fd folder;   // locked: one daemon at a time has it
  std::string path;  // its
};
// Makes the folder if needed.
base::Result<RunState> lockRunState(const std::string& state_dir, const std::string& instance);

// The file `ids`: 1,536 bytes.
//
//   0      "MFLYIDS1", the key, and the sum of both
//   512    slot 0: the next block and its sum, keyed; alone in its sector
//   1024   slot 1
//
// A reservation writes the slot that holds the lower number, and the disk has it before the first
// id of the block is given. A torn write leaves the other slot; the next reservation then skips the
// block that may have been lost. A file of any other kind is an error: it is never guessed at.
class IdFile {
 public:
  // Made with a new key if it does not exist; then it is whole or not there.
  static base::Result<IdFile> open(const RunState& state);

  const sched::IdKey& key() const { return key_; }
  base::Result<uint64_t> reserve();  // the number of a block that nobody has had

 private:
  IdFile(base::Fd file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}
  base::Status load();

  base::Fd file_;
  std::string path_;
  sched::IdKey key_{};
  uint64_t next_ = 0;
  int slot_ = 0;  // to write next
};

}  // namespace mayfly::app
