#include "spawner/room.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/loop.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>

#include "spawner/helper.h"
#include "wire/spawner.h"

namespace mayfly::spawner {

using base::Code;
using base::failSys;
using base::Fd;
using base::Result;
using base::Status;
using base::Unit;

namespace {

constexpr char kRoot[] = "/tmp";  // covered by the spawner's own file system, in its namespace only

#define DO(call, object, expr) \
  if ((expr) < 0) return failSys(errno, call, object)

Status makeDevices(const std::string& dev, Terminals terminals) {
  DO("mount tmpfs", dev,
     ::mount("dev", dev.c_str(), "tmpfs", MS_NOSUID | MS_NOEXEC | MS_NOATIME,
             "mode=0755,size=64k,nr_inodes=32"));
  struct Node {
    const char* name;
    unsigned major, minor;
  };
  for (Node n : {Node{"null", 1, 3},
                 {"zero", 1, 5},
                 {"full", 1, 7},
                 {"random", 1, 8},
                 {"urandom", 1, 9},
                 {"tty", 5, 0}}) {
    if (n.major == 5 && terminals == Terminals::none) continue;
    std::string path = dev + "/" + n.name;
    DO("mknod", path, ::mknod(path.c_str(), S_IFCHR | 0666, makedev(n.major, n.minor)));
    DO("chmod", path, ::chmod(path.c_str(), 0666));
  }
  struct Link {
    const char *name, *to;
  };
  for (Link l : {Link{"fd", "/proc/self/fd"},
                 {"stdin", "/proc/self/fd/0"},
                 {"stdout", "/proc/self/fd/1"},
                 {"stderr", "/proc/self/fd/2"}})
    DO("symlink", l.name, ::symlink(l.to, (dev + "/" + l.name).c_str()));
  if (terminals == Terminals::some) {
    // Each box mounts its own terminals on `pts`; the link leads to the device that makes them
    // there.
    DO("mkdir", "pts", ::mkdir((dev + "/pts").c_str(), 0755));
    DO("symlink", "ptmx", ::symlink("pts/ptmx", (dev + "/ptmx").c_str()));
  }
  DO("mkdir", "shm", ::mkdir((dev + "/shm").c_str(), 0755));
  return Unit{};
}

Status makeReadOnly(const std::string& dev) {
  DO("mount read-only", dev,
     ::mount(nullptr, dev.c_str(), nullptr,
             MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC | MS_NOATIME, nullptr));
  return Unit{};
}

Result<Fd> attachLoop(const Room& room, int image_fd) {
  MAYFLY_TRY(Fd control, base::openAt(room.host_devices.view(), "loop-control", O_RDWR));
  for (int attempt = 0; attempt < 16; ++attempt) {  // another program may take the free one first
    int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    DO("ioctl(LOOP_CTL_GET_FREE)", "loop-control", number);
    MAYFLY_TRY(Fd loop,
               base::openAt(room.host_devices.view(), fmt::format("loop{}", number), O_RDWR));
    loop_config config{};
    config.fd = static_cast<uint32_t>(image_fd);
    config.info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
    if (::ioctl(loop.get(), LOOP_CONFIGURE, &config) == 0) return loop;
    if (errno != EBUSY) return failSys(errno, "ioctl(LOOP_CONFIGURE)", "an image");
  }
  return base::fail(Code::hostUnfit, "no free loop device for an image");
}

// The error of the last fsconfig or fsmount, from the context's own log.
std::string contextLog(int fs) {
  char text[256];
  ssize_t n = ::read(fs, text, sizeof text - 1);
  return n > 0 ? ": " + std::string(text, static_cast<size_t>(n)) : "";
}

std::string sourceFolder(const std::string& target) {
  return "/src/" + target.substr(target.rfind('/') + 1);
}

// The kernel resolves the source as a path and shows it in mountinfo as it was written, so it is a
// link with a fixed name in the current folder.
Status mountErofs(int source_fd, const std::string& target) {
  const std::string folder = sourceFolder(target);
  const std::string link = folder + "/image";
  (void)::mkdir(folder.c_str(), 0755);
  (void)::unlink(link.c_str());
  DO("symlink", link, ::symlink(fmt::format("/proc/self/fd/{}", source_fd).c_str(), link.c_str()));
  DO("chdir", folder, ::chdir(folder.c_str()));
  Fd fs(static_cast<int>(::syscall(SYS_fsopen, "erofs", FSOPEN_CLOEXEC)));
  if (!fs) return failSys(errno, "fsopen", "erofs");
  auto mounted = [&]() -> Status {
    DO("fsconfig(source)", "image",
       ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_STRING, "source", "image", 0));
    DO("fsconfig(ro)", "image",
       ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_FLAG, "ro", nullptr, 0));
    DO("fsconfig(create)", "image",
       ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0));
    Fd mnt(static_cast<int>(::syscall(SYS_fsmount, fs.get(), FSMOUNT_CLOEXEC,
                                      MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)));
    if (!mnt) return failSys(errno, "fsmount", "image");
    DO("move_mount", target,
       ::syscall(SYS_move_mount, mnt.get(), "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH));
    return Unit{};
  }();
  if (!mounted) {
    auto error = std::move(mounted).error();
    error.message += contextLog(fs.get());
    return base::fail(std::move(error));
  }
  return Unit{};
}

}  // namespace

std::string devicesOf(uint32_t slot, Terminals terminals) {
  return fmt::format("/devices{}/{}", terminals == Terminals::some ? "" : "-without-terminals",
                     slot);
}

Result<Room> enterRoom(const std::string& images_dir) {
  Room room;
  MAYFLY_TRY(room.images, base::openAt({}, images_dir, O_RDONLY | O_DIRECTORY));
  MAYFLY_TRY(room.host_devices, base::openAt({}, "/dev", O_PATH | O_DIRECTORY));
  MAYFLY_TRY(room.own_pid_ns, base::openAt({}, "/proc/self/ns/pid", O_RDONLY));
  DO("unshare", "namespaces", ::unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC));
  DO("mount private", "/", ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  DO("mount tmpfs", kRoot,
     ::mount("room", kRoot, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=1m"));
  std::string root = kRoot;
  for (const char* folder :
       {"/proc", "/dev", "/devices", "/devices-without-terminals", "/img", "/src", kEmpty})
    DO("mkdir", folder, ::mkdir((root + folder).c_str(), 0755));
  DO("mount proc", root + "/proc",
     ::mount("proc", (root + "/proc").c_str(), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr));
  MAYFLY_CHECK(makeDevices(root + "/dev", Terminals::none));
  // All at once, because later the spawner may not make device nodes.
  for (uint32_t slot = 0; slot + 1 < wire::kUidRanges; ++slot)
    for (Terminals terminals : {Terminals::none, Terminals::some}) {
      const std::string dev = root + devicesOf(slot, terminals);
      DO("mkdir", dev, ::mkdir(dev.c_str(), 0755));
      MAYFLY_CHECK(makeDevices(dev, terminals));
      MAYFLY_CHECK(makeReadOnly(dev));
    }
  DO("chdir", root, ::chdir(kRoot));
  DO("pivot_root", root, ::syscall(SYS_pivot_root, ".", "."));
  DO("umount", "the host's root", ::umount2(".", MNT_DETACH));
  DO("chdir", "/", ::chdir("/"));
  return room;
}

Status dropToLeast() {
  auto bit = [](int cap) { return 1u << cap; };
  uint32_t keep = bit(CAP_SYS_ADMIN) | bit(CAP_SETUID) | bit(CAP_SETGID) | bit(CAP_CHOWN) |
                  bit(CAP_SYS_CHROOT) |  // for the collector's root
                  bit(CAP_KILL);         // over the collector, which has another uid
  for (int cap = 0; cap <= 63; ++cap) {
    if (cap < 32 && (keep & bit(cap))) continue;
    if (::prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0) {
      if (errno == EINVAL && cap > 0) break;
      return failSys(errno, "prctl(PR_CAPBSET_DROP)", "the spawner");
    }
  }
  DO("prctl(ambient)", "the spawner", ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  data[0].effective = data[0].permitted = keep;
  DO("capset", "the spawner", ::syscall(SYS_capset, &header, data));
  DO("prctl(no_new_privs)", "the spawner", ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  return Unit{};
}

std::string describeCapabilities() {
  auto status = base::readSmallFile({}, "/proc/self/status");
  if (!status) return "unknown";
  uint64_t set = 0;
  if (size_t at = status->find("CapPrm:"); at != std::string::npos)
    set = ::strtoull(status->c_str() + at + 7, nullptr, 16);
  struct Name {
    int cap;
    const char* name;
  };
  std::string text;
  for (Name n : {Name{CAP_CHOWN, "CHOWN"},
                 {CAP_KILL, "KILL"},
                 {CAP_SETGID, "SETGID"},
                 {CAP_SETUID, "SETUID"},
                 {CAP_SYS_ADMIN, "SYS_ADMIN"},
                 {CAP_SYS_CHROOT, "SYS_CHROOT"}})
    if (set & (1ull << n.cap)) {
      text += (text.empty() ? "" : " ") + std::string(n.name);
      set &= ~(1ull << n.cap);
    }
  return set == 0 ? text : fmt::format("{} and 0x{:x}", text, set);
}

namespace {

// Runs in the helper.
Result<ImageMount> mountImage(const Room& room, const std::string& digest,
                              const std::string& target) {
  std::string file = digest + ".erofs";
  MAYFLY_TRY(Fd image, base::openAt(room.images.view(), file, O_RDONLY | O_NOFOLLOW));
  struct stat st;
  DO("fstat", file, ::fstat(image.get(), &st));
  if (!S_ISREG(st.st_mode) || st.st_uid != 0 || (st.st_mode & 022) != 0)
    return base::fail(
        Code::permissionDenied,
        fmt::format("image '{}' is not a regular file that only root may write", file),
        "build it again: mayfly image build");
  auto mounted = mountErofs(image.get(), target);
  if (mounted) return ImageMount::file;
  // Kernels before 6.12 read erofs from block devices only.
  auto loop = attachLoop(room, image.get());
  if (!loop) return base::fail(std::move(mounted).error());
  MAYFLY_CHECK(mountErofs(loop->get(), target));
  return ImageMount::loop;
}

struct MountSaid {
  base::Code code{};  // 0: mounted
  int32_t sys = 0;
  ImageMount mount = ImageMount::file;
  char message[300] = {};
};

}  // namespace

Result<Mounting> startMount(const Room& room, const std::string& digest,
                            const std::string& target) {
  MAYFLY_TRY(base::Pipe said, base::makePipe());
  (void)::mkdir(target.c_str(), 0755);
  auto work = [&] {
    Room own;
    own.images = Fd(kHelperFd);
    own.host_devices = Fd(kHelperFd + 1);
    auto mounted = mountImage(own, digest, target);
    MountSaid word;
    if (mounted) {
      word.mount = *mounted;
    } else {
      word.code = mounted.error().code;
      word.sys = mounted.error().sys;
      strncpy(word.message, mounted.error().message.c_str(), sizeof word.message - 1);
    }
    return ::write(kHelperFd + 2, &word, sizeof word) == sizeof word ? 0 : 1;
  };
  MAYFLY_TRY(Fd helper,
             startHelper("the mounting of an image",
                         {room.images.view(), room.host_devices.view(), said.write.view()}, work));
  return Mounting{std::move(helper), std::move(said.read)};
}

Result<ImageMount> readMount(base::FdView said) {
  MountSaid word;
  if (::read(said.get(), &word, sizeof word) != sizeof word)
    return base::fail(Code::internal, "the mounting of the image came to no end");
  if (word.code == base::Code{}) return word.mount;
  word.message[sizeof word.message - 1] = 0;
  return base::fail(base::Error{word.code, word.message, {}, word.sys});
}

Result<Fd> startUnmount(const std::string& target) {
  return startHelper("the unmounting of an image", {}, [&] {
    const int unmounted = ::umount2(target.c_str(), MNT_DETACH);
    (void)::rmdir(target.c_str());
    const std::string folder = sourceFolder(target);
    (void)::unlink((folder + "/image").c_str());
    (void)::rmdir(folder.c_str());
    return unmounted == 0 ? 0 : 1;
  });
}

namespace {

constexpr uint64_t kOwnFolders = 8;  // inodes of the spawner's, on top of the task's cap

Status setDiskLimits(base::FdView fs, const base::Limits& limits) {
  std::string size = std::to_string(limits.disk_bytes),
              inodes = std::to_string(limits.disk_inodes + kOwnFolders);
  DO("fsconfig", "size",
     ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_STRING, "size", size.c_str(), 0));
  DO("fsconfig", "nr_inodes",
     ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_STRING, "nr_inodes", inodes.c_str(), 0));
  return Unit{};
}

}  // namespace

Status resizeDisk(base::FdView disk, const base::Limits& limits) {
  Fd fs(
      static_cast<int>(::syscall(SYS_fspick, disk.get(), "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH)));
  if (!fs) return failSys(errno, "fspick", "disk");
  MAYFLY_CHECK(setDiskLimits(fs.view(), limits));
  DO("fsconfig(reconfigure)", "disk",
     ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_CMD_RECONFIGURE, nullptr, nullptr, 0));
  return Unit{};
}

Result<Fd> makeDisk(const base::Limits& limits, uint32_t uid) {
  Fd fs(static_cast<int>(::syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC)));
  if (!fs) return failSys(errno, "fsopen", "tmpfs");
  struct Option {
    const char* name;
    std::string value;
  };
  for (const Option& o : {Option{"source", "disk"}, {"mode", "0755"}})
    DO("fsconfig", o.name,
       ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_STRING, o.name, o.value.c_str(), 0));
  MAYFLY_CHECK(setDiskLimits(fs.view(), limits));
  // Kernels before 6.4 have no such option; there the cgroup forbids swap.
  (void)::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_FLAG, "noswap", nullptr, 0);
  DO("fsconfig(create)", "disk",
     ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0));
  Fd disk(static_cast<int>(
      ::syscall(SYS_fsmount, fs.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)));
  if (!disk) return failSys(errno, "fsmount", "disk");
  DO("chown", "disk", ::fchownat(disk.get(), "", uid, uid, AT_EMPTY_PATH));
  return disk;
}

}  // namespace mayfly::spawner
