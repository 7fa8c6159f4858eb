#include "wire/door_check.h"

namespace mayfly::wire {

namespace {

constexpr Checked language(const char* what) { return {Checked::Fault::language, what}; }

template <class Message>
Checked frame(const Message& message, size_t bytes) {
  if (bytes != sizeof message) return language("its size is wrong");
  if (message.magic != kBrokerMagic) return language("its magic is wrong");
  if (message.version != kBrokerVersion) return language("its version is wrong");
  if (message.session == 0) return language("session 0 does not exist");
  return {};
}

}  // namespace

Checked check(const DoorRequest& r, size_t bytes, size_t fds) {
  if (Checked framed = frame(r, bytes); framed.fault != Checked::Fault::none) return framed;
  switch (r.kind) {
    case DoorRequest::Kind::open:
      if (fds != 2) return language("a door has two descriptors");
      if (r.connections_max == 0 || r.connections_max > kDoorConnectionsMax)
        return language("the number of connections is out of range");
      return {};
    case DoorRequest::Kind::close:
      return fds == 0 ? Checked{} : language("a close has no descriptors");
  }
  return language("its kind is unknown");
}

Checked check(const DoorEvent& e, size_t bytes, size_t fds) {
  if (Checked framed = frame(e, bytes); framed.fault != Checked::Fault::none) return framed;
  if (e.kind != DoorEvent::Kind::closed) return language("its kind is unknown");
  return fds == 0 ? Checked{} : language("an event has no descriptors");
}

}  // namespace mayfly::wire
