// mayfly image build|list|prune|remove, as the command line calls it.
//
// Layer: image. Prints; blocks.
#pragma once

#include <string>
#include <vector>

namespace mayfly::image {

// `args` follow the word `image`. The exit code: 0, 2 for a wrong use, 1 else.
int imageMain(const std::vector<std::string>& args);
std::string imageHelp();

}  // namespace mayfly::image
