#include "spawner/collect.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/call_filter.h"
#include "base/text.h"
#include "spawner/helper.h"
#include "wire/spool.h"

namespace mayfly::spawner {

using namespace wire;
using base::Fd;
using base::FdView;

namespace {

constexpr size_t kPathBytesMax = 2'048;
static_assert(kPathBytesMax + 256 < kSpoolPathBytesMax && kCollectNamesMax < kSpoolEntriesMax);

class Collector {
 public:
  Collector(FdView spool, const base::Limits& limits) : spool_(spool), limits_(limits) {}

  bool run(FdView disk_root) {
    offset_ = sizeof(SpoolHeader);
    if (::lseek(spool_.get(), static_cast<off_t>(offset_), SEEK_SET) < 0) return false;
    Fd out = open(disk_root, "task/out", O_RDONLY | O_DIRECTORY);
    if (out)
      walk(out.view(), "", 0);
    else if (errno != ENOENT)
      note("", "the folder /task/out can't be opened: " + why());
    return finish();
  }

 private:
  static std::string why() { return ::strerror(errno); }

  static Fd open(FdView dir, const std::string& name, int flags) {
    open_how how{};
    how.flags = static_cast<uint64_t>(flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS;
    return Fd(static_cast<int>(::syscall(SYS_openat2, dir.get(), name.c_str(), &how, sizeof how)));
  }

  void note(const std::string& path, const std::string& reason, uint32_t mode = 0) {
    entries_.push_back({0, 0, mode, path, reason.substr(0, kSpoolSkippedBytesMax)});
  }

  // No process of the box is alive, so from here on a name means the same file.
  void walk(FdView dir, const std::string& prefix, uint32_t depth) {
    std::vector<std::string> names;
    int copy = ::fcntl(dir.get(), F_DUPFD_CLOEXEC, 3);
    DIR* list = copy < 0 ? nullptr : ::fdopendir(copy);
    if (list == nullptr) return note(prefix, "the folder can't be listed: " + why());
    while (const dirent* entry = ::readdir(list)) {
      if (::strcmp(entry->d_name, ".") == 0 || ::strcmp(entry->d_name, "..") == 0) continue;
      if (++seen_ > kCollectNamesMax) break;
      names.emplace_back(entry->d_name);
    }
    ::closedir(list);
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) visit(dir, prefix + name, name, depth);
    if (seen_ > kCollectNamesMax && !full_) {
      full_ = true;
      note("", fmt::format("more than {} names: the rest was not looked at", kCollectNamesMax));
    }
  }

  void visit(FdView dir, const std::string& path, const std::string& name, uint32_t depth) {
    struct stat st;
    if (::fstatat(dir.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return note(path, why());
    if (base::printable(name, kPathBytesMax) != name || name.find('\\') != std::string::npos)
      return note(path, "odd name: control bytes, invalid UTF-8 or a backslash");
    if (path.size() > kPathBytesMax) return note(path.substr(0, kPathBytesMax), "path too long");
    if (S_ISLNK(st.st_mode)) return note(path, "symbolic link");
    if (S_ISFIFO(st.st_mode)) return note(path, "fifo");
    if (S_ISSOCK(st.st_mode)) return note(path, "socket");
    if (S_ISDIR(st.st_mode)) return descend(dir, path, name, st, depth);
    if (!S_ISREG(st.st_mode)) return note(path, "device");
    collect(dir, path, name, st);
  }

  void descend(FdView dir, const std::string& path, const std::string& name, const struct stat& st,
               uint32_t depth) {
    if (depth + 1 >= kCollectDepthMax)
      return note(path, fmt::format("deeper than {} folders", kCollectDepthMax));
    if ((st.st_mode & 0500) != 0500) ::fchmodat(dir.get(), name.c_str(), 0700, 0);
    Fd sub = open(dir, name, O_RDONLY | O_DIRECTORY);
    if (!sub) return note(path, "the folder can't be opened: " + why());
    walk(sub.view(), path + "/", depth + 1);
  }

  void collect(FdView dir, const std::string& path, const std::string& name, struct stat st) {
    uint32_t mode = st.st_mode & 0777;
    if (collected_ >= limits_.out_files)
      return note(path, fmt::format("more than {} files", limits_.out_files), mode);
    uint64_t left = limits_.out_files_bytes - bytes_;
    auto tooLarge = [&](uint64_t size) {
      note(path,
           fmt::format("{} bytes are more than what is left of {} for all output files", size,
                       limits_.out_files_bytes),
           mode);
    };
    if (static_cast<uint64_t>(st.st_size) > left)
      return tooLarge(static_cast<uint64_t>(st.st_size));
    if ((st.st_mode & 0400) == 0) ::fchmodat(dir.get(), name.c_str(), 0600, 0);
    Fd file = open(dir, name, O_RDONLY);
    if (!file) return note(path, "can't be opened: " + why(), mode);
    if (::fstat(file.get(), &st) != 0 || !S_ISREG(st.st_mode))
      return note(path, "not a regular file", mode);
    uint64_t size = 0, want = static_cast<uint64_t>(st.st_size);
    while (size < want) {
      ssize_t n =
          ::sendfile(spool_.get(), file.get(), nullptr, std::min<uint64_t>(want - size, 1u << 30));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return note(path, "can't be read: " + (n < 0 ? why() : "it ended early"), mode);
      size += static_cast<uint64_t>(n);
    }
    entries_.push_back({offset_, size, mode, path, ""});
    offset_ += size;
    bytes_ += size;
    ++collected_;
  }

  bool writeAll(const void* data, size_t size) {
    auto* p = static_cast<const char*>(data);
    while (size > 0) {
      ssize_t n = ::write(spool_.get(), p, size);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      p += n;
      size -= static_cast<size_t>(n);
    }
    return true;
  }

  bool finish() {
    // A file that failed halfway left bytes behind; the index goes after them.
    off_t end = ::lseek(spool_.get(), 0, SEEK_END);
    if (end < 0) return false;
    SpoolHeader header;
    header.count = static_cast<uint32_t>(entries_.size());
    header.index_offset = std::max<uint64_t>(static_cast<uint64_t>(end), sizeof header);
    if (::lseek(spool_.get(), static_cast<off_t>(header.index_offset), SEEK_SET) < 0) return false;
    for (const Item& item : entries_) {
      SpoolEntry entry;
      entry.offset = item.offset;
      entry.size = item.size;
      entry.mode = item.mode;
      entry.path_bytes = static_cast<uint32_t>(item.path.size());
      entry.skipped_bytes = static_cast<uint32_t>(item.skipped.size());
      if (!writeAll(&entry, sizeof entry) || !writeAll(item.path.data(), item.path.size()) ||
          !writeAll(item.skipped.data(), item.skipped.size()))
        return false;
      header.index_bytes += sizeof entry + item.path.size() + item.skipped.size();
    }
    return ::pwrite(spool_.get(), &header, sizeof header, 0) == sizeof header;
  }

  struct Item {
    uint64_t offset, size;
    uint32_t mode;
    std::string path, skipped;
  };
  FdView spool_;
  const base::Limits& limits_;
  std::vector<Item> entries_;
  uint64_t offset_ = 0, bytes_ = 0;
  uint32_t collected_ = 0, seen_ = 0;
  bool full_ = false;
};

// Changes the spawner's child into the box's user, in an empty root: it opens files only below the
// descriptors that it got.
bool becomeUser(uint32_t uid) {
  const pid_t spawner = ::getppid();
  if (::chroot(kEmpty) != 0 || ::chdir("/") != 0) return false;
  if (::setgroups(0, nullptr) != 0 || ::setresgid(uid, uid, uid) != 0 ||
      ::setresuid(uid, uid, uid) != 0)
    return false;
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (::syscall(SYS_capset, &header, none) != 0) return false;
  // Set again, because the change of ids cleared it.
  return ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 && ::getppid() == spawner;
}

// Allows only the system calls that walking, copying and allocating need; any other ends the
// process.
bool allowOnlyCollecting() {
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         base::allowOnlyCalls({SYS_sendfile, SYS_openat2, SYS_close, SYS_newfstatat, SYS_fstat,
                               SYS_getdents64, SYS_fcntl, SYS_fchmodat, SYS_lseek, SYS_write,
                               SYS_pwrite64, SYS_brk, SYS_mmap, SYS_mremap, SYS_munmap, SYS_madvise,
                               SYS_restart_syscall, SYS_rt_sigreturn, SYS_exit_group}) == 0;
}

}  // namespace

base::Result<Fd> startCollector(FdView disk_root, FdView spool, uint32_t uid,
                                const base::Limits& limits) {
  return startHelper("the collector", {disk_root, spool}, [&] {
    if (!becomeUser(uid) || !allowOnlyCollecting()) return 3;
    return Collector(FdView(kHelperFd + 1), limits).run(FdView(kHelperFd)) ? 0 : 1;
  });
}

base::Result<Fd> startCloser(Fd disk_root) {
  MAYFLY_TRY(base::Pipe closed, base::makePipe());
  auto child = startHelper("the closer of a disk", {disk_root.view(), closed.read.view()}, [] {
    char none;
    (void)!::read(kHelperFd + 1, &none, 1);  // until the spawner closes its end
    return 0;
  });
  disk_root.reset();
  return child;
}

}  // namespace mayfly::spawner
