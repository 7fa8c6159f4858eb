#include "front/door.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

namespace mayfly::front {

// --- Capacity --------------------------------------------------------------------

bool Capacity::openDoor() {
  if (left_ < guaranteed_) return false;
  left_ -= guaranteed_;
  return true;
}

bool Capacity::add(uint32_t count) {
  if (count < guaranteed_) return true;
  if (left_ == 0) return false;
  --left_;
  return true;
}

void Capacity::remove(uint32_t count) {
  if (count > guaranteed_) ++left_;
}

// --- Door ------------------------------------------------------------------------

// A connection until its end.
struct Door::Held {
  Held(Door& its_door, base::Fd socket, Transport transport)
      : door(its_door), connection(its_door.context_, std::move(socket), transport) {
    place = door.connections_.insert(door.connections_.end(), &connection);
    ++door.count_;
  }
  ~Held() noexcept(false) {
    door.connections_.erase(place);
    door.shared_.capacity.remove(door.count_--);
    door.awaitConnections();
  }
  KJ_DISALLOW_COPY(Held);
  Door& door;
  Connection connection;
  std::list<Connection*>::iterator place;
};

Door::Door(Shared shared, uint64_t session, uint32_t connections_max, base::Fd local, base::Fd tcp)
    : shared_(shared),
      context_{shared.port,
               shared.vault,
               shared.options,
               {shared.gate, shared.options.calls_per_door_max},
               BufferPurse(shared.options.buffer_bytes_per_door_max),
               session},
      connections_max_(connections_max),
      listeners_{Listener{Descriptor(shared.port.host(), local.get()), Transport::local},
                 Listener{Descriptor(shared.port.host(), tcp.get()), Transport::tcp}},
      self_(std::make_shared<Door*>(this)),
      tasks_(kj::heap<kj::TaskSet>(*this)) {
  local.release();
  tcp.release();
  awaitConnections();
}

Door::~Door() noexcept(false) {
  *self_ = nullptr;
  for (Listener& listener : listeners_) listener.broken = true;
  tasks_ = nullptr;
  shared_.capacity.closeDoor();
}

void Door::awaitConnections() {
  if (count_ >= connections_max_) return;
  for (Listener& listener : listeners_) {
    if (listener.waiting || listener.broken) continue;
    listener.waiting = true;
    listener.socket.async_wait(Descriptor::wait_read,
                               [self = self_, &listener](boost::system::error_code failed) {
                                 if (failed || *self == nullptr) return;
                                 listener.waiting = false;
                                 (*self)->acceptSome(listener);
                               });
  }
}

// The others stay in the kernel's queue until the host's other handlers have run. If there is no
// room, the next look comes with a sweep, or with the end of a connection.
void Door::acceptSome(Listener& listener) {
  for (uint32_t i = 0; i < kAcceptsPerTurnMax && count_ < connections_max_; ++i) {
    if (!shared_.capacity.add(count_)) return;
    base::Fd socket(
        ::accept4(listener.socket.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      const int error = errno;
      shared_.capacity.remove(count_ + 1);
      if (error == EINTR || error == ECONNABORTED) continue;
      if (error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS) return;
      listener.broken = error != EAGAIN;
      break;
    }
    serve(std::move(socket), listener.transport);
  }
  awaitConnections();
}

// The capacity has counted the connection.
void Door::serve(base::Fd socket, Transport transport) {
  const int on = 1, send_bytes = kSendBufferBytes;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes);
  if (transport == Transport::tcp)
    ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ++accepted_;
  kj::Own<Held> held;
  auto fault = kj::runCatchingExceptions(
      [&] { held = kj::heap<Held>(*this, std::move(socket), transport); });
  if (fault != nullptr) return shared_.capacity.remove(count_ + 1);  // the kernel has no room
  auto served = held->connection.run();
  tasks_->add(served.attach(kj::mv(held)));
}

void Door::sweep(kj::TimePoint now) {
  for (Connection* connection : connections_) connection->sweep(now);
  awaitConnections();
}

}  // namespace mayfly::front
