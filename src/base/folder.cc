#include "base/folder.h"

#include <dirent.h>
#include <errno.h>

#include <algorithm>
#include <string_view>

namespace mayfly::base {

Result<std::vector<std::string>> namesIn(const std::string& folder, size_t names_max) {
  std::vector<std::string> names;
  DIR* dir = ::opendir(folder.c_str());
  if (!dir) {
    if (errno == ENOENT) return names;
    return failSys(errno, "opendir", folder);
  }
  while (const dirent* entry = ::readdir(dir)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != ".." && names.size() < names_max) names.emplace_back(name);
  }
  ::closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace mayfly::base
