#include "app/instance.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>

#include "app/remains.h"
#include "base/clock.h"
#include "base/lock_file.h"
#include "wire/spawner.h"

namespace mayfly::app {
namespace {

// Whether the process whose pid is in the lock file still runs.
bool ownerLives(base::FdView lock) {
  char text[32] = {};
  ssize_t n = ::pread(lock.get(), text, sizeof text - 1, 0);
  pid_t pid = 0;
  if (n > 0) std::from_chars(text, text + n, pid);
  return pid > 0 && (::kill(pid, 0) == 0 || errno == EPERM);
}

base::Status writePid(base::FdView lock) {
  std::string text = std::to_string(::getpid()) + "\n";
  if (::ftruncate(lock.get(), 0) != 0 ||
      ::pwrite(lock.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
    return base::failSys(errno, "write", "the lock file");
  return base::Unit{};
}

}  // namespace

base::Status makeFolders(const std::string& path) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    std::string part = path.substr(0, slash);
    if (::mkdir(part.c_str(), 0755) != 0 && errno != EEXIST)
      return base::failSys(errno, "mkdir", part);
    if (slash == std::string::npos) return base::Unit{};
  }
}

base::Result<base::Fd> lockInstance(const std::string& run_dir, const std::string& instance) {
  MAYFLY_CHECK(makeFolders(run_dir));
  std::string path = run_dir + "/" + instance + ".lock";
  MAYFLY_TRY(base::Fd lock, base::openLockFile(path));
  uint64_t give_up_ns = base::monotonicNs() + kLockWaitMsMax * 1'000'000;
  while (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return base::failSys(errno, "flock", path);
    bool lives = ownerLives(lock.view());
    if (lives || base::monotonicNs() > give_up_ns)
      return base::fail(
          base::Code::alreadyExists,
          lives ? "instance '" + instance + "' is in use: another mayflyd holds '" + path + "'"
                : "instance '" + instance + "': the spawner of a dead daemon " + "still holds '" +
                      path + "'",
          "Stop it, or choose another name with --instance.");
    ::poll(nullptr, 0, 20);
  }
  MAYFLY_CHECK(writePid(lock.view()));
  return lock;
}

base::Result<UidSlot> takeUidSlot(const std::string& slots_dir, const std::string& proc) {
  MAYFLY_CHECK(makeFolders(slots_dir));
  for (uint32_t n = 0; n < kUidSlots; ++n) {
    MAYFLY_TRY(base::Fd lock, base::openLockFile(slots_dir + "/" + std::to_string(n)));
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return base::failSys(errno, "flock", slots_dir);
      continue;
    }
    const auto left =
        processesOfUids(wire::kUidBase + n * wire::kUidsPerSlot, wire::kUidsPerSlot, proc);
    if (left.empty()) return UidSlot{n, std::move(lock)};
    spdlog::warn("the uids of slot {} are not used: an earlier daemon left {}", n, describe(left));
  }
  return base::fail(base::Code::resourceExhausted,
                    "all " + std::to_string(kUidSlots) + " uid ranges in '" + slots_dir +
                        "' are in use by other daemons",
                    "Stop one of them.");
}

uint32_t daemonUid(uint32_t slot) {
  return wire::kUidBase + slot * wire::kUidsPerSlot + (wire::kUidRanges - 1) * wire::kUidsPerRange;
}

BrokerUids brokerUids(uint32_t slot) {
  const uint32_t daemon = daemonUid(slot);
  return {daemon + 1, daemon + 2, daemon + 3};
}

}  // namespace mayfly::app
