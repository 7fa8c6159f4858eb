#include "client/connection.h"

#include <errno.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <thread>

#include "base/fd.h"
#include "base/text.h"
#include "edge/asio_port.h"
#include "edge/asio_stream.h"

namespace mayfly {

using base::Code;
using base::Error;
using base::fail;

namespace {

capnp::Capability::Client bootstrap(capnp::RpcSystem<capnp::rpc::twoparty::VatId>& rpc) {
  capnp::MallocMessageBuilder message(4);
  auto vat = message.getRoot<capnp::rpc::twoparty::VatId>();
  vat.setSide(capnp::rpc::twoparty::Side::SERVER);
  return rpc.bootstrap(vat);
}

base::Result<base::Fd> connectTo(const std::string& path, uint64_t deadline_ms) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return fail(Code::invalidArgument,
                fmt::format("socket path '{}' is empty or longer than {} bytes",
                            base::printable(path), sizeof address.sun_path - 1));
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return base::failSys(errno, "socket", "AF_UNIX");
  // Bounds the wait while the daemon's queue of new connections is full.
  timeval wait{static_cast<time_t>(deadline_ms / 1'000),
               static_cast<suseconds_t>(deadline_ms % 1'000 * 1'000 + 1)};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
  int got;
  do {
    got = ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
  } while (got != 0 && errno == EINTR);
  if (got == 0) return fd;
  int err = errno;
  Error error = base::sysError(err, "cannot connect to the daemon: connect", path);
  if (err == ENOENT || err == ECONNREFUSED) {
    error.code = Code::unavailable;
    error.advice =
        "No daemon answers there. Start mayflyd, or name its socket by MAYFLY_SOCKET "
        "or --socket.";
  } else if (err == EACCES || err == EPERM) {
    error.code = Code::permissionDenied;
    error.advice =
        "Run it as root, or let the user in: `uids_allowed` and `gids_allowed` in the daemon's "
        "settings.";
  } else if (err == EAGAIN) {
    error.code = Code::resourceExhausted;
    error.advice = "The daemon's queue of new connections is full. Try again later.";
  }
  return fail(std::move(error));
}

}  // namespace

Wire::Wire(kj::Own<kj::AsyncIoStream> s, kj::Timer& t)
    : timer(t),
      stream(kj::mv(s)),
      messages(*stream),
      network(messages, capnp::rpc::twoparty::Side::CLIENT, edge::readerOptions()),
      rpc(capnp::makeRpcClient(network)),
      mayfly(bootstrap(rpc).castAs<schema::Mayfly>()),
      calls(*this) {}

Error Client::Connection::onOwnThread(const char* what) {
  return {Code::failedPrecondition,
          fmt::format("{}: called from within a callback of the same client", what),
          "Make the call on another thread.", 0};
}

Error Client::Connection::closed(const char* what) {
  return {Code::unavailable, fmt::format("{}: the connection was closed", what), {}, 0};
}

Error Client::Connection::late(const char* what, uint64_t deadline_ms) {
  return {
      Code::deadlineExceeded, fmt::format("{}: no answer within {} ms", what, deadline_ms), {}, 0};
}

std::shared_ptr<Client::Connection> Client::Connection::make() {
  return {new Connection, [](Connection* last) {
            if (last->loop != nullptr && last->loop->onThread())
              std::thread([last] { delete last; }).detach();
            else
              delete last;
          }};
}

Client::Connection::~Connection() {
  if (loop != nullptr) loop->stop();
}

base::Result<std::unique_ptr<Client>> Client::connect(const std::string& socket_path,
                                                      ConnectOptions options) {
  MAYFLY_TRY(base::Fd fd, connectTo(socket_path, options.call_deadline_ms));
  auto connection = Connection::make();
  connection->options = std::move(options);
  Connection* raw = connection.get();
  auto shared_fd = std::make_shared<base::Fd>(std::move(fd));
  MAYFLY_TRY(connection->loop, client::Loop::start(
                                   connection->options.served_by,
                                   [raw, shared_fd](edge::AsioPort& port) {
                                     raw->wire = std::make_unique<Wire>(
                                         edge::asioStream(port, std::move(*shared_fd)),
                                         port.timer());
                                   },
                                   [raw] { raw->wire.reset(); }));
  auto info = connection->call<ServerInfo>(
      "hello", connection->options.call_deadline_ms,
      [name = connection->options.client_name](Wire& wire) {
        auto request = wire.mayfly.helloRequest();
        request.setClient(edge::text(name));
        request.setProtocol(schema::PROTOCOL_VERSION);
        return request.send().then([](auto&& response) -> base::Result<ServerInfo> {
          MAYFLY_CHECK(edge::get(response.getError()));
          return get(response.getInfo());
        });
      });
  if (!info)
    return fail(std::move(info).error().in("cannot use the daemon at '" +
                                           base::printable(socket_path) + "'"));
  connection->server = std::move(*info);
  return std::unique_ptr<Client>(new Client(std::move(connection)));
}

}  // namespace mayfly
