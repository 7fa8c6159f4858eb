// Reads the index of a spool. Every offset and size in it is checked, because a process with a
// box's uid wrote it.
//
// Layer: core. Short reads of a memfd.
#pragma once

#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "base/task.h"

namespace mayfly::core {

// The files in the spool, at most limits.out_files collected ones with at most
// limits.out_files_bytes in all; a skipped entry without a name is a note on the whole collection.
// An empty spool has no files.
base::Result<std::vector<base::OutFile>> readSpool(base::FdView spool, const base::Limits& limits);

}  // namespace mayfly::core
