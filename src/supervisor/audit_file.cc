#include "supervisor/audit_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::supervisor {

base::Result<base::Fd> AuditFile::open() const {
  return base::openAt(folder_, kName, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0640);
}

base::Result<bool> AuditFile::rotate() const {
  struct stat st;
  if (::fstatat(folder_.get(), kName, &st, AT_SYMLINK_NOFOLLOW) != 0)
    return base::failSys(errno, "stat", kName);
  if (static_cast<uint64_t>(st.st_size) < bytes_max_) return false;
  const auto numbered = [](uint32_t i) { return std::string(kName) + "." + std::to_string(i); };
  for (uint32_t i = files_max_; i > 1; --i)
    if (::renameat(folder_.get(), numbered(i - 1).c_str(), folder_.get(), numbered(i).c_str()) !=
            0 &&
        errno != ENOENT)
      return base::failSys(errno, "rename", numbered(i - 1));
  if (::renameat(folder_.get(), kName, folder_.get(), numbered(1).c_str()) != 0)
    return base::failSys(errno, "rename", kName);
  return true;
}

}  // namespace mayfly::supervisor
