#include "vault/log.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace mayfly::vault {

void openLog() {
  // Other processes share the flags of a pipe's end, so it is opened anew; a socket cannot be.
  const int own = ::open("/proc/self/fd/2", O_WRONLY | O_APPEND | O_NONBLOCK | O_CLOEXEC);
  if (own >= 0) ::dup3(own, STDERR_FILENO, 0);
  if (own >= 0) ::close(own);
}

void say(std::string_view level, const std::string& text) {
  const std::string line = "mayfly-broker vault: " + std::string(level) + ": " + text + "\n";
  if (::send(STDERR_FILENO, line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
    (void)!::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace mayfly::vault
