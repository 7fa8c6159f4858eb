// Files below a folder with untrusted links: a template's folder may come from a stranger, and
// packages fill a root tree. No link leads out of either.
//
// Layer: image. Blocks.
#pragma once

#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::image {

// The real path of a regular file of `folder`. Follows links within the folder, and to a template's
// folder beside it; a link to elsewhere is an error.
base::Result<std::string> sourceFile(const std::string& folder, const std::string& path);

// Writes `target` ("/etc/hosts") as a new file in the root `tree`, and makes its folders. Links on
// the way resolve as for programs inside the tree; an existing file is replaced.
base::Status putText(const std::string& tree, const std::string& target, std::string_view text,
                     unsigned mode);
base::Status putCopy(const std::string& tree, const std::string& target, const std::string& source,
                     unsigned mode);

}  // namespace mayfly::image
