#include "core/doors.h"

#include <string>
#include <utility>

#include "base/bound_socket.h"
#include "wire/front.h"

namespace mayfly::core {

namespace {

// A connection's data counts for the box's memory only once it is accepted
// (src/spawner/net_charge.h): few may wait.
constexpr int kBacklog = 64;

}  // namespace

base::Result<sched::Doors> openDoors(std::span<base::Fd> fds) {
  if (fds.size() != kDoorFds)
    return base::fail(base::Code::resourceExhausted,
                      "of a box's 2 doors " + std::to_string(fds.size()) +
                          " arrived: the daemon has no descriptor free",
                      "Raise the limit on its open files (LimitNOFILE, ulimit -n).");
  if (auto sound = base::checkBoundLocal(fds[0].view(), wire::kDoorPath); !sound)
    return base::fail(std::move(sound).error().in("the box's first door"));
  if (auto sound = base::checkBoundLoopback(fds[1].view(), wire::kDoorPort); !sound)
    return base::fail(std::move(sound).error().in("the box's second door"));
  return sched::Doors{std::move(fds[0]), std::move(fds[1])};
}

base::Status listenOn(const sched::Doors& doors) {
  MAYFLY_CHECK(base::listenOn(doors.local.view(), kBacklog));
  return base::listenOn(doors.tcp.view(), kBacklog);
}

}  // namespace mayfly::core
