// Files below a folder whose links somebody else may have made: a template's folder
// may come from a stranger, and a root tree holds what packages put there. No link
// leads out of either.
//
// Layer: image. Blocks.
#pragma once

#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::image {

// The real path of a regular file of `folder`. Links are followed within the folder, and to
// a template's folder beside it; one that leads elsewhere is an error.
base::Result<std::string> sourceFile(const std::string& folder, const std::string& path);

// Writes `target` ("/etc/hosts") as a new file in the root `tree`, and the folders that it
// needs. Links on the way mean what they mean to programs inside; what is at the target goes.
base::Status putText(const std::string& tree, const std::string& target, std::string_view text,
                     unsigned mode);
base::Status putCopy(const std::string& tree, const std::string& target, const std::string& source,
                     unsigned mode);

}  // namespace mayfly::image
