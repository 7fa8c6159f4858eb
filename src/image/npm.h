// npm's packages: npm itself resolves them in a separate tree; they are downloaded as tarballs and
// unpacked by hash. No script of a package runs.
//
// They go to /node_modules, where programs below /task find them.
//
// Layer: image, internal to it. Blocks.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "config/manifest.h"
#include "image/lock.h"
#include "image/workshop.h"

namespace mayfly::image {

// The path of a root tree that contains npm; made at the first call.
using NpmTree = std::function<base::Result<std::string>()>;

// The packages of a package-lock.json that fit this machine. Pure.
base::Result<std::vector<NpmPackage>> readPackageLock(std::string_view text,
                                                      const config::ImageRecipe& recipe,
                                                      std::string_view architecture);

// Fills lock.npm_wishes and lock.npm; afterwards all files are artifacts.
base::Status resolveNpm(Workshop& shop, const NpmTree& npm_tree, const config::ImageRecipe& recipe,
                        const std::string& tree, Lock& lock);
// Unpacks the locked packages into `tree`.
base::Status installNpm(Workshop& shop, const NpmTree& npm_tree, const std::string& tree,
                        const Lock& lock);

}  // namespace mayfly::image
