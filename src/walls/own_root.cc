#include "walls/own_root.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <utility>

#include "base/fd.h"

namespace mayfly::walls {
namespace {

constexpr char kRoot[] = "/tmp";  // covered in our namespace only
constexpr unsigned long kFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;

#define DO(call, object, expr) \
  if ((expr) < 0) return base::failSys(errno, call, object)

// `source`: of the folder; it was opened before kRoot covered what may hold the folder.
base::Status place(base::FdView source, const Placed& each) {
  const std::string at = kRoot + each.place, from = "/proc/self/fd/" + std::to_string(source.get());
  for (size_t slash = sizeof kRoot; slash != std::string::npos; slash = at.find('/', slash + 1))
    if (::mkdir(at.substr(0, slash).c_str(), 0755) != 0 && errno != EEXIST)
      return base::failSys(errno, "mkdir", at);
  if (::mkdir(at.c_str(), 0755) != 0 && errno != EEXIST) return base::failSys(errno, "mkdir", at);
  DO("mount", each.folder, ::mount(from.c_str(), at.c_str(), nullptr, MS_BIND, nullptr));
  DO("mount again", each.folder,
     ::mount(nullptr, at.c_str(), nullptr,
             MS_REMOUNT | MS_BIND | kFlags |
                 (each.writable ? 0ul : static_cast<unsigned long>(MS_RDONLY)),
             nullptr));
  return base::Unit{};
}

}  // namespace

base::Status enterOwnRoot(const std::set<std::string>& kept) { return enterOwnRoot(kept, {}); }

base::Status enterOwnRoot(const std::set<std::string>& kept, const std::vector<Placed>& placed) {
  std::vector<Placed> all = placed;
  for (const std::string& folder : kept) all.push_back({folder, folder, false});
  ::tzset();  // the file of the time zone is read now, for the log
  DO("unshare", "the mount namespace", ::unshare(CLONE_NEWNS));
  DO("mount private", "/", ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  std::vector<base::Fd> sources;  // of this namespace's mounts; empty: no such folder
  for (const Placed& each : all)
    sources.emplace_back(::open(each.folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  DO("mount tmpfs", kRoot,
     ::mount("mayfly", kRoot, "tmpfs", kFlags, "mode=0755,size=64k,nr_inodes=64"));
  for (size_t i = 0; i < all.size(); ++i)
    if (sources[i]) MAYFLY_CHECK(place(sources[i].view(), all[i]));
  sources.clear();
  DO("mount read-only", kRoot,
     ::mount(nullptr, kRoot, nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | kFlags, nullptr));
  DO("chdir", kRoot, ::chdir(kRoot));
  DO("pivot_root", kRoot, ::syscall(SYS_pivot_root, ".", "."));
  DO("umount", "the host's root", ::umount2(".", MNT_DETACH));
  DO("chdir", "/", ::chdir("/"));
  return base::Unit{};
}

#undef DO

}  // namespace mayfly::walls
