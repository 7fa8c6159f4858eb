#include "app/audit.h"

#include <charconv>
#include <filesystem>
#include <system_error>

#include "base/fd.h"
#include "box/host.h"

namespace mayfly::app {

namespace fs = std::filesystem;

base::Result<std::string> instanceCgroup(const std::string& instance) {
  MAYFLY_TRY(std::string mounts, base::readSmallFile({}, "/proc/self/mountinfo", 4u << 20));
  std::string v2 = box::parseCgroupLayout(mounts, "").v2_path;
  if (v2.empty()) return base::fail(base::Code::hostUnfit, "no cgroup v2 is mounted");
  return v2 + "/mayfly/" + instance;
}

std::vector<base::BoxId> boxesOnHost(const std::string& instance_cgroup) {
  std::vector<base::BoxId> boxes;
  std::error_code failed;  // a folder that goes while we look is no finding
  size_t entries = 0;
  for (fs::directory_iterator t(instance_cgroup, failed), end; !failed && t != end;
       t.increment(failed)) {
    std::error_code gone;
    if (!t->is_directory(gone)) continue;
    for (fs::directory_iterator b(t->path(), gone); !gone && b != end; b.increment(gone)) {
      if (++entries > kAuditEntriesMax) return boxes;
      std::string name = b->path().filename();
      base::BoxId id = 0;
      auto parsed = std::from_chars(name.data() + 1, name.data() + name.size(), id);
      if (name[0] == 'b' && name.size() > 1 && parsed.ec == std::errc{} &&
          parsed.ptr == name.data() + name.size())
        boxes.push_back(id);
    }
  }
  return boxes;
}

}  // namespace mayfly::app
