// Root trees: what a recipe's packages and commands give, before a template's
// own files are laid over.
//
//   trees/<key>/       a finished tree, never changed
//   trees/<key>.lock   held while it is made or copied; its time is its last use
//
// Layer: image, internal to it. Blocks for minutes. Needs root.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "config/manifest.h"
#include "image/build.h"

namespace mayfly::image {

struct Tree {
  std::string path;
  base::Fd lock;  // holds the tree in place
};

std::string treeKey(const config::ImageRecipe& recipe);
base::Result<Tree> makeTree(const config::Manifest& manifest, const BuildOptions& options);
// rm -rf that stays on one file system.
base::Status removeTree(const std::string& path);

}  // namespace mayfly::image
