// A spool: the memfd with a task's collected output files. Every offset and size of its index is
// checked, because a process with a box's uid wrote it.
//
// Layer: core. Short reads of a memfd.
#pragma once

#include <memory>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "base/task.h"
#include "sched/accounts.h"

namespace mayfly::core {

// The files in the spool, at most limits.out_files collected ones with at most
// limits.out_files_bytes in all; a skipped entry without a name is a note on the whole collection.
// An empty spool has no files.
base::Result<std::vector<base::OutFile>> readSpool(base::FdView spool, const base::Limits& limits);

// Returns the same descriptor. Until the last copy of the pointer is gone, the account is charged
// for the memory and the descriptor that the file takes. The book must outlive all copies.
std::shared_ptr<base::Fd> holdSpool(std::shared_ptr<base::Fd> spool, sched::Accounts& accounts,
                                    const sched::AccountRef& account);

}  // namespace mayfly::core
