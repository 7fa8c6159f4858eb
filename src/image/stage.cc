// Layer: image. See stage.h.
#include "image/stage.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>

#include "image/store.h"

namespace mayfly::image {
namespace {

constexpr uint32_t kStageSecondsMax = 600;

base::Result<base::Fd> openFolder(const std::string& path) {
  return base::openAt(base::FdView(AT_FDCWD), path, O_PATH | O_DIRECTORY);
}

}  // namespace

Stage::~Stage() { (void)leaveNamespace(); }

base::Status Stage::leaveNamespace() {
  if (!namespace_) return base::Unit{};
  // setns() takes the other namespace's root, so this process's own root is set again.
  if (::setns(namespace_.get(), CLONE_NEWNS) != 0 || ::fchdir(root_.get()) != 0 ||
      ::chroot(".") != 0 || ::fchdir(folder_.get()) != 0)
    return base::failSys(errno, "setns", path_);
  namespace_.reset();
  return base::Unit{};
}

base::Status Stage::mountOver(const std::string& tree, const std::string& folder) {
  for (const char* name : {"/upper", "/work"}) MAYFLY_CHECK(makeFolders(folder + name));
  MAYFLY_TRY(root_, openFolder("/"));
  MAYFLY_TRY(folder_, openFolder("."));
  MAYFLY_TRY(base::Fd before, base::openAt(base::FdView(AT_FDCWD), "/proc/self/ns/mnt", O_RDONLY));
  if (::unshare(CLONE_NEWNS) != 0) return base::failSys(errno, "unshare", "mount namespace");
  namespace_ = std::move(before);
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0)
    return base::failSys(errno, "mount", "/");
  // By descriptors, opened in this namespace, because a path may hold a colon or a comma. Volatile:
  // when the overlay goes, nothing is written to the disk first.
  MAYFLY_TRY(base::Fd lower, openFolder(tree));
  MAYFLY_TRY(base::Fd upper, openFolder(folder + "/upper"));
  MAYFLY_TRY(base::Fd work, openFolder(folder + "/work"));
  const std::string options = fmt::format(
      "lowerdir=/proc/self/fd/{},upperdir=/proc/self/fd/{},workdir=/proc/self/fd/{},"
      "volatile",
      lower.get(), upper.get(), work.get());
  if (::mount("overlay", path_.c_str(), "overlay", MS_NOSUID | MS_NODEV, options.c_str()) != 0)
    return base::failSys(errno, "mount", path_);
  return base::Unit{};
}

base::Status Stage::make(const std::string& tree) {
  MAYFLY_TRY(std::string folder, shop_.scratch());
  path_ = folder + "/stage";
  MAYFLY_CHECK(makeFolders(path_));
  if (mountOver(tree, folder)) return base::Unit{};
  MAYFLY_CHECK(leaveNamespace());
  Command copy;
  // Not in hard links: where the cache is on an overlay itself, a new link parts the names of a
  // file.
  copy.argv = {"cp", "-a", "-T", tree + "/.", path_};
  copy.seconds_max = kStageSecondsMax;
  return shop_.run(copy);
}

}  // namespace mayfly::image
