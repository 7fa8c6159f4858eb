// Layer: image. See within.h.
#include "image/within.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

#include "base/text.h"
#include "config/manifest.h"

namespace mayfly::image {
namespace {

using base::Code;
using base::Fd;
using base::FdView;

constexpr size_t kCopyBytesAtOnce = 1u << 20;

Fd openWithin(FdView dir, const std::string& path, uint64_t flags, uint64_t resolve) {
  open_how how{};
  how.flags = flags | O_CLOEXEC;
  how.resolve = resolve | RESOLVE_NO_MAGICLINKS;
  int fd = -1;
  do {  // EAGAIN: something below was renamed meanwhile
    fd = static_cast<int>(::syscall(SYS_openat2, dir.get(), path.c_str(), &how, sizeof how));
  } while (fd < 0 && (errno == EINTR || errno == EAGAIN));
  return Fd(fd);
}

std::string realPath(const Fd& fd) {  // empty: see errno
  char real[PATH_MAX];
  const ssize_t n =
      ::readlink(fmt::format("/proc/self/fd/{}", fd.get()).c_str(), real, sizeof real);
  if (n == static_cast<ssize_t>(sizeof real)) errno = ENAMETOOLONG;
  return n > 0 && n < static_cast<ssize_t>(sizeof real) ? std::string(real, static_cast<size_t>(n))
                                                        : std::string();
}

// `path` of `dir` if it leads into another template's folder beside `dir`; else nothing.
Fd openBeside(const Fd& dir, const std::string& path) {
  const std::string folder = realPath(dir);
  const size_t slash = folder.find_last_of('/');
  if (folder.empty() || slash == 0) return Fd();
  const Fd parent(::open(folder.substr(0, slash).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!parent) return Fd();
  Fd fd = openWithin(parent.view(), folder.substr(slash + 1) + "/" + path, O_PATH, RESOLVE_BENEATH);
  const std::string real = fd ? realPath(fd) : std::string();
  if (real.size() <= slash + 1) return Fd();
  const std::string name = real.substr(slash + 1, real.find('/', slash + 1) - slash - 1);
  const Fd manifest = openWithin(parent.view(), name + "/manifest.toml", O_PATH, RESOLVE_BENEATH);
  return config::isTemplateName(name) && manifest ? std::move(fd) : Fd();
}

// The folder of `target`; makes missing folders.
base::Result<Fd> openParent(FdView root, const std::string& target) {
  Fd at(::fcntl(root.get(), F_DUPFD_CLOEXEC, 0));
  if (!at) return base::failSys(errno, "fcntl(F_DUPFD_CLOEXEC)", target);
  for (size_t slash = 0; (slash = target.find('/', slash + 1)) != std::string::npos;) {
    const std::string folder = target.substr(1, slash - 1);
    const auto open = [&] {
      return openWithin(root, folder, O_PATH | O_DIRECTORY, RESOLVE_IN_ROOT);
    };
    Fd next = open();
    if (!next && errno == ENOENT) {
      const std::string name = folder.substr(folder.find_last_of('/') + 1);
      if (::mkdirat(at.get(), name.c_str(), 0755) != 0 && errno != EEXIST)
        return base::failSys(errno, "mkdir", target.substr(0, slash));
      next = open();
    }
    if (!next) return base::failSys(errno, "open", target.substr(0, slash));
    at = std::move(next);
  }
  return at;
}

base::Result<Fd> create(const std::string& tree, const std::string& target) {
  if (target.size() < 2 || target[0] != '/')
    return base::fail(Code::internal, fmt::format("'{}' is no absolute path", target));
  MAYFLY_TRY(Fd root, base::openAt(FdView(AT_FDCWD), tree, O_PATH | O_DIRECTORY | O_NOFOLLOW));
  MAYFLY_TRY(Fd parent, openParent(root.view(), target));
  const std::string name = target.substr(target.find_last_of('/') + 1);
  // A staged tree shares its files with a cached one: they are replaced, never written.
  if (::unlinkat(parent.get(), name.c_str(), 0) != 0 && errno != ENOENT)
    return base::failSys(errno, "unlink", target);
  return base::openAt(parent.view(), name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
}

base::Status setMode(const Fd& fd, const std::string& target, unsigned mode) {
  if (::fchmod(fd.get(), static_cast<mode_t>(mode)) != 0)
    return base::failSys(errno, "chmod", target);
  return base::Unit{};
}

}  // namespace

base::Result<std::string> sourceFile(const std::string& folder, const std::string& path) {
  const std::string shown = folder + "/" + base::printable(path);
  MAYFLY_TRY(Fd dir, base::openAt(FdView(AT_FDCWD), folder, O_PATH | O_DIRECTORY));
  Fd fd = openWithin(dir.view(), path, O_PATH, RESOLVE_BENEATH);
  if (!fd && errno == EXDEV) {
    fd = openBeside(dir, path);
    if (!fd)
      return base::fail(Code::invalidArgument,
                        fmt::format("'{}' is a link that leads out of its folder", shown),
                        "Copy the file into the template's folder.");
  }
  if (!fd && errno == ENOENT)
    return base::fail(Code::notFound, fmt::format("'{}' does not exist", shown));
  if (!fd) return base::failSys(errno, "open", shown);
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return base::failSys(errno, "stat", shown);
  if (!S_ISREG(st.st_mode))
    return base::fail(Code::invalidArgument, fmt::format("'{}' is no regular file", shown));
  std::string real = realPath(fd);
  if (real.empty()) return base::failSys(errno, "readlink", shown);
  return real;
}

base::Status putText(const std::string& tree, const std::string& target, std::string_view text,
                     unsigned mode) {
  MAYFLY_TRY(Fd fd, create(tree, target));
  while (!text.empty()) {
    const ssize_t n = ::write(fd.get(), text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return base::failSys(errno, "write", target);
    text.remove_prefix(static_cast<size_t>(n));
  }
  return setMode(fd, target, mode);
}

base::Status putCopy(const std::string& tree, const std::string& target, const std::string& source,
                     unsigned mode) {
  MAYFLY_TRY(Fd from, base::openAt(FdView(AT_FDCWD), source, O_RDONLY));
  MAYFLY_TRY(Fd fd, create(tree, target));
  for (;;) {
    const ssize_t n = ::sendfile(fd.get(), from.get(), nullptr, kCopyBytesAtOnce);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return base::failSys(errno, "copy", source);
    if (n == 0) return setMode(fd, target, mode);
  }
}

}  // namespace mayfly::image
