// The spawner's own room: a mount namespace with nothing of the host in it, an
// empty network, and the least capabilities.
//
//   /proc   the host's processes, whole: id maps are written through it
//   /dev    the few safe device nodes, one file system shared read-only by all boxes
//   /dev-without-terminals  the same for boxes that have no terminals
//   /img/N  the image of template slot N
//   /src    where an image's source is named, so that no host path shows in mountinfo
//
// Layer: spawner. Called once, at start, before any other thread or process.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "base/task.h"

namespace mayfly::spawner {

inline constexpr char kDevices[] = "/dev";
inline constexpr char kDevicesWithoutTerminals[] = "/dev-without-terminals";

// Descriptors of the host that the room keeps.
struct Room {
  base::Fd images;        // the folder of the images, read-only
  base::Fd host_devices;  // the host's /dev, for loop devices on kernels that need them
  base::Fd own_pid_ns;
};

base::Result<Room> enterRoom(const std::string& images_dir);

// Keeps SYS_ADMIN, SETUID, SETGID, CHOWN; the bounding set follows. no_new_privs.
base::Status dropToLeast();
std::string describeCapabilities();

enum class ImageMount { file, loop };
// Mounts images/<digest>.erofs read-only at `target`, named "image" and nothing
// else. Refuses a file that anybody but root may write.
base::Result<ImageMount> mountImage(const Room& room, const std::string& digest,
                                    const std::string& target);

// A box's disk: a file system in memory with the task's caps, mounted nowhere
// yet, its root folder owned by `uid`.
// To other caps, whatever it holds: one that holds more takes no more.
base::Status resizeDisk(base::FdView disk, const base::Limits& limits);
base::Result<base::Fd> makeDisk(const base::Limits& limits, uint32_t uid);

}  // namespace mayfly::spawner
