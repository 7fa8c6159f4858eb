// pip's packages: looked up and downloaded in the image's own Python, as wheels
// only, so that no package's code runs; installed by hash, without network.
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

// Fills lock.pip_wishes, lock.tools and lock.pip; all files are artifacts then.
base::Status resolvePip(Workshop& shop, Apt& apt, const config::ImageRecipe& recipe,
                        const std::string& tree, Fresh fresh, Lock& lock);
// Installs what is locked into `tree`. `look_up_tree`: where missing files are downloaded.
base::Status installPip(Workshop& shop, Apt& apt, const config::ImageRecipe& recipe,
                        const std::string& look_up_tree, const std::string& tree, const Lock& lock);

}  // namespace mayfly::image
