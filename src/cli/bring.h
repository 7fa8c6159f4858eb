// A task's input files on their way to the daemon: large ones are uploaded as blobs.
//
// Layer: cli. Blocking.
#pragma once

#include <mayfly/client.h>

#include <vector>

#include "cli/files.h"

namespace mayfly::cli {

// Adds the files to the spec, which has none. Refuses what the daemon would refuse anyhow before
// anything is uploaded. Large inputs stay open.
base::Status bring(Client& client, std::vector<Input>& inputs, TaskSpec* spec);

// Submits a spec that bring() has made. Until a task holds a blob, it gives way to other uploads of
// its user: one that is gone is uploaded again.
base::Result<Task> submitBrought(Client& client, const std::vector<Input>& inputs, TaskSpec spec,
                                 const Callbacks& callbacks);

}  // namespace mayfly::cli
