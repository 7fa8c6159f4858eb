#include "wire/door_check.h"

namespace mayfly::wire {

namespace {

constexpr Checked badDoor(const char* what) { return {Checked::Fault::language, what}; }

template <class Message>
Checked doorFrame(const Message& message, size_t bytes) {
  if (bytes != sizeof message) return badDoor("its size is wrong");
  if (message.magic != kBrokerMagic) return badDoor("its magic is wrong");
  if (message.version != kBrokerVersion) return badDoor("its version is wrong");
  if (message.session == 0) return badDoor("session 0 does not exist");
  return {};
}

}  // namespace

Checked check(const DoorRequest& r, size_t bytes, size_t fds) {
  if (Checked framed = doorFrame(r, bytes); framed.fault != Checked::Fault::none) return framed;
  switch (r.kind) {
    case DoorRequest::Kind::open:
      if (fds != 2) return badDoor("a door has two descriptors");
      if (r.connections_max == 0 || r.connections_max > kDoorConnectionsMax)
        return badDoor("the number of connections is out of range");
      return {};
    case DoorRequest::Kind::close:
      return fds == 0 ? Checked{} : badDoor("a close has no descriptors");
  }
  return badDoor("its kind is unknown");
}

Checked check(const DoorEvent& e, size_t bytes, size_t fds) {
  if (Checked framed = doorFrame(e, bytes); framed.fault != Checked::Fault::none) return framed;
  if (e.kind != DoorEvent::Kind::closed) return badDoor("its kind is unknown");
  return fds == 0 ? Checked{} : badDoor("an event has no descriptors");
}

}  // namespace mayfly::wire
