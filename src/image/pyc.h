// Compiles the Python modules of a root tree to pyc files without a time.
//
// All files of an image have one time, so a pyc that is checked by its source's time would look
// stale, and every process would compile the module again.
//
// Layer: image, internal to it. Blocks for minutes. Needs root.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "image/workshop.h"

namespace mayfly::image {

// Runs in the tree, with its own python3; a tree without python3 stays as it is. A module that is
// not valid Python gets no pyc and a line in the build's log; every other failure is an error. A
// pyc that already matches its source stays.
base::Status compilePython(Workshop& shop, const std::string& tree);

// The program that compiles, for the key of a tree.
std::string_view pycProgram();

}  // namespace mayfly::image
