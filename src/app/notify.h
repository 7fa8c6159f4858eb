// Tells the service manager that the daemon serves (sd_notify(3), systemd's Type=notify).
//
// libsystemd's own call opens its socket when it tells; by then the daemon can open none. So the
// socket is connected at the start and kept.
//
// Layer: app. Called once, at start, as root.
#pragma once

#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace mayfly::app {

inline constexpr std::string_view kNotifyReady = "READY=1";

// The socket that `address` names, the value of NOTIFY_SOCKET: a path, or "@" and an abstract name.
// Writes to it never wait. No address (nullptr, empty): no descriptor.
base::Result<base::Fd> connectNotify(const char* address);

}  // namespace mayfly::app
