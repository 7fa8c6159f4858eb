// The spawner's room: a mount namespace with nothing of the host in it, an empty network, and the
// least capabilities.
//
//   /proc   the host's processes, whole: id maps are written through it
//   /dev    the few safe device nodes
//   /devices/N  the same, read-only, for the boxes of the zygote in slot N: locks on a node reach
//           nobody beyond
//   /devices-without-terminals/N  for boxes that have no terminals
//   /img/N  the image of the zygote in slot N
//   /src/N  where its source is named, so that no host path shows in mountinfo
//
// Layer: spawner. enterRoom() and dropToLeast() are called once, at start, before any other
// thread or process; the rest does not block.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "base/task.h"

namespace mayfly::spawner {

enum class Terminals : uint8_t { none, some };
std::string devicesOf(uint32_t slot, Terminals terminals);

// Descriptors of the host that the room keeps.
struct Room {
  base::Fd images;        // the folder of the images, read-only
  base::Fd host_devices;  // the host's /dev, for loop devices on kernels that need them
  base::Fd own_pid_ns;
};

base::Result<Room> enterRoom(const std::string& images_dir);

// Keeps SYS_ADMIN, SETUID, SETGID, CHOWN, SYS_CHROOT, KILL; the bounding set follows. no_new_privs.
base::Status dropToLeast();
std::string describeCapabilities();

enum class ImageMount { file, loop };
// Starts a helper that mounts images/<digest>.erofs read-only at `target`, because a disk or the
// kernel may be slow. The mount's source is named "image" and nothing else. The helper refuses a
// file that anybody but root may write.
struct Mounting {
  base::Fd helper;  // pidfd
  base::Fd said;
};
base::Result<Mounting> startMount(const Room& room, const std::string& digest,
                                  const std::string& target);
// The helper's result; read it once the helper has ended.
base::Result<ImageMount> readMount(base::FdView said);
// Starts a helper that unmounts it. The last unmount frees what the kernel keeps of the image.
base::Result<base::Fd> startUnmount(const std::string& target);

// A box's disk: a file system in memory with the task's caps, not mounted yet, its root folder
// owned by `uid`.
base::Result<base::Fd> makeDisk(const base::Limits& limits, uint32_t uid);
// Changes the caps, whatever the disk holds; a disk above its new caps takes no more.
base::Status resizeDisk(base::FdView disk, const base::Limits& limits);

}  // namespace mayfly::spawner
