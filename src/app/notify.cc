#include "app/notify.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <string>

#include "base/text.h"

namespace mayfly::app {

base::Result<base::Fd> connectNotify(const char* address) {
  if (address == nullptr || *address == '\0') return base::Fd();
  const std::string_view name = address;
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  if ((name[0] != '/' && name[0] != '@') || name.size() >= sizeof to.sun_path)
    return base::fail(base::Code::invalidArgument,
                      "NOTIFY_SOCKET is '" + base::printable(name) +
                          "', neither a path nor '@' and a name, of at most " +
                          std::to_string(sizeof to.sun_path - 1) + " bytes",
                      "Unset it, unless a service manager waits for the daemon.");
  memcpy(to.sun_path, name.data(), name.size());
  if (name[0] == '@') to.sun_path[0] = '\0';
  base::Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return base::failSys(errno, "socket", name);
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), length) != 0)
    return base::failSys(errno, "connect", "NOTIFY_SOCKET=" + std::string(name));
  return fd;
}

}  // namespace mayfly::app
