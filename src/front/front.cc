#include "front/front.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include <boost/asio/io_context.hpp>
#include <fmt/format.h>

#include "front/walls.h"
#include "wire/broker_check.h"
#include "wire/door_check.h"

namespace mayfly::front {

namespace {

using base::Code;

// All that it does are KJ's events: what a request needs is done in one turn.
constexpr edge::TurnBounds kTurn{
    .events_max = 1'024, .time_max = std::chrono::milliseconds(1), .events_per_clock = 8};
constexpr uint64_t kOtherFilesMax = 64;  // beside connections and listening sockets
constexpr uint64_t kFilesPerDoor = 2;

// How many connections the open files allow: each guaranteed one may need its part of a door.
uint32_t connectionsFor(const Options& options) {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return options.connections_guaranteed;
  const uint64_t all = files.rlim_cur > kOtherFilesMax ? files.rlim_cur - kOtherFilesMax : 0;
  const uint64_t guaranteed = options.connections_guaranteed;
  return static_cast<uint32_t>(
      std::min<uint64_t>(options.connections_max, all * guaranteed / (guaranteed + kFilesPerDoor)));
}

template <class Message>
base::Status take(std::span<const std::byte> bytes, const base::Received& got, Message& message) {
  ::memcpy(static_cast<void*>(&message), bytes.data(), std::min(bytes.size(), sizeof message));
  const wire::Checked checked = wire::check(message, bytes.size(), got.fds);
  if (checked.fault == wire::Checked::Fault::none) return base::Unit{};
  return base::fail(Code::internal,
                    fmt::format("a message is not of the protocol: {}", checked.what));
}

int optionOf(const base::Fd& socket, int option) {
  int value = -1;
  socklen_t bytes = sizeof value;
  if (::getsockopt(socket.get(), SOL_SOCKET, option, &value, &bytes) != 0) return -1;
  return value;
}

// What `accept` is to be called on must be a listening stream socket, and not block the loop.
base::Status checkListener(const base::Fd& socket, bool local) {
  const int domain = optionOf(socket, SO_DOMAIN);
  const bool expected = local ? domain == AF_UNIX : domain == AF_INET || domain == AF_INET6;
  if (!expected || optionOf(socket, SO_TYPE) != SOCK_STREAM || optionOf(socket, SO_ACCEPTCONN) != 1)
    return base::fail(Code::internal, "a door's descriptor is no listening socket of its kind");
  return base::setNonblocking(socket.view());
}

}  // namespace

Front::Front(edge::AsioPort& port, base::Fd supervisor, base::Fd doors, Options options,
             std::function<void(std::string)> on_end)
    : port_(port),
      options_(options),
      on_end_(on_end),
      vault_(port),
      gate_(port, options_.starts_per_turn_max),
      capacity_(connectionsFor(options_), options_.connections_guaranteed),
      supervisor_link_(
          port.host(), std::move(supervisor),
          [this](auto bytes, base::Received& got) { return onVault(bytes, got); },
          [on_end](std::string why) { on_end("the supervisor's link: " + why); }),
      door_link_(
          port.host(), std::move(doors),
          [this](auto bytes, base::Received& got) { return onDoor(bytes, got); },
          [on_end](std::string why) { on_end("the link of doors: " + why); }),
      sweep_(sweep().eagerlyEvaluate(nullptr)) {}

base::Status Front::onVault(std::span<const std::byte> bytes, base::Received& got) {
  wire::FrontMessage message;
  MAYFLY_CHECK(take(bytes, got, message));
  vault_.connect(std::move(got.fd[0]));
  return base::Unit{};
}

base::Status Front::onDoor(std::span<const std::byte> bytes, base::Received& got) {
  wire::DoorRequest request;
  MAYFLY_CHECK(take(bytes, got, request));
  if (request.kind == wire::DoorRequest::Kind::open)
    return openDoor(request.session, request.connections_max, got);
  closeDoor(request.session);
  return base::Unit{};
}

base::Status Front::openDoor(uint64_t session, uint32_t connections_max, base::Received& got) {
  if (doors_.contains(session)) return base::fail(Code::internal, "a door is opened twice");
  MAYFLY_CHECK(checkListener(got.fd[0], true));
  MAYFLY_CHECK(checkListener(got.fd[1], false));
  if (!capacity_.openDoor()) {
    // No room for one more: its connections are refused.
    got.fd[0].reset();
    got.fd[1].reset();
    closeDoor(session);
    return base::Unit{};
  }
  doors_.emplace(session,
                 kj::heap<Door>(Door::Shared{port_, vault_, options_, gate_, capacity_}, session,
                                connections_max, std::move(got.fd[0]), std::move(got.fd[1])));
  return base::Unit{};
}

void Front::closeDoor(uint64_t session) {
  wire::DoorEvent event;
  event.kind = wire::DoorEvent::Kind::closed;
  event.session = session;
  if (const auto door = doors_.find(session); door != doors_.end()) {
    event.accepted = door->second->accepted();
    event.refused = door->second->refused();
    doors_.erase(door);
  }
  door_link_.send(base::bytesOf(event));
}

kj::Promise<void> Front::sweep() {
  return port_.timer().afterDelay(options_.sweep_time.count() * kj::MILLISECONDS).then([this] {
    const kj::TimePoint now = port_.timer().now();
    for (auto& [session, door] : doors_) door->sweep(now);
    // Of a link that broke, the vault tells the supervisor, which makes another. If none comes, a
    // new front gets one.
    if (const auto since = vault_.lostSince();
        since && now - *since >= options_.vault_time.count() * kj::MILLISECONDS) {
      on_end_("the vault's link: it ended, and no other came");
      return kj::Promise<void>(kj::NEVER_DONE);
    }
    return sweep();
  });
}

int runFront(base::Fd supervisor, base::Fd doors, base::FdView log) {
  const auto say = [&](const std::string& what) {
    const std::string line = "mayfly-broker front: " + what + "\n";
    (void)!::write(log.get(), line.data(), line.size());
  };
  std::string ended;
  bool fault = true;
  boost::asio::io_context host{1};
  const auto end = [&](std::string why) {
    ended = std::move(why);
    fault = false;
    host.stop();
  };
  KJ_IF_MAYBE (thrown, kj::runCatchingExceptions([&] {
                 edge::AsioPort port(host, kTurn, [&](kj::Exception&& e) {
                   say(std::string("error: ") + e.getDescription().cStr());
                 });
                 base::Status ready = raiseOpenFiles();
                 Front front(port, std::move(supervisor), std::move(doors), Options{}, end);
                 if (ready) ready = putUpWalls(log);
                 if (ready)
                   host.run();
                 else
                   ended = ready.error().message;
               })) {
    ended = thrown->getDescription().cStr();
  }
  say((fault ? "error: " : "ends: ") + ended);
  return fault ? 1 : 0;
}

}  // namespace mayfly::front
