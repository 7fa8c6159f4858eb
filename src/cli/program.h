// The program that `mayfly run` names: a script, a folder, an archive or a module, with the files
// that come along.
//
// A folder's files are brought as they are. Hidden files stay behind, because they may hold secrets
// (.env, .git); a link is refused, because it may lead out of the folder.
//
// Layer: cli. Blocking.
#pragma once

#include <string>
#include <vector>

#include "cli/files.h"
#include "cli/options.h"

namespace mayfly::cli {

inline constexpr size_t kFolderFilesMax = 1'000;  // as many as a task may bring

// Sets the spec's code. Files that come along are added to `inputs`.
base::Status takeProgram(const RunOptions& options, TaskSpec* spec, std::vector<Input>* inputs,
                         size_t* inline_left_bytes);

// Adds all files of a folder as `name`/...
base::Status takeFolder(const std::string& path, const std::string& name,
                        std::vector<Input>* inputs, size_t* inline_left_bytes);

}  // namespace mayfly::cli
