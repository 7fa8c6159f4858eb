#include "base/lock_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

namespace mayfly::base {

Result<Fd> openLockFile(const std::string& path) {
  MAYFLY_TRY(Fd fd, openAt(FdView(AT_FDCWD), path, O_RDWR | O_CREAT, 0600));
  if (::fchmod(fd.get(), 0600) != 0) return failSys(errno, "fchmod", path);
  return fd;
}

}  // namespace mayfly::base
