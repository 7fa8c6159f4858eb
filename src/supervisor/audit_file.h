// The file of the audit lines: opened here, written by the vault, and rotated by its size.
//
// Layer: supervisor. Short blocking calls.
#pragma once

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "config/daemon.h"

namespace mayfly::supervisor {

class AuditFile {
 public:
  static constexpr const char* kName = config::kBrokerAuditFile;
  AuditFile(base::FdView folder, uint64_t bytes_max, uint32_t files_max)
      : folder_(folder), bytes_max_(bytes_max), files_max_(files_max) {}

  // For appending only; made if it is not there; readable by root and its group.
  base::Result<base::Fd> open() const;
  // Whether the file has its size: then it is `audit.log.1` now, and the oldest is gone.
  base::Result<bool> rotate() const;

 private:
  base::FdView folder_;  // borrowed
  uint64_t bytes_max_;
  uint32_t files_max_;
};

}  // namespace mayfly::supervisor
