// The broker's front: the only part of it that reads what boxes write.
//
//   mayflyd     -- DoorRequest -->  front  -- broker.capnp (Calls) -->  vault
//   supervisor  -- FrontMessage --> front                     (the link to the vault)
//
// It holds no secret, opens no file and makes no connection: every socket comes to it.
//
// Layer: front. One thread: Asio, and KJ as its guest.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "front/door.h"
#include "front/packet_link.h"

namespace mayfly::front {

class Front {
 public:
  // `on_end`: the supervisor's or mayflyd's link has ended, or broke the protocol; or the vault's
  // has, and no other came.
  Front(edge::AsioPort& port, base::Fd supervisor, base::Fd doors, Options options,
        std::function<void(std::string)> on_end);
  KJ_DISALLOW_COPY(Front);

 private:
  base::Status onVault(std::span<const std::byte> bytes, base::Received& got);
  base::Status onDoor(std::span<const std::byte> bytes, base::Received& got);
  base::Status openDoor(uint64_t session, uint32_t connections_max, base::Received& got);
  void closeDoor(uint64_t session);
  kj::Promise<void> sweep();

  edge::AsioPort& port_;
  Options options_;
  std::function<void(std::string)> on_end_;
  VaultLink vault_;
  Gate gate_;
  Capacity capacity_;
  std::map<uint64_t, kj::Own<Door>> doors_;
  PacketLink supervisor_link_, door_link_;
  kj::Promise<void> sweep_;
};

// The program `mayfly-broker front`: puts up the process's walls, then serves until a link ends.
// `supervisor`: the link of FrontMessage; `doors`: of DoorRequest; `log`: for a few lines, stays
// open. The caller has dropped root. Returns the exit code.
int runFront(base::Fd supervisor, base::Fd doors, base::FdView log);

}  // namespace mayfly::front
