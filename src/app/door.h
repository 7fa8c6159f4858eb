// Who may connect, and the socket that lets them.
//
// The server asks the kernel for each peer's ids; the socket's mode only keeps others away earlier,
// where a mode can say it.
//
// Layer: app. Called once, at start, as root: later the daemon sees neither files nor names.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "config/daemon.h"

namespace mayfly::app {

// Besides root.
struct Allowed {
  std::vector<uid_t> uids;
  std::vector<gid_t> gids;
};
// Looks up the names of `uids_allowed` and `gids_allowed`; one that the host does not know is an
// error.
base::Result<Allowed> whoMayConnect(const config::Daemon& settings);

// Root owns the socket.
struct SocketMode {
  mode_t mode = 0600;  // root only
  gid_t group = 0;
};
// 0600 if nobody else may connect, 0660 if it is one group, else 0666.
SocketMode socketModeFor(const Allowed& allowed);

// Binds and listens. Replaces a dead daemon's socket, and no other file. Nobody can connect before
// the mode is in force.
base::Result<base::Fd> listenAt(const std::string& path, uint32_t connections_max,
                                const SocketMode& mode);

}  // namespace mayfly::app
