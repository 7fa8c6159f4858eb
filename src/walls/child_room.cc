#include "walls/child_room.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "walls/privileges.h"

namespace mayfly::walls {

base::Status enterChildRoom(const ChildRoom& room) {
  const pid_t parent = ::getppid();
  const rlimit none{0, 0};
  if (::setrlimit(RLIMIT_CORE, &none) != 0) return base::failSys(errno, "setrlimit", "CORE");
  MAYFLY_CHECK(raiseOpenFiles());
  if (::unshare(room.namespaces) != 0)
    return base::failSys(errno, "unshare", "the process's namespaces");
  MAYFLY_CHECK(enterOwnRoot({}, room.placed));
  MAYFLY_CHECK(dropRoot(room.uid));
  ::umask(077);
  // After the change of uid, which takes such a signal back.
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0)
    return base::failSys(errno, "prctl(PR_SET_PDEATHSIG)", "the process");
  if (::getppid() != parent) return base::fail(base::Code::cancelled, "the starter has ended");
  return base::Unit{};
}

}  // namespace mayfly::walls
