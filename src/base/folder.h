// The names in a folder.
//
// Layer: base. Blocks on the file system.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/result.h"

namespace mayfly::base {

// Sorted, without "." and ".."; at most `names_max`. None if there is no such folder.
Result<std::vector<std::string>> namesIn(const std::string& folder, size_t names_max);

}  // namespace mayfly::base
