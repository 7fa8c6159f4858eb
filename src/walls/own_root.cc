#include "walls/own_root.h"

#include <errno.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace mayfly::walls {
namespace {

constexpr char kRoot[] = "/tmp";  // covered in our namespace only
constexpr unsigned long kFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;

#define DO(call, object, expr) \
  if ((expr) < 0) return base::failSys(errno, call, object)

base::Status place(const Placed& each) {
  struct stat st;
  if (::stat(each.folder.c_str(), &st) != 0 || !S_ISDIR(st.st_mode)) return base::Unit{};
  const std::string at = kRoot + each.place;
  for (size_t slash = sizeof kRoot; slash != std::string::npos; slash = at.find('/', slash + 1))
    if (::mkdir(at.substr(0, slash).c_str(), 0755) != 0 && errno != EEXIST)
      return base::failSys(errno, "mkdir", at);
  if (::mkdir(at.c_str(), 0755) != 0 && errno != EEXIST) return base::failSys(errno, "mkdir", at);
  DO("mount", each.folder, ::mount(each.folder.c_str(), at.c_str(), nullptr, MS_BIND, nullptr));
  DO("mount again", each.folder,
     ::mount(nullptr, at.c_str(), nullptr,
             MS_REMOUNT | MS_BIND | kFlags | (each.writable ? 0ul : MS_RDONLY), nullptr));
  return base::Unit{};
}

}  // namespace

base::Status enterOwnRoot(const std::set<std::string>& kept) { return enterOwnRoot(kept, {}); }

base::Status enterOwnRoot(const std::set<std::string>& kept, const std::vector<Placed>& placed) {
  ::tzset();  // the file of the time zone is read now, for the log
  DO("unshare", "the mount namespace", ::unshare(CLONE_NEWNS));
  DO("mount private", "/", ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  DO("mount tmpfs", kRoot,
     ::mount("mayfly", kRoot, "tmpfs", kFlags, "mode=0755,size=64k,nr_inodes=64"));
  for (const std::string& folder : kept) MAYFLY_CHECK(place({folder, folder}));
  for (const Placed& each : placed) MAYFLY_CHECK(place(each));
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
