// Root trees: the result of a recipe's packages and commands, before a template's own files are
// added.
//
//   trees/<key>/         a finished tree, never changed
//   trees/<key>.pip/     pip for this tree, by the hash of its Debian package; removed with the
//   tree trees/<key>.lock     held while the tree is made, shared while used; its time is the last
//   use
//
// All templates with the same Debian packages share one tree of them; packages of pip and npm and a
// template's own commands go into a copy of it.
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
  base::Fd lock;  // keeps the tree from being removed
};

// The key of a recipe without a lock.
std::string recipeKey(const config::ImageRecipe& recipe);
std::string debianKey(const std::string& suite, const std::vector<Deb>& debs,
                      const std::vector<std::string>& run);

base::Result<Tree> makeDebianTree(Workshop& shop, Apt& apt, const std::string& suite,
                                  const std::vector<Deb>& debs, const std::vector<std::string>& run,
                                  Fresh fresh);
// `below` with the lock's pip and npm packages and the recipe's late commands; `below` itself if
// there are none.
base::Result<Tree> makeFullTree(Workshop& shop, Apt& apt, const config::ImageRecipe& recipe,
                                const Lock& lock, Tree below, Fresh fresh);
// A tree that contains npm, for looking packages up.
base::Result<std::string> makeNpmTree(Workshop& shop, Apt& apt, const std::string& suite);

// Removes leftovers of killed builds, and trees that were unused for two weeks.
void sweepTrees(const std::string& cache_dir);

}  // namespace mayfly::image
