// Root trees: what a recipe's packages and commands give, before a template's
// own files are laid over.
//
//   trees/<key>/         a finished tree, never changed
//   trees/<key>.lock     held while it is made; shared while it is used; its time is its last use
//
// A tree of Debian's packages alone is shared by all templates that want the same
// ones; what pip, npm and a template's own commands add is a copy of it.
//
// Layer: image, internal to it. Blocks for minutes. Needs root.
#pragma once

#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "config/manifest.h"
#include "image/apt.h"
#include "image/lock.h"
#include "image/workshop.h"

namespace mayfly::image {

struct Tree {
  std::string key, path;
  base::Fd lock;  // holds the tree in place
};

// What the recipe says, where nothing is locked.
std::string recipeKey(const config::ImageRecipe& recipe);
std::string debianKey(const std::string& suite, const std::vector<Deb>& debs,
                      const std::vector<std::string>& run);

base::Result<Tree> makeDebianTree(Workshop& shop, Apt& apt, const std::string& suite,
                                  const std::vector<Deb>& debs, const std::vector<std::string>& run,
                                  Fresh fresh);
// `below` with the lock's pip and npm packages and the recipe's late commands; `below`
// itself where there are none.
base::Result<Tree> makeFullTree(Workshop& shop, Apt& apt, const config::ImageRecipe& recipe,
                                const Lock& lock, Tree below, Fresh fresh);
// A tree that has npm in it, to look packages up.
base::Result<std::string> makeNpmTree(Workshop& shop, Apt& apt, const std::string& suite);

// What killed builds left, and what was not used for two weeks.
void sweepTrees(const std::string& cache_dir);

}  // namespace mayfly::image
