// The vault's walls: its own root, uid and list of system calls.
//
// Layer: vault. Called once, at start, before there is a second thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "walls/call_list.h"

namespace mayfly::vault {

struct RoomOptions {
  uint32_t uid = 0;
  std::string state_dir;  // the supervisor's: its `etc` and `journal` become /etc and /journal
};

// As root, whose child this process is. Then: an empty root with /etc (read-only) and /journal, own
// uid, no capability, not dumpable, no core file, dead with its parent.
base::Status enterRoom(const RoomOptions& options);

inline constexpr const char* kJournalFile = "/journal/actions.db";

// The list is put up last, when all that the start needs is open.
std::span<const walls::KnownCall> knownCalls();
base::Status allowOnlyServing(base::FdView log);

}  // namespace mayfly::vault
