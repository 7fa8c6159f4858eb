// The keys of detached tasks on the disk, so that a repeated key never runs a second task
// unnoticed, also after the daemon was killed.
//
// A key is written before its task is given to the core, and is in the kernel's hands when the
// write returns: it survives the end of every process. The disk has it when the kernel writes it
// back (by default within 30 s): a power loss may lose the last ones. The results of the tasks are
// not kept. A key whose daemon ended is `lost`: its task may have run. It stays lost for the task's
// own lease, counted from the start that found it.
//
// The file has records of 64 bytes; a free one is zeroes, and is used again. Only hashes of users
// and keys are stored.
//
// Layer: rpc. Core thread; the writes are of 64 bytes. Opened before the daemon drops root.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::rpc {

class KeptKeys {
 public:
  struct Bounds {
    uint32_t records_max = 65'536;       // 4 MiB
    uint32_t lost_per_user_max = 4'096;  // 16 restarts with the usual 256 keys of a user
  };

  // `folder` holds the file `keys`, which is made if needed and written anew without what is over.
  // `since`: when this run began, for people. A damaged file is an error.
  static base::Result<std::unique_ptr<KeptKeys>> open(base::FdView folder, const std::string& path,
                                                      std::string since, uint64_t now_unix_ms,
                                                      Bounds bounds);
  static base::Result<std::unique_ptr<KeptKeys>> open(base::FdView folder, const std::string& path,
                                                      std::string since, uint64_t now_unix_ms) {
    return open(folder, path, std::move(since), now_unix_ms, Bounds());
  }

  // How long the key stays lost; none: it is not.
  std::optional<uint64_t> lostForMs(std::string_view user, std::string_view key,
                                    uint64_t now_unix_ms);
  // Keeps a key that is neither kept nor lost. The record's number, for drop().
  base::Result<uint32_t> keep(std::string_view user, std::string_view key, uint32_t lease_ms,
                              uint64_t now_unix_ms);
  // Its task was closed or forgotten, or never ran. Where this cannot be written, the key is lost
  // after the next start.
  base::Status drop(uint32_t record);
  const std::string& since() const { return since_; }

 private:
  using Hash = std::array<uint8_t, 32>;
  struct HashOf {
    size_t operator()(const Hash& hash) const;
  };
  struct Record {
    Hash key;        // of user and key
    uint64_t user;   // a hash
    uint64_t until;  // ms of the Unix epoch; 0: its run lives
    uint64_t lease_ms;
    uint64_t sum;
  };
  static_assert(sizeof(Record) == 64);
  struct Lost {
    uint64_t user, until;
    uint32_t record;
  };
  using LostKeys = std::unordered_map<Hash, Lost, HashOf>;

  KeptKeys(std::string path, std::string since, Bounds bounds)
      : path_(std::move(path)), since_(std::move(since)), bounds_(bounds) {}
  static Hash hashOf(std::string_view user, std::string_view key);
  static uint64_t userOf(std::string_view user);
  static uint64_t sumOf(const Record& record);
  base::Status load(const std::string& bytes, uint64_t now_unix_ms);
  base::Status rewrite(base::FdView folder);
  base::Status write(uint32_t place, const Record& record);
  void forget(LostKeys::iterator lost);
  void forgetOver(uint64_t now_unix_ms);

  base::Fd file_;
  std::string path_, since_;
  Bounds bounds_;
  LostKeys lost_;
  std::unordered_map<uint64_t, uint32_t> lost_of_;  // by user
  std::vector<uint32_t> free_;
  uint32_t records_ = 0;           // in the file
  uint64_t soonest_ = UINT64_MAX;  // of the lost ones' ends; may be too early
};

}  // namespace mayfly::rpc
