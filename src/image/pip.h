// pip's packages: the image's own Python resolves and downloads them, as wheels only, so that no
// package's code runs; they are installed by hash, without network.
//
// Layer: image, internal to it. Blocks.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "config/manifest.h"
#include "image/apt.h"
#include "image/lock.h"
#include "image/workshop.h"

namespace mayfly::image {

// Fills lock.pip_wishes, lock.tools and lock.pip; afterwards all files are artifacts.
base::Status resolvePip(Workshop& shop, Apt& apt, const config::ImageRecipe& recipe,
                        const std::string& tree, Fresh fresh, Lock& lock);
// Installs the locked packages into `tree`. Missing files are downloaded in `look_up_tree`.
base::Status installPip(Workshop& shop, Apt& apt, const config::ImageRecipe& recipe,
                        const std::string& look_up_tree, const std::string& tree, const Lock& lock);

// Where pip itself is kept for a tree: it goes with the tree.
std::string pipFolder(const std::string& tree);

}  // namespace mayfly::image
