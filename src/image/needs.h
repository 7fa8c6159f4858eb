// Finds the libraries that files of an image need and that the image lacks: a wheel or a binary
// package of npm expects libraries of its system, which no package manager checks.
//
// A library counts as there if any file of the image has its name: many packages load their own
// from folders that only they know. So whatever is found is missing indeed; but it may belong to a
// part that nobody uses. That is why the build only warns.
//
// Layer: image, internal to it. Pure but for findMissing() and examine(). Needs root.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "image/store.h"
#include "image/workshop.h"

namespace mayfly::image {

// The libraries missing in the root `tree`, for the file that needs each. Looks at every library
// and program of the tree; at most 64 results.
std::vector<Missing> findMissing(const std::string& tree);

// The same in a sandbox without rights, network, and write access: the files are hostile. `suite`
// decides the packages' names.
base::Result<std::vector<Missing>> examine(Workshop& shop, const std::string& tree,
                                           std::string_view suite);

// Debian's package of a library; empty if it is not known.
std::string debianPackage(std::string_view library, std::string_view suite);

// One line between the sandbox and the builder, which trusts it no more than the files.
std::string missingLine(const Missing& missing);
std::optional<Missing> parseMissingLine(std::string_view line);

}  // namespace mayfly::image
